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
from math import ceil
from typing import Any

from raycluster.account.owners import Jobs, Owner
from raycluster.engine.cluster import describe
from raycluster.place import Pool, begin, place
from raycluster.plan import Plan

_LOOK_SECONDS = 2.0
# New pools cost their start, some seconds of every worker: more room must have been there for so long, and work enough.
_CALM_SECONDS = 20.0
# Nodes that an autoscaler may start are asked for until what is left takes so long: one that is ready after three
# minutes is then worth its start.
_HORIZON_SECONDS = 300.0

_log = logging.getLogger(__name__)


class Share:
    """What one run may take, looked at again and again while it works."""

    def __init__(self, plan: Plan, owner: Owner, progress: Any) -> None:
        self.plan, self.owner, self.progress = plan, owner, progress
        self.pools = plan.pools
        self.jobs = Jobs()
        self.first = self.left = 0  # units of work of this round, and how many of them are not done yet
        self.began = time.monotonic()
        self.is_moving = False  # this round ends as soon as what is begun is done
        self.differs: float | None = None  # since when another size would be right (monotonic)
        self.deciding = threading.Lock()
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
        with suppress(Exception):  # the head is away: as it was, and the next look will tell
            self.pools = self._due()[0]  # by the pace of the round before
        with self.deciding:
            self.first, self.left, self.began, self.differs = left, left, time.monotonic(), None
            if self.is_moving:
                self._hold(False)
                self.is_moving = False
        return self.pools

    def _look(self) -> None:
        while not self.over.wait(_LOOK_SECONDS):
            with suppress(Exception):  # Ray may be busy; there is a next time
                due, most = self._due()
                with self.deciding:
                    self._compare(due, most)

    def _compare(self, due: tuple[Pool, ...], most: tuple[Pool, ...]) -> None:
        mine = [pool.actors for pool in self.pools]
        if self.is_moving:
            self._hold(True)  # again: the actor that was told may be another one by now
            return
        is_more = any(one.actors > other for one, other in zip(due, mine, strict=True))
        is_less = any(one.actors < other for one, other in zip(most, mine, strict=True))
        if not (is_more or is_less) or self.left <= mine[0]:  # what is left has all been begun
            self.differs = None
            return
        self.differs = self.differs or time.monotonic()
        if is_less or time.monotonic() - self.differs > _CALM_SECONDS:
            told = [pool.actors for pool in due]
            _log.info("goes on with %s workers instead of %s once they have ended what they have begun", told, mine)
            self._hold(True)
            self.is_moving = True

    def _hold(self, is_held: bool) -> None:
        import ray

        ray.get(self.progress.hold.remote(is_held), timeout=30)

    def _due(self) -> tuple[tuple[Pool, ...], tuple[Pool, ...]]:
        """Return the pools that this run should have now, and the largest that it may have."""
        cluster, beside = describe(), self.jobs.working()
        pools, problems = begin(self.plan.workload, cluster)
        if problems:  # the nodes that are left cannot hold them: others may come
            return self.pools, self.pools
        due = divide(pools, beside, self.owner)
        if not cluster.largest:
            return due, due
        most = divide(place(self.plan.workload, cluster.grown)[0], beside, self.owner)
        return larger(self.pools, due, most, left_seconds=self._left_seconds()), most

    def _left_seconds(self) -> float:
        """Return how long the rest takes at the pace of this round; 0 where there is none yet."""
        done = self.first - self.left
        return self.left / done * (time.monotonic() - self.began) if done > len(self.pools) else 0.0


def larger(mine: Iterable[Pool], due: Iterable[Pool], most: Iterable[Pool], *, left_seconds: float) -> tuple[Pool, ...]:
    """Return the pools of the nodes that are there, or larger ones if what is left takes long with those that are mine.

    So many workers that it would take five minutes, of those that there can be.
    """
    factor = left_seconds / _HORIZON_SECONDS
    wanted = (min(ceil(pool.actors * factor), could.actors) for pool, could in zip(mine, most, strict=True))
    return tuple(replace(one, actors=max(one.actors, more)) for one, more in zip(due, wanted, strict=True))


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
