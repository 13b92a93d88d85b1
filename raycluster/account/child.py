"""A process that a metered worker starts becomes a metered one itself: what it does is told apart as the worker's is.

Without this the node agent sees it as the worker's, and bills it to whatever the worker is at. `engine/sandbox.py`
uses it, whose child does a whole unit's work, in stages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raycluster.account import meter
from raycluster.account.meter import Meter
from raycluster.account.slots import Tape


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a child has to know: where its worker's tape lies, whose it is, and which call it works for."""

    tapes: Path
    node: str
    owner: Mapping[str, Any]
    job: bytes
    task: str
    attempt: int  # 0: the first


def parent() -> Parent | None:
    """Describe this worker, in the call that it is in, for a child to `adopt`; None where it has no meter."""
    here = meter.here()
    if here is None:
        return None
    core = here.worker.core_worker
    return Parent(
        tapes=here.tape.path.parent,
        node=here.tape.node,
        owner=here.tape.owner,
        job=core.get_current_job_id().binary(),
        task=core.get_current_task_name() or "",
        attempt=core.get_current_task_attempt_number(),
    )


def adopt(parent: Parent | None) -> None:
    """Meter this process, a child of that worker."""
    if parent is None or meter.here() is not None:
        return
    tape = Tape(parent.tapes / str(os.getpid()), node=parent.node)
    tape.own(dict(parent.owner))
    meter.use(Meter(tape, SimpleNamespace(core_worker=_Core(parent))))


class _Core:
    """Answers what a meter asks of Ray, which is not here, as it would have answered the parent."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent

    def get_current_task_name(self) -> str:
        return self.parent.task

    def get_current_task_attempt_number(self) -> int:
        return self.parent.attempt

    def get_current_job_id(self) -> Any:
        return SimpleNamespace(binary=lambda: self.parent.job)
