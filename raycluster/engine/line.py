"""References or rows become worked rows: the stages of one pool, in one process.

Comes after `plan.py` made the pools; `worker.py` runs a line in a worker of Ray's, `sandbox.py` in a process that may
die. Stages are opened when the first row wants them: a corpus without video never loads a video decoder.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account import meter
from raycluster.check import Check
from raycluster.declare.workload import Workload
from raycluster.decode import Decode, batch_of, error_batch, rows_of, weight
from raycluster.engine.progress import Reporter
from raycluster.errors import BadMedia, MissingClient, MissingPackage
from raycluster.place import Pool
from raycluster.read import Reference
from raycluster.row import PAYLOAD, Media, Piece, with_errors
from raycluster.stage import arm_watch, watch

# An object's rows wait for its last one in memory up to this size, beyond it in a temporary file: an hour of video
# at one 224-pixel frame a second is 540 MB.
_HELD_BYTES = 64 << 20

# Encoders get rows in batches of this many rows or bytes: enough to fill model batches of one length, little memory.
_GATHER_ROWS = 512
_GATHER_BYTES = 16 << 20

# Columns that only the engine knows: how many rows the object has, and which stage set `error`.
_PIECES = pa.field("pieces", pa.int32())
_STAGE = pa.field("stage", pa.string())


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker of a run is told, once."""

    workload: Workload
    pools: tuple[Pool, ...]
    run_id: str
    sink: Any  # lake.table.Sink: where and how rows are written
    trace: dict[str, str] | None = None  # `account/tracing.py:carry`, of the driver


