"""An installation becomes findings: one file a subject, and what all of them share.

A member defines `look(site)`, a generator of findings; what is heavy to import is imported inside of it. It runs in a
process of its own (`__main__.py`), which `doctor.py` ends when it takes too long: what it has yielded by then counts.
It changes nothing but probe files of its own, which it removes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["problem", "warning", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    where: str = ""  # a path, a node, an address
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What is looked at: this machine, a lake, a running cluster, and what is meant to run there."""

    lake: str
    address: str | None = None  # of a Ray cluster
    workloads: tuple[str, ...] = ()  # files

    def stages(self) -> Iterator[tuple[str, str, Any]]:
        """Yield every stage that the workloads name: the workload's name, the stage's family, the stage."""
        from raycluster.declare.workload import load_workload

        for file in self.workloads:
            workload = load_workload(file)
            for family, stages in (("decode", workload.decode), ("encode", workload.encode)):
                yield from ((workload.name, family, stage) for stage in stages)
