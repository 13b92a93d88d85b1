"""A run becomes what is told of it: while it goes on, and when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from raycluster.engine.progress import Pace
from raycluster.lake.index import Indexed
from raycluster.lake.runs import Status


@dataclass(kw_only=True)
class Summary:
    """What became of a run. `objects` = ingested + `quarantined` + `dropped` + `skipped`, or the run has failed."""

    run_id: str
    workload: str
    dataset: str
    status: Status = "running"
    version: int | None = None
    objects: int = 0  # listed by the source
    size_bytes: int = 0  # of those that were to be worked on
    rows: int = 0  # committed
    quarantined: int = 0  # objects of which nothing could be used
    dropped: int = 0  # the same, where the workload says `on_bad: drop`
    bad_rows: int = 0
    skipped: int = 0  # objects already done
    replaced: int = 0  # rows of changed or pruned objects that went
    filled: int = 0  # rows that were there and got new columns
    seconds: float = 0.0
    cost_usd: float | None = None  # None: nothing was worked on, or it cannot be told (`message` says why)
    codes: dict[str, int] = field(default_factory=dict)
    indexes: list[Indexed] = field(default_factory=list)
    message: str = ""
    declaration: str = ""  # digest of what the workload's stages declared
    follows: str | None = None  # the workload's last run before this one, on whose rows it builds


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a run has come; for people."""

    objects: int
    done: int
    rows: int
    bad: int
    read_bytes: int
    seconds: float
    stages: dict[str, Pace]
