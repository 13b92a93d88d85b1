"""One unit of work becomes worked rows in a process that may die: a crash or a hang costs that unit only.

A worker comes here for units that it, or its dead predecessor, began before and never finished. Everything else runs
in the worker itself, so that good media pay nothing for bad ones.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycluster.account import child, hook
from raycluster.engine.line import Job, Line, failed, note_stage
from raycluster.errors import BadMedia
from raycluster.read import Reference
from raycluster.row import with_errors

_lines: dict[int, Line] = {}  # in the child: its line, opened once
_doing: Any = None  # in the child: memory shared with the parent, where it writes which stage it is in
_NAME_BYTES = 128


class Sandbox:
    """A child process that works through the units of one pool, one at a time, and is replaced when it dies."""

    def __init__(self, job: Job, pool: int) -> None:
        self.job = job
        self.pool = pool
        self._children: Any = None
        self._doing: Any = None

    def run(self, units: pa.Table, tried: Callable[[int], int] = lambda _: 0) -> Iterator[pa.RecordBatch]:
        """Yield the worked rows of every unit (a row of `units`: a reference, or a row of an earlier pool).

        Args:
            units: what to work on.
            tried: notes that the unit of an index is begun, and returns how often it was begun before. One that was
                took the whole worker along, as the cluster's memory monitor does it, and is not tried a third time.
        """
        try:
            for index in range(units.num_rows):
                unit = units.slice(index, 1)
                if tried(index) > 1:
                    yield self._casualty(unit, _verdict(-signal.SIGKILL), "memory")
                else:
                    yield from self._guarded(unit)
        finally:
            self.close()  # its models take as much memory as the worker's own

    def _guarded(self, unit: pa.Table) -> Iterator[pa.RecordBatch]:
        from pebble import ProcessExpired, ProcessPool

        if self._children is None:
            # spawn: a fork of a process that holds threads, locks and a CUDA context is not safe to run in
            context = multiprocessing.get_context("spawn")
            self._doing = context.Array("c", _NAME_BYTES)
            shared = [self._doing, child.parent(), bool(self.job.pools[self.pool].needs.gpu)]
            self._children = ProcessPool(max_workers=1, initializer=_share, initargs=shared, context=context)
        self._doing.value = b"read"
        try:
            future = self._children.schedule(_work, args=(self.job, self.pool, _pack(unit.to_batches())))
            yield from _unpack(future.result())
        except ProcessExpired as error:
            yield self._casualty(unit, _verdict(error.exitcode), self._doing.value.decode())

    def close(self) -> None:
        """End the child."""
        if self._children is not None:
            self._children.stop()
            self._children.join()
            self._children = None

    def _casualty(self, unit: pa.Table, verdict: BadMedia, stage: str) -> pa.RecordBatch:
        line = Line(self.job, self.pool)
        if self.pool == 0:
            one = unit.to_pylist()[0]
            reference = Reference(uri=one["uri"], version=one["version"], size=one["size"], locator=one["locator"])
            return line.blank(failed(reference, one["object_id"], verdict, stage))
        (rows,) = unit.combine_chunks().to_batches()
        return line.blank(note_stage(rows, with_errors(rows, {0: verdict}), stage))


def _work(job: Job, pool: int, unit: bytes) -> bytes:
    """Work through one unit, in the child."""
    done: bytes = hook.bracketed(_work_through)(job, pool, unit)
    return done


def _work_through(job: Job, pool: int, unit: bytes) -> bytes:
    if pool not in _lines:
        _lines[pool] = Line(job, pool)
        _lines[pool].enter = _note
    return _pack(list(_lines[pool].run(pa.Table.from_batches(_unpack(unit)))))


def _share(doing: Any, parent: child.Parent | None, has_gpu: bool) -> None:
    global _doing
    _doing = doing
    child.adopt(parent)
    if not has_gpu:  # it is no worker of Ray's, which would know (`encode/_torch.py`)
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with suppress(OSError):  # if memory runs out on this machine, the kernel shall take this process, not the worker
        Path("/proc/self/oom_score_adj").write_text("1000")


def _note(stage: str) -> None:
    _doing.value = stage.encode()[: _NAME_BYTES - 1]


def _verdict(status: int) -> BadMedia:
    """Say what an exit status of the child means; a negative one is the signal that ended it."""
    if status == -signal.SIGALRM:
        return BadMedia("timeout", "a stage gave no sign of life within its `timeout` on this object")
    if status == -signal.SIGKILL:
        return BadMedia("out_of_memory", "the process that worked on it was killed, most likely for its memory")
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return BadMedia("corrupt", f"the process that worked on it crashed ({name})")


def _pack(batches: list[pa.RecordBatch]) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(stream.getvalue())


def _unpack(packed: bytes) -> list[pa.RecordBatch]:
    return list(pa.ipc.open_stream(packed))
