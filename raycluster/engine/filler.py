"""Old rows of one fragment become the new columns of it, in a file of their own: the actor of a backfill.

Which value a row gets. An encoder that is not due has worked on it before, and its values stay. A due encoder works on
every row that has its input, and a row on which it fails has null there: two generations never mix in a column. Where
several write one column (`vector`), the last that has something to say wins, as in any run; whether one that is not
due had something to say shows in a column of its own. Text is taken from the dataset. Every other input is decoded
again from its object, which only the source can give: where it no longer does, the row keeps what others made of it,
and the quarantine says so. Rows that other workloads brought keep all they have.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.log import Log
from raycluster.account.owners import owner_of
from raycluster.declare.columns import SHARED
from raycluster.declare.workload import Workload
from raycluster.engine.line import Job, Line
from raycluster.engine.progress import Reporter
from raycluster.engine.sandbox import Sandbox
from raycluster.errors import RunFailed
from raycluster.lake.generation import Generation, Writer, physical_rows, rows
from raycluster.lake.sql import quoted
from raycluster.lake.table import Table
from raycluster.row import ERROR, OBJECT, row_id

_REFERENCE = OBJECT.append(pa.field("object_id", pa.string()))
UNIT = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.int64()),
        ("fragment", pa.int64()),
        ("references", pa.list_(pa.struct(list(_REFERENCE)))),
    ]
)
_WINDOW_ROWS = 1024  # computed and held before they are written: 7 MB, of 1664 numbers each
_GONE = {"stage": "read", "code": "unreadable", "message": "the source no longer lists the object"}
_OTHER = {"stage": "read", "code": "unsupported", "message": "the object is decoded into other rows than this one now"}
_ROW = ("object_id", "uri", "modality", "position", "text")
_STRINGS = pa.string()

Flags = npt.NDArray[np.bool_]
Batches = Iterator[pa.RecordBatch]


class Rules:
    """What must be known of old rows, which of them are decoded again, and whose value wins."""

    def __init__(self, workload: Workload, generation: Generation, schema: pa.Schema) -> None:
        types = {one.name: one.type for one in schema}
        self.encoders, self.due, self.columns = workload.encode, generation.due, generation.columns
        self.bad = pa.array(sorted(generation.again), _STRINGS)  # before
        self.kept = [one.name for one in self.columns if types.get(one.name) == one.type]  # old values can stay
        # Another workload's column says nothing of rows on which this encoder has never worked.
        self.marks = [None if at in generation.first else _mark(one, types) for at, one in enumerate(self.encoders)]
        # An encoder of text finds it in the dataset, unless what lies there was written after its turn.
        last = max((at for at, one in enumerate(self.encoders) if "text" in one.writes.names), default=-1)
        self.text = [at for at in generation.fresh if self.encoders[at].reads == ("text",) and at > last]
        self.again = [at for at in generation.fresh if at not in self.text]
        self.rewrite = [at for at in self.due if "text" in self.encoders[at].writes.names]
        own = {"_own": f"provenance.workload = {quoted(workload.name)}"}
        names = dict.fromkeys(["id", *_ROW, *self.kept, *(mark for mark in self.marks if mark)])
        self.reads = {name: name for name in names} | own

    def is_again(self, old: pa.RecordBatch) -> Flags:
        """Tell which rows must be decoded again: a text is all text, and an encoder's column says what it worked on."""
        again = np.zeros(old.num_rows, bool)
        for at in self.again:
            mark = self.marks[at]
            if "text" in self.encoders[at].reads:
                again[:] = True
            elif mark is None:
                again |= np.array([one != "text" for one in old.column("modality").to_pylist()], bool)
            else:
                again |= _valid(old, mark) | self.was_bad(old)
        return again & _flags(old.column("_own"))

    def was_bad(self, old: pa.RecordBatch) -> Flags:
        """Tell which rows an earlier generation could not be computed for."""
        return _flags(pc.is_in(old.column("id"), self.bad))

    def wins(self, name: str, old: pa.RecordBatch, worked: Mapping[int, Flags]) -> Flags:
        """Tell of each row whether a column's new value wins over the one it has."""
        new = np.zeros(old.num_rows, bool)
        for at, (encoder, mark) in enumerate(zip(self.encoders, self.marks, strict=True)):
            if name not in encoder.writes.names:
                continue
            if at in self.due:
                new |= worked[at]
            elif mark is not None:
                new &= ~_valid(old, mark)
        return new


def _mark(encoder: Any, types: Mapping[str, pa.DataType]) -> str | None:
    """Return the column that shows on which rows an encoder has worked; None where none is its own."""
    return next((name for name in encoder.writes.names if name not in SHARED and name in types), None)


def _flags(column: pa.Array) -> Flags:
    return np.asarray(column.fill_null(False).to_numpy(False), bool)


def _valid(batch: pa.RecordBatch, name: str) -> Flags:
    return _flags(batch.column(name).is_valid()) if name in batch.schema.names else np.zeros(batch.num_rows, bool)


