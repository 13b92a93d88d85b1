"""The place where suspect media are decoded becomes a finding: a process of its own can be started, and ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from raycluster.cluster.look import Finding, Site

_FIX = "allow processes to be started (ulimit -u, the container's pids limit), and mount /dev/shm"


def look(_: Site) -> Iterator[Finding]:
    """Start a process as `engine/sandbox.py` does, and let it be killed."""
    from pebble import ProcessExpired, ProcessPool

    context = multiprocessing.get_context("spawn")
    try:
        context.Array("c", 8)  # what parent and child share; needs semaphores
        with ProcessPool(max_workers=1, context=context) as children:
            volunteers = children.schedule(_volunteer).result()
            try:
                children.schedule(_die).result()
            except ProcessExpired:
                pass
            else:
                yield Finding("problem", "a process that was killed was not noticed", fix=_FIX)
    except OSError as error:
        what = f"suspect media cannot be decoded in a process of their own: {error}"
        yield Finding("problem", what, fix=_FIX)
        return
    yield Finding("ok", "suspect media are decoded in a process of their own, whose death costs one object")
    if not volunteers:
        what = "the kernel does not let it volunteer to die first: where memory runs out, a whole worker may"
        yield Finding("note", what)


def _volunteer() -> bool:
    """Offer this process to the kernel's killer, as the sandbox's child does."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
