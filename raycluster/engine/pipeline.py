"""Pools become one Ray Data pipeline, whose output is messages about fragments.

Ray Data schedules, retries and applies backpressure. Its own checkpointing and sinks are not used: both lose rows
with Lance (ray#59871, and one commit at the very end that a killed driver never reaches).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from raycluster.engine.line import Job
from raycluster.engine.own import QUEUED, is_own
from raycluster.engine.share import Share
from raycluster.engine.worker import Worker, work
from raycluster.errors import InvalidUse
from raycluster.place import Pool
from raycluster.plan import Plan, shards

# When a round is full: the driver holds 330 bytes an object, half of them in Ray's store, and 0.24 MB a unit, so some
# GB. The next round costs its pools' start, which at least two units for each worker are to outweigh.
_ROUND_OBJECTS = 1 << 24
_ROUND_UNITS = 1 << 14
_WORKER_UNITS = 2

# Held by the run whose processes stay: of two at once in a program, each would work on the other's bill.
_staying = threading.Lock()

_MOST_ORPHANED = 3  # nodes of drivers that may die under a run, before it is taken for something else

_log = logging.getLogger(__name__)


def require_no_checkpoints() -> None:
    """Refuse Ray Data's own checkpointing: it takes objects for done that nobody has committed.

    Raises:
        InvalidUse: this process has configured it.
    """
    from ray.data import DataContext

    if DataContext.get_current().checkpoint_config is not None:
        raise InvalidUse(
            "Ray Data's checkpointing is configured in this process: its ids are written before the rows are "
            "committed, so a run that is killed and started again loses rows (ray#59871)",
            fix="set ray.data.DataContext.get_current().checkpoint_config = None; a run goes on where the last one "
            "stopped without it",
        )


def from_units(units: list[pa.Table]) -> Any:
    """Return a Ray dataset of which each block is one unit of work."""
    import ray.data

    # `from_arrow` starts a task a table, to count its rows in a worker: two workers more that import Ray Data first.
    return ray.data.from_blocks(units)


def messages(plan: Plan, job: Job, progress: Any, share: Share) -> Iterator[dict[str, Any]]:
    """Work through the plan's objects and yield each message (schema `outlet.MESSAGE`) as it comes.

    Pools are actors of Ray Data's, which end with the run. On a Ray of our own the only pool is tasks of Ray's worker
    processes, which stay: a second run in a program then takes some 4 CPU-seconds less, for imports and models. Not for
    several pools, which would take each other's processes, nor with a GPU, whose memory would stay taken; nor on a
    cluster, whose autoscaler is asked by pending actors.
    """
    stays = len(plan.pools) == 1 and not plan.pools[0].needs.gpu and is_own() and _staying.acquire(blocking=False)
    try:
        yield from _rounds(plan, job, progress, share, stays)
    finally:
        if stays:
            _staying.release()


def _rounds(plan: Plan, job: Job, progress: Any, share: Share, stays: bool) -> Iterator[dict[str, Any]]:
    """Work in rounds: one, unless the run's share of the cluster changes, or its references are too many to be held."""
    from ray.exceptions import ActorUnschedulableError

    units = shards(plan, sequential=plan.workload.source.sequential)
    left: dict[str, pa.Table] = {}
    orphaned = 0  # rounds that ended because an actor of Ray Data's own did
    while _top_up(left, units, workers=plan.pools[0].actors):
        pools = share.begin(len(left))
        try:
            for message in _round(list(left.values()), pools, job, progress, stays):
                for one in message["objects"]:
                    left.pop(one["object_id"], None)
                share.left = len(left)
                yield message
        except ActorUnschedulableError:
            # Actors that all of a cluster's datasets share are pinned to the node of the driver that came first
            # (ActorLocationTracker, AutoscalingCoordinator; Ray 2.60), which may die under everybody else. Asked for
            # again, they are made anew, here; what had been begun is done again. Delete when they are not pinned.
            orphaned += 1
            if orphaned > _MOST_ORPHANED:
                raise
            _log.warning(
                "an actor that Ray Data keeps for all drivers went with its node: what was begun is done again"
            )
            continue
        if left and not share.is_moving:
            return  # the tally will say what has not come out


def _top_up(left: dict[str, pa.Table], units: Iterator[pa.Table], *, workers: int) -> int:
    """Take units for a round, beside those that are left of the last one; return how many there are."""
    objects = sum(unit.num_rows for unit in left.values())
    while len(left) < _WORKER_UNITS * workers or (objects < _ROUND_OBJECTS and len(left) < _ROUND_UNITS):
        if (unit := next(units, None)) is None:
            break
        left[unit["object_id"][0].as_py()] = unit
        objects += unit.num_rows
    return len(left)


def _round(
    units: list[pa.Table], pools: Sequence[Pool], job: Job, progress: Any, stays: bool
) -> Iterator[dict[str, Any]]:
    """Run the pools over units of work, and yield the messages of those that were begun."""
    from ray import cloudpickle
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    dataset = from_units(units)
    for index, pool in enumerate(pools):
        most = pool.actors * QUEUED if stays else pool.actors
        size = min(most, len(units)) if index == 0 else most
        if stays:
            packed: bytes = cloudpickle.dumps(job)  # type: ignore[no-untyped-call]
            told = {"run_id": job.run_id, "job": packed, "progress": progress}
            how = {"fn": work, "fn_kwargs": told, "compute": TaskPoolStrategy(size=size)}
        else:
            told = {"job": job, "pool": index, "progress": progress}
            how = {"fn": Worker, "fn_constructor_kwargs": told, "compute": ActorPoolStrategy(size=size)}
        dataset = dataset.map_batches(
            **how,
            batch_size=None,  # one block, one unit
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=pool.needs.cpu,
            num_gpus=pool.needs.gpu or None,
            memory=pool.needs.memory or None,
        )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()
