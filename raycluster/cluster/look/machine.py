"""Memory and load become findings: what this machine, or its container, has left for Ray and its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raycluster.cluster.look import Finding, Site
from raycluster.units import show_bytes

_KILLS_SHARE = 0.95  # Ray's memory monitor kills tasks from here on (memory_usage_threshold)
_NEARLY_SHARE = 0.85
_LITTLE = 4 * 10**9  # bytes; Ray, a driver and one worker with torch and a model take about 3
_BUSY = 4  # runnable processes a CPU
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_STAT = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")


def look(_: Site) -> Iterator[Finding]:
    """Compare what is used with what there is, as the container's limit or the machine says it."""
    yield _memory()
    yield _load()


def _memory() -> Finding:
    total, free = _machine()
    if limit := _container():
        total, free = min(total, limit[0]), min(free, limit[1])
    used = 1 - free / total
    told = f"{show_bytes(free)} of {show_bytes(total)} of memory are free"
    told += " (the container's limit)" if limit else ""
    fix = "end what holds it (ps aux --sort=-rss | head), or give workers less: `needs: {memory: ...}` of a stage"
    if used > _KILLS_SHARE:
        return Finding("problem", f"{told}: Ray kills tasks on a machine that is 95 % full", fix=fix)
    if used > _NEARLY_SHARE:
        return Finding("warning", f"{told}; at 95 % full Ray kills tasks", fix=fix)
    if free < _LITTLE:
        return Finding("warning", f"{told}: little for Ray and one worker with a model", fix=fix)
    return Finding("ok", told)


def _load() -> Finding:
    load, cpus = os.getloadavg()[0], len(os.sched_getaffinity(0))
    told = f"load {load:.1f} on {cpus} CPUs"
    if load > _BUSY * cpus:
        return Finding("note", f"{told}: what starts now starts late", fix="look at what runs: top")
    return Finding("ok", told)


def _machine() -> tuple[int, int]:
    """Return total and available bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {fields[0]: int(fields[1]) * 1024 for fields in lines}
    return found["MemTotal:"], found["MemAvailable:"]


def _container() -> tuple[int, int] | None:
    """Return the limit of this container and what is left of it; None where it has none. Cache can be given up."""
    for limit, used, stat in zip(_LIMITS, _USED, _STAT, strict=True):
        try:
            most = int(Path(limit).read_text())
            holds = int(Path(used).read_text())
            kept = dict(line.split() for line in Path(stat).read_text().splitlines())
        except (OSError, ValueError):  # not this version of cgroups; or `max`
            continue
        if most < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            return most, most - holds + int(kept.get("inactive_file", kept.get("total_inactive_file", 0)))
    return None