class Window:
    """Some old rows of whole objects, on their way through the encoders and back to their places."""

    def __init__(self, rules: Rules, old: pa.RecordBatch, references: Mapping[str, dict[str, Any]]) -> None:
        self.rules, self.old, self.references = rules, old, references
        self.at = {identity: index for index, identity in enumerate(old.column("id").to_pylist())}
        self.again, self.mended = rules.is_again(old), list[str]()
        self.worked = {at: np.zeros(old.num_rows, bool) for at in rules.due}
        self.order: list[int] = []  # of the rows sent through the encoders: their index in `old`
        self.verdicts: dict[str, dict[str, Any]] = {}  # of objects that could not be decoded again
        self.bad: list[dict[str, Any]] = []
        self.filled = 0

    def compute(self, decode: Callable[[pa.Table], Batches], encode: Callable[[Batches], Batches]) -> pa.RecordBatch:
        """Return the new columns of all rows, in their order."""
        worked = [*encode(self._stored()), *encode(self._decoded(decode))]
        wanted = [*self.rules.columns.names, "error", "stage"]
        made = pa.Table.from_batches([one.select(wanted) for one in worked]) if worked else None
        if (made.num_rows if made else 0) != len(self.order):
            raise RunFailed(f"{len(self.order)} rows went into the encoders, others came out", fix="run it again")
        place = np.full(self.old.num_rows, -1)
        place[self.order] = np.arange(len(self.order))
        self._judge(made, place)
        columns = [self._column(field, made, place) for field in self.rules.columns]
        return pa.RecordBatch.from_arrays(columns, schema=self.rules.columns)

    def _stored(self) -> Batches:
        """Yield the rows whose text is all that is wanted."""
        text = _flags(self.old.column("_own")) & ~self.again & _valid(self.old, "text")
        if self.rules.text and text.any():
            rows = self.old.select(_ROW).filter(pa.array(text))
            rows = rows.append_column("error", pa.nulls(rows.num_rows, ERROR))
            yield self._sent(rows.append_column("stage", pa.nulls(rows.num_rows, _STRINGS)), np.flatnonzero(text))

    def _decoded(self, decode: Callable[[pa.Table], Batches]) -> Batches:
        """Yield the rows that had to be decoded again, as far as their objects are still there."""
        identities = self.old.column("object_id").filter(pa.array(self.again)).unique().to_pylist()
        listed = [self.references[one] for one in identities if one in self.references]
        for batch in decode(pa.Table.from_pylist(listed, _REFERENCE)) if listed else ():
            ids = map(row_id, *(batch.column(name).to_pylist() for name in ("object_id", "modality", "position")))
            places = np.array([self.at.get(identity, -1) for identity in ids])
            is_bad = _valid(batch, "error")
            for one in batch.filter(pa.array(is_bad)).select(["object_id", "stage", "error"]).to_pylist():
                self.verdicts[one["object_id"]] = {"stage": one["stage"], **one["error"]}
            known = ~is_bad & (places >= 0) & self.again[places]
            if known.any():
                yield self._sent(self._with_text(batch.filter(pa.array(known)), places[known]), places[known])

    def _with_text(self, rows: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """Put the dataset's text beside other inputs, where an encoder wants it and none is about to write it."""
        if any("text" in self.rules.encoders[at].reads for at in self.rules.again):
            return rows
        stored = self.old.column("text") if self.rules.text else pa.nulls(self.old.num_rows, _STRINGS)
        both = pa.concat_arrays([rows.column("text"), stored])
        indices = np.where(self._rewritten(rows), np.arange(rows.num_rows), rows.num_rows + places)
        return rows.set_column(rows.schema.get_field_index("text"), "text", both.take(pa.array(indices)))

    def _rewritten(self, rows: pa.RecordBatch) -> Flags:
        inputs = [_valid(rows, self.rules.encoders[at].reads[0]) for at in self.rules.rewrite]
        rewritten: Flags = np.logical_or.reduce([np.zeros(rows.num_rows, bool), *inputs])
        return rewritten

    def _sent(self, rows: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """Note which encoders will work on which rows."""
        self.order += places.tolist()
        for at in self.rules.due:
            reads = self.rules.encoders[at].reads[0]
            self.worked[at][places] = _valid(rows, reads) | (self._rewritten(rows) if reads == "text" else False)
        return rows

    def _judge(self, made: pa.Table | None, place: npt.NDArray[np.int64]) -> None:
        """Note the rows that could not be computed."""
        lost = self.again & (place < 0)
        for at in self.rules.again:
            mark = self.rules.marks[at]
            self.worked[at] |= lost & (_valid(self.old, mark) if mark else False)
        verdicts = made.select(["error", "stage"]).to_pylist() if made else []
        any_worked = np.logical_or.reduce(list(self.worked.values()))
        for index, row in enumerate(self.old.select(["object_id", "uri", "modality", "position"]).to_pylist()):
            if lost[index]:
                absent = _OTHER if row["object_id"] in self.references else _GONE
                self.bad.append({**row, **self.verdicts.get(row["object_id"], absent)})
            elif place[index] >= 0 and (error := verdicts[place[index]]["error"]):
                self.bad.append({**row, **error, "stage": verdicts[place[index]]["stage"]})
            elif place[index] >= 0 and any_worked[index]:
                self.filled += 1
        ids = self.old.column("id").filter(pa.array(self.rules.was_bad(self.old) & (place >= 0)))
        bad = {row_id(row["object_id"], row["modality"], row["position"]) for row in self.bad}
        self.mended = [one for one in ids.to_pylist() if one not in bad]

    def _column(self, field: pa.Field, made: pa.Table | None, place: npt.NDArray[np.int64]) -> pa.Array:
        """Return one column, each value from where it belongs: the encoders' rows, the old ones, or null."""
        both = [made.column(field.name).combine_chunks()] if made else []
        count = made.num_rows if made else 0
        indices = np.where(self.rules.wins(field.name, self.old, self.worked), place, -1)
        if field.name in self.rules.kept:
            stays = ~self.rules.wins(field.name, self.old, self.worked)
            indices = np.where(stays, count + np.arange(self.old.num_rows), indices)
            both.append(self.old.column(field.name))
        values = pa.concat_arrays([pa.nulls(0, field.type), *both])
        return values.take(pa.array(indices, mask=indices < 0))


class Filler:
    """The actor: writes the new columns of one fragment after the other."""

    def __init__(self, job: Job, generation: Generation, progress: Any) -> None:
        Log(asdict(owner_of(job.workload, job.run_id)), level=logging.INFO)
        self.job, self.generation, self.progress = job, generation, progress
        self.reporter = Reporter(progress, workers=sum(pool.actors for pool in job.pools))
        self.lines = [Line(job, pool, self.reporter) for pool in (0, 1)]

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        """Yield what became of one unit: its key and its part, as JSON."""
        (one,) = unit.to_pylist()
        key, uri, place = one["key"], self.job.sink.uri, (one["version"], one["fragment"])
        # A unit that was begun before and not finished killed its process: look for the guilty row in a sandbox.
        decode, encode = self._guarded(key) if self._ask("started", key) else (self.lines[0].run, self.lines[1].work)
        rules = Rules(self.job.workload, self.generation, Table("", uri).schema(one["version"]))
        references = {reference["object_id"]: reference for reference in one["references"]}
        writer = Writer(uri, key, self.generation.columns)
        filled, bad, mended = 0, list[dict[str, Any]](), list[str]()
        for old in windows(rows(uri, *place, rules.reads)):
            window = Window(rules, old, references)
            writer.add(window.compute(decode, encode), old.column("_place").to_pylist())
            filled += window.filled
            bad += map(self._judged, window.bad)
            mended += window.mended
        part = writer.close(physical_rows(uri, *place), filled=filled, bad=bad, mended=mended)
        self.progress.finished.remote(key)
        self.reporter.flush()
        yield pa.table({"key": [key], "part": [json.dumps(asdict(part))]})

    def _judged(self, row: dict[str, Any]) -> dict[str, Any]:
        """Say of a bad row whether trying again may help."""
        if self.job.workload.check.on_bad == "fail":
            raise RunFailed(
                f"{row['uri']}: {row['code']}: {row['message']}",
                fix="mend or exclude the object, or set check.on_bad to quarantine",
            )
        missing = self.lines[0].missing | self.lines[1].missing
        return {**row, "passes": row["code"] == "unreadable" or row["stage"] in missing}

    def _guarded(self, key: str) -> tuple[Callable[[pa.Table], Batches], Callable[[Batches], Batches]]:
        """Return decoding and encoding in processes that may die, one object or row at a time."""
        count = iter(range(1 << 62))

        def guarded(pool: int, units: pa.Table) -> Batches:
            tried = f"{key}:{next(count)}"
            yield from Sandbox(self.job, pool).run(units, tried=lambda index: self._ask("trying", tried, index))

        def encode(batches: Batches) -> Batches:
            held = list(batches)
            yield from guarded(1, pa.Table.from_batches(held)) if held else ()

        return lambda units: guarded(0, units), encode

    def _ask(self, method: str, *arguments: Any) -> int:
        """Ask the progress actor how often something was begun before; once, where it does not answer."""
        import ray

        try:
            return int(ray.get(getattr(self.progress, method).remote(*arguments)))
        except ray.exceptions.RayError:
            return 1


def windows(batches: Batches) -> Batches:
    """Cut rows into windows that end where an object does, so that none is decoded twice."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.num_rows for one in held) < _WINDOW_ROWS:
            continue
        whole = pa.concat_batches(held)
        owners = whole.column("object_id").to_pylist()
        end = next((index for index in range(len(owners) - 1, 0, -1) if owners[index - 1] != owners[-1]), 0)
        if end:
            yield whole.slice(0, end)
        held = [whole.slice(end)]
    if held:
        yield pa.concat_batches(held)
