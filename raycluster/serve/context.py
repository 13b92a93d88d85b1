"""Settings become what one replica works with: the lake, its datasets at hand, the gate, encoders, who runs uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from raycluster.engine.intake import Intake
from raycluster.fetch import cache_folder
from raycluster.govern.gate import Gate
from raycluster.lake.access import Access
from raycluster.lake.follow import Follower
from raycluster.lake.heat import Heat
from raycluster.lake.lake import Lake
from raycluster.lake.table import Table
from raycluster.search import Embedded, Question, embed
from raycluster.serve import trace
from raycluster.serve.measure import Metrics
from raycluster.serve.settings import Settings

Embed = Callable[[str, "int | str", Question], Awaitable[Embedded]]


class Runner(Protocol):
    """Whoever has uploads run: one for all replicas."""

    async def submit(self, dataset: str, batch: str) -> str:
        """Have a batch run that has landed; return the id of its run."""


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
    embed: Embed  # dataset, version and question -> what can be searched for
    intake: Runner

    @classmethod
    def open(cls, settings: Settings, **elsewhere: Any) -> Context:
        """Open a lake for serving.

        Args:
            settings: what is served, and how.
            elsewhere: `embed` and `intake`, where others do that; otherwise this process does it itself.
        """
        lake = Lake(settings.lake)
        heat = Heat(cache_folder() / "hot", settings.hot)
        follower = Follower(lake, every=settings.follow, heat=heat)
        follower.start()
        gate, metrics = Gate(settings.rules, lake), Metrics(lake, follower)
        metrics.watch(gate)
        return cls(
            settings=settings,
            lake=lake,
            follower=follower,
            gate=gate,
            metrics=metrics,
            embed=elsewhere.get("embed") or _embeds_itself(follower),
            intake=elsewhere.get("intake") or _RunsItself(Intake(lake)),
        )

    def close(self) -> None:
        """Stop what runs beside the requests."""
        self.follower.stop()
        self.gate.close()
        trace.flush()
        if isinstance(self.intake, _RunsItself):
            self.intake.own.stop()


def _embeds_itself(follower: Follower) -> Embed:
    async def embedded(name: str, _: int | str, question: Question) -> Embedded:
        return await asyncio.to_thread(embed, follower.table(name), question)

    return embedded


@dataclass
class _RunsItself:
    own: Intake

    async def submit(self, dataset: str, batch: str) -> str:
        return await asyncio.to_thread(self.own.submit, dataset, batch)
