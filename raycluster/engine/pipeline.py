"""Pools become one Ray Data pipeline, whose output is messages about fragments.

Ray Data schedules, retries and applies backpressure. Its own checkpointing and sinks are not used: both lose rows
with Lance (ray#59871, and one commit at the very end that a killed driver never reaches).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raycluster.engine.line import Job
from raycluster.engine.worker import Worker
from raycluster.errors import InvalidUse
from raycluster.plan import Plan, shards


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


def messages(plan: Plan, job: Job, progress: Any) -> Iterator[dict[str, Any]]:
    """Run the pools over the plan's objects and yield each message (schema `outlet.MESSAGE`) as it comes."""
    from ray.data import ActorPoolStrategy

    units: list[pa.Table] = list(shards(plan, sequential=plan.workload.source.sequential))
    if not units:
        return
    dataset = from_units(units)
    for index, pool in enumerate(plan.pools):
        actors = min(pool.actors, len(units)) if index == 0 else pool.actors
        dataset = dataset.map_batches(
            Worker,
            fn_constructor_kwargs={"job": job, "pool": index, "progress": progress},
            batch_size=None,  # one block, one unit
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=pool.needs.cpu,
            num_gpus=pool.needs.gpu or None,
            memory=pool.needs.memory or None,
        )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()
