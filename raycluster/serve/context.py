"""Settings become what one replica works with: the lake, its datasets at hand, the gate, the encoders."""

from __future__ import annotations

from dataclasses import dataclass

from raycluster.govern.gate import Gate
from raycluster.lake.access import Access
from raycluster.lake.follow import Follower
from raycluster.lake.lake import Lake
from raycluster.lake.table import Table
from raycluster.serve.measure import Metrics
from raycluster.serve.settings import Settings


@dataclass(frozen=True)
class Seen:
    """A dataset as one principal may see it."""

    table: Table
    access: Access


@dataclass
class Context:
    """What every endpoint of one replica shares."""

    settings: Settings
    lake: Lake
    follower: Follower
    gate: Gate
    metrics: Metrics

    @classmethod
    def open(cls, settings: Settings) -> Context:
        """Open a lake for serving."""
        lake = Lake(settings.lake)
        follower = Follower(lake, every=settings.follow)
        follower.start()
        return cls(
            settings=settings,
            lake=lake,
            follower=follower,
            gate=Gate(settings.rules, lake),
            metrics=Metrics(lake, follower),
        )

    def close(self) -> None:
        """Stop what runs beside the requests."""
        self.follower.stop()
