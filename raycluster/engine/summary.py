"""A run becomes what is told of it: while it goes on, and when it has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from raycluster.engine.progress import Pace
from raycluster.lake.index import Indexed
from raycluster.lake.runs import Status
from raycluster.units import NanoUsd


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
    idle: float | None = None  # seconds until the first worker was heard of; None: none yet
    cost: NanoUsd | None = None  # as far as it is settled, which it is once a minute; None: not yet

    @property
    def worked(self) -> float:
        """Return for how many seconds work has been done."""
        return 0.0 if self.idle is None else self.seconds - self.idle

    @property
    def rate(self) -> float | None:
        """Return how many objects are finished in a second; None where that cannot be told yet."""
        return self.done / self.worked if self.done and self.worked > 0 else None

    @property
    def left_seconds(self) -> float | None:
        """Return how long the rest will take at this rate."""
        return (self.objects - self.done) / self.rate if self.rate else None

    @property
    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it: `rate` of a stage is rows a second, its `seconds` those of all its workers."""
        paces = {
            name: {**asdict(pace), "rate": pace.rows / self.worked if self.worked > 0 else None}
            for name, pace in self.stages.items()
        }
        names = ("objects", "done", "rows", "bad", "read_bytes", "seconds", "rate", "left_seconds")
        cost = None if self.cost is None else self.cost / 1e9
        return {**{name: getattr(self, name) for name in names}, "cost_usd": cost, "stages": paces}
