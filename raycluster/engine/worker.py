"""A unit of work goes in, a message about its fragments comes out: the actor of one pool, or a task of the only one.

Rows of the last pool are written where they were made: what travels back is the fragments' metadata and the sums.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from raycluster.account import hook, meter, tracing
from raycluster.account.log import Log
from raycluster.account.owners import owner_of
from raycluster.engine.line import Job, Line, modalities
from raycluster.engine.outlet import Outlet
from raycluster.engine.progress import HELD, Reporter
from raycluster.engine.sandbox import Sandbox
from raycluster.lake.write import size_bytes

_log = logging.getLogger(__name__)


class Worker:
    """Works through units: shards of references in the first pool, blocks of rows in later ones."""

    def __init__(self, job: Job, pool: int, progress: Any) -> None:
        hook.install()  # again to no effect, but where a program has started Ray by itself
        owner = asdict(owner_of(job.workload, job.run_id))
        meter.charge(owner)
        self.log = Log(owner, level=logging.INFO)  # until the process ends, or works for another run
        tracing.join(job.trace)
        _log.info("works in pool %d of %d", pool + 1, len(job.pools))
        self.job = job
        self.pool = pool
        self.is_last = pool == len(job.pools) - 1
        self.progress = progress
        self.reporter = Reporter(progress, workers=sum(pool.actors for pool in job.pools))
        self.line = Line(job, pool, self.reporter)
        self.sandbox = Sandbox(job, pool)

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        """Yield worked rows, or in the last pool one message."""
        if not unit.num_rows:  # of a unit that the pool before has held back
            return
        name = self._name(unit)
        begun = self._ask(self.progress.started, name)
        if begun == HELD:
            return
        with tracing.span(f"pool {self.pool + 1}", **{"run.id": self.job.run_id, "rows": unit.num_rows}):
            made = self._made(unit, name, begun)
        self.reporter.flush()
        yield made
        self.progress.finished.remote(name)

    def _made(self, unit: pa.Table, name: str, begun: int) -> pa.Table:
        # A unit that was begun before and not finished killed its process: look for the guilty object in a sandbox.
        if begun:
            _log.warning("unit %s was begun before and not finished: one object at a time from here on", name)
            rows = self.sandbox.run(unit, tried=lambda index: self._ask(self.progress.trying, name, index))
        else:
            meter.never_begun()
            rows = self.line.run(unit)
        if self.is_last:
            outlet = Outlet(self.job, self.line.missing)
            fragments = self.job.sink.write(outlet.good(rows))
            meter.count(bytes_written=size_bytes(fragments))
            return outlet.message(fragments)
        # One table, once all is done: were some rows already taken when this process dies, the second attempt,
        # which cuts them differently, could double or lose some.
        table = pa.Table.from_batches(list(rows))
        meter.lap("travel", modalities(table))  # what Ray does with it is not the last stage's
        return table

    def _name(self, unit: pa.Table) -> str:
        position = unit["position"][0].as_py() if "position" in unit.column_names else 0
        return f"{self.pool}:{unit['object_id'][0].as_py()}:{position}"

    def _ask(self, method: Any, *arguments: Any) -> int:
        """Ask the progress actor how often something was begun before; once, where it does not answer."""
        import ray

        try:
            # Not `ray.get`: a task that waits there lends its CPU to the next one, which starts a process of its own.
            return int(method.remote(*arguments).future().result())
        except ray.exceptions.RayError:
            return 1


class _Here:
    """Of this process: the worker that it is."""

    worker: Worker | None = None


def work(unit: pa.Table, *, run_id: str, job: bytes, progress: Any) -> Iterator[pa.Table]:
    """Work through a unit in a process that stays when its run ends: the next run finds imported what it needs.

    Ray ends it once it has had nothing to do for some minutes (`own.py`).

    Args:
        unit: as a `Worker` takes it.
        run_id: of the job.
        job: pickled, for it is unpacked once a run and not once a unit.
        progress: the run's `Progress` actor.
    """
    worker = _Here.worker
    if worker is None or worker.job.run_id != run_id:
        if worker is not None:
            worker.log.close()  # first: two that are open undo each other's settings
        before, _Here.worker = worker, None
        worker = _Here.worker = Worker(pickle.loads(job), 0, progress)
        if before is not None:
            worker.line.take_over(before.line)
    yield from worker(unit)
