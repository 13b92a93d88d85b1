"""A run's part of the cluster: as many workers as are its due beside other runs, and more when nodes have come.

Ray gives a CPU to whoever asks first, and takes none back: a second run would wait for the first one's end. (Ray Data's
own coordinator divides node by node in whole numbers, so that of a node with one CPU two runs get none each; and a pool
whose workers are busy does not shrink. Tried on 2.60.) So every run looks now and then who works beside it. When its
part has changed, its workers end what they have begun and begin nothing more, and it goes on in pools of the new size.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from raycluster.account.owners import Jobs, Owner
from raycluster.engine.cluster import describe
from raycluster.place import Pool, place
from raycluster.plan import Plan

_LOOK_SECONDS = 2.0
# New pools cost their start, some seconds of every worker: more room must have been there for so long, and work enough.
_CALM_SECONDS = 20.0

_log = logging.getLogger(__name__)


class Share:
    """What one run may take, looked at again and again while it works."""

    def __init__(self, plan: Plan, owner: Owner, progress: Any) -> None:
        self.plan, self.owner, self.progress = plan, owner, progress
        self.pools = plan.pools
        self.jobs = Jobs()
        self.left = 0  # units of work that are not done yet
        self.is_moving = False  # this round ends as soon as what is begun is done
        self.differs: float | None = None  # since when another size would be right (monotonic)
        self.over = threading.Event()
        self.looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Share:
        self.looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.looking.join(timeout=_LOOK_SECONDS)

    def begin(self, left: int) -> tuple[Pool, ...]:
        """Begin a round of so many units; return the pools it may have."""
        self.left, self.differs = left, None
        if self.is_moving:
            self._hold(False)
            self.is_moving = False
        with suppress(Exception):  # the head is away: as planned, and the next look will tell
            self.pools = self._due()
        return self.pools

    def _look(self) -> None:
        while not self.over.wait(_LOOK_SECONDS):
            with suppress(Exception):  # Ray may be busy; there is a next time
                self._compare([pool.actors for pool in self._due()])

    def _compare(self, due: list[int]) -> None:
        mine = [pool.actors for pool in self.pools]
        if self.is_moving:
            self._hold(True)  # again: the actor that was told may be another one by now
            return
        if due == mine or self.left <= mine[0]:  # what is left has all been begun
            self.differs = None
            return
        self.differs = self.differs or time.monotonic()
        is_less = any(one < other for one, other in zip(due, mine, strict=True))
        if is_less or time.monotonic() - self.differs > _CALM_SECONDS:
            _log.info("goes on with %s workers instead of %s once they have ended what they have begun", due, mine)
            self._hold(True)
            self.is_moving = True

    def _hold(self, is_held: bool) -> None:
        import ray

        ray.get(self.progress.hold.remote(is_held), timeout=30)

    def _due(self) -> tuple[Pool, ...]:
        """Return the pools that this run may have now; those it has where the nodes that are left hold them not."""
        pools, problems = place(self.plan.workload, describe())
        return self.pools if problems else divide(pools, self.jobs.working(), self.owner)


def divide(pools: Iterable[Pool], beside: Iterable[Owner], mine: Owner) -> tuple[Pool, ...]:
    """Return one run's part of pools: teams get equal parts, and so do the runs of a team among themselves.

    At least one worker each, and as many as are declared where `actors` says so.
    """
    runs = {(owner.team or "", owner.run_id or "") for owner in (*beside, mine)}
    teams = sorted({team for team, _ in runs})
    team, run = mine.team or "", mine.run_id or ""
    fellows = sorted(one for of, one in runs if of == team)

    def part(pool: Pool) -> Pool:
        if any(getattr(stage, "actors", None) for stage in pool.stages):
            return pool
        ours = _part(pool.actors, len(teams), teams.index(team))
        return replace(pool, actors=max(1, _part(ours, len(fellows), fellows.index(run))))

    return tuple(map(part, pools))


def _part(whole: int, number: int, place: int) -> int:
    """Cut a whole into parts that differ by one at most, and return one of them."""
    return whole // number + (place < whole % number)