class Line:
    """The stages of one pool; the first pool's also read and decode."""

    def __init__(self, job: Job, pool: int, reporter: Reporter | None = None) -> None:
        self.source = job.workload.source
        self.decoders = {stage.modality: stage for stage in job.workload.decode}
        self.stages = [stage for stage in job.pools[pool].stages if not isinstance(stage, Decode)]
        self.first = pool == 0
        later = {name for later in job.pools[pool + 1 :] for stage in later.stages for name in stage.reads}
        self.spent = [name for name in PAYLOAD.names if name != "error" and name not in later]  # nobody reads it again
        self.reporter = reporter or Reporter(None)
        self.enter: Callable[[str], None] = lambda _: None  # told the name of each stage before it works
        arm_watch()
        self.missing: set[str] = set()  # stages whose package is not installed here
        self._opened: dict[int, Callable[[Any], Any]] = {}

    def run(self, unit: pa.Table) -> Iterator[pa.RecordBatch]:
        """Work through references (first pool) or rows (later pools)."""
        return self.work(self._rows(unit) if self.first else iter(unit.to_batches()))

    def work(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Work through rows that are there already; all their batches have the same columns."""
        return map(self._shed, map(self._work, gather(batches)))

    def _shed(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.drop_columns([name for name in self.spent if name in rows.schema.names])

    def blank(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows as `run` would, but with nothing computed: for rows that could not be worked on."""
        for stage in self.stages:
            rows = _with_columns(rows, stage)
        return self._shed(rows)

    def take_over(self, other: Line) -> None:
        """Take what another run has opened in this process, for stages that are declared alike."""
        for mine in (*self.decoders.values(), *self.stages):
            for its in (*other.decoders.values(), *other.stages):
                if id(its) in other._opened and its.name not in other.missing and mine == its:
                    self._opened[id(mine)] = other._opened[id(its)]

    def _open(self, stage: Any) -> Callable[[Any], Any]:
        if id(stage) not in self._opened:
            try:
                self._opened[id(stage)] = stage.decoder() if isinstance(stage, Decode) else stage.open()
            except MissingPackage as error:
                if isinstance(error, MissingClient):
                    raise  # without its weights no row of this stage would pass: the run's fault, not the media's
                self.missing.add(stage.name)
                verdict = BadMedia("unsupported", f"{error.message}: {error.fix}")
                refuse = partial(_refuse_object if isinstance(stage, Decode) else partial(_refuse, stage), verdict)
                self._opened[id(stage)] = refuse
        return self._opened[id(stage)]

    def _rows(self, unit: pa.Table) -> Iterator[pa.RecordBatch]:
        """Read and decode objects; each object's rows come together or not at all."""
        references = [
            Reference(uri=one["uri"], version=one["version"], size=one["size"], locator=one["locator"])
            for one in unit.to_pylist()
        ]
        identities = unit["object_id"].to_pylist()
        basket = _Basket()
        for (reference, media), identity in zip(self._fetched(references), identities, strict=True):
            if isinstance(media, BadMedia):
                yield from basket.empty()  # rows keep the order of their objects
                yield failed(reference, identity, media, "read")
                continue
            self.enter(media.modality)
            meter.lap(media.modality, {media.modality: 1})
            self.reporter.read_bytes += reference.size
            decoder = self.decoders.get(media.modality)
            if decoder is None:
                yield from basket.empty()
                verdict = BadMedia("unsupported", _not_asked_for(media, self.decoders))
                yield failed(reference, identity, verdict, "read", media=media)
                continue
            parts = self._timed(decoder.name, decoder.parts(self._open(decoder), media))
            first, second = next(parts), next(parts, None)
            if second is None and not isinstance(first, BadMedia):
                yield from basket.add(media, first)
            else:
                yield from basket.empty()
                yield from whole(media, chain([first], [] if second is None else [second], parts), decoder.name)
        yield from basket.empty()

    def _fetched(self, references: list[Reference]) -> Iterator[tuple[Reference, Media | BadMedia]]:
        fetched = iter(self.source.fetch(references))
        while True:
            meter.lap("read")
            if (one := next(fetched, None)) is None:
                return
            meter.count(rows_in=1, rows_out=1, bytes_read=one[0].size)
            yield one

    def _timed(self, name: str, parts: Iterator[list[Piece] | BadMedia]) -> Iterator[list[Piece] | BadMedia]:
        started = time.perf_counter()
        for part in parts:
            pieces = len(part) if isinstance(part, list) else 1
            self.reporter.add(name, pieces, time.perf_counter() - started)
            meter.count(rows_out=pieces)
            yield part
            started = time.perf_counter()

    def _work(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        for stage in self.stages:
            if not self._has_work(stage, rows):
                rows = _with_columns(rows, stage)
                continue
            self.enter(stage.name)
            worked_on = modalities(rows, stage.reads[0])
            meter.lap(stage.name, worked_on)
            started = time.perf_counter()
            work = self._open(stage)
            with watch(stage.timeout) if isinstance(stage, Check) else nullcontext():  # encoders watch each model call
                worked = work(rows)
            rows = note_stage(rows, worked, stage.name)
            done = sum(worked_on.values())
            meter.count(rows_in=done, rows_out=done)
            self.reporter.add(stage.name, done, time.perf_counter() - started)
        return rows

    def _has_work(self, stage: Any, rows: pa.RecordBatch) -> bool:
        column = rows.column(stage.reads[0]) if stage.reads[0] in rows.schema.names else None
        return column is not None and column.null_count < rows.num_rows


def modalities(rows: pa.RecordBatch | pa.Table, name: str = "modality") -> dict[str, int]:
    """Return how many rows of each modality have a value in a column: a stage's time is shared between them."""
    counts = pc.value_counts(rows.column("modality").filter(rows.column(name).is_valid()))
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _refuse_object(verdict: BadMedia, _: Media) -> Iterator[Piece]:
    """Stand in for a decoder whose package is missing."""
    raise verdict


def _refuse(stage: Any, verdict: BadMedia, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Stand in for a later stage whose package is missing: its own rows are bad, the others go on."""
    usable = np.logical_and(
        rows.column(stage.reads[0]).is_valid().to_numpy(False), rows.column("error").is_null().to_numpy(False)
    )
    errors = {int(index): verdict for index in np.flatnonzero(usable)}
    return with_errors(_with_columns(rows, stage), errors)


def _with_columns(rows: pa.RecordBatch, stage: Any) -> pa.RecordBatch:
    """Return rows with every column that a stage writes, null where it is not there yet."""
    for field in stage.writes:
        if field.name not in rows.schema.names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def _not_asked_for(media: Media, decoders: dict[str, Any]) -> str:
    asked = ", ".join(decoders)
    return f"{media.media_type} is {media.modality}, and this workload decodes only {asked}: add it or exclude the file"


def failed(
    reference: Reference, identity: str, verdict: BadMedia, stage: str, *, media: Media | None = None
) -> pa.RecordBatch:
    """Return the one row of an object that could not be read."""
    media = media or Media(object_id=identity, uri=reference.uri, sha256="", modality="", media_type="")
    return _sign(error_batch(media, verdict), pieces=1, stage=stage)


def _sign(rows: pa.RecordBatch, *, pieces: int | list[int], stage: str | None) -> pa.RecordBatch:
    counts = pieces if isinstance(pieces, list) else [pieces] * rows.num_rows
    rows = rows.append_column(_PIECES, pa.array(counts, _PIECES.type))
    return rows.append_column(_STAGE, pa.array([stage] * rows.num_rows, _STAGE.type))


def note_stage(before: pa.RecordBatch, after: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """Write the stage's name beside every error that it set."""
    new = np.logical_and(
        before.column("error").is_null().to_numpy(False), after.column("error").is_valid().to_numpy(False)
    )
    if not new.any():
        return after
    stages = after.column("stage").to_pylist()
    for index in np.flatnonzero(new):
        stages[index] = name
    return after.set_column(after.schema.get_field_index("stage"), _STAGE, pa.array(stages, _STAGE.type))


class _Basket:
    """Pieces of small whole objects, until there are enough for a batch: a batch an object costs it 0.8 ms."""

    def __init__(self) -> None:
        self.owned: list[tuple[Media, Piece]] = []
        self.pieces: list[int] = []
        self.size = 0

    def add(self, media: Media, pieces: list[Piece]) -> Iterator[pa.RecordBatch]:
        """Take the pieces of one object; yield a batch when there is enough for one."""
        light = replace(media, content=None, path=None)  # the object's bytes are not needed any more
        self.owned += [(light, piece) for piece in pieces]
        self.pieces += [len(pieces)] * len(pieces)
        self.size += sum(map(weight, pieces))
        if len(self.owned) >= _GATHER_ROWS or self.size >= _GATHER_BYTES:
            yield from self.empty()

    def empty(self) -> Iterator[pa.RecordBatch]:
        """Yield what there is."""
        if self.owned:
            yield _sign(rows_of(self.owned), pieces=self.pieces, stage=None)
            self.owned, self.pieces, self.size = [], [], 0


def whole(media: Media, parts: Iterator[list[Piece] | BadMedia], stage: str) -> Iterator[pa.RecordBatch]:
    """Hand on one object's rows once the last of them is decoded; if one is an error, only the error.

    An object is never half in the dataset, so a video that proves truncated after an hour must leave nothing.
    """
    held: list[pa.RecordBatch] = []
    size = rows = 0
    with ExitStack() as stack:
        spill: IO[bytes] | None = None
        for part in parts:
            if isinstance(part, BadMedia):
                yield _sign(error_batch(media, part), pieces=1, stage=stage)
                return
            held.append(batch_of(media, part))
            rows += len(part)
            size += held[-1].nbytes
            if size > _HELD_BYTES:
                spill = spill or stack.enter_context(tempfile.TemporaryFile(prefix="raycluster-"))
                _spill(spill, held)
                held, size = [], 0
        for batch in chain(_spilled(spill), held):
            yield _sign(batch, pieces=rows, stage=None)


def _spill(spill: IO[bytes], batches: list[pa.RecordBatch]) -> None:
    with pa.ipc.new_stream(spill, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _spilled(spill: IO[bytes] | None) -> Iterator[pa.RecordBatch]:
    if spill is None:
        return
    end = spill.tell()
    spill.seek(0)
    while spill.tell() < end:
        yield from pa.ipc.open_stream(spill)


def gather(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join small batches and cut large ones, so that encoders get enough rows at once, and never too many bytes."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in _cut(batches):
        held.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= _GATHER_ROWS or size >= _GATHER_BYTES:
            yield _joined(held)
            held, rows, size = [], 0, 0
    if held:
        yield _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)  # which copies a single one, too


def _cut(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _GATHER_ROWS):
            yield batch.slice(start, _GATHER_ROWS)


__all__ = ["Job", "Line", "failed", "gather", "modalities", "whole"]
