"""Payloads of rows become columns: one file an encoder, and what all of them share.

A member says which payload it takes (`takes`), which columns it `writes`, and how one batch is computed
(`encoder`). Selecting rows, sorting by length, splitting into model batches, halving a batch that runs out of
memory and bisecting one that fails (one bad row never costs its batch) happen here, once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from raycluster.errors import BadMedia
from raycluster.fetch import Package
from raycluster.resample import resample
from raycluster.row import with_errors
from raycluster.stage import Stage, watch


class Sound(NamedTuple):
    """A mono window of sound: samples (time,) float32 in [-1, 1], at `rate` Hz."""

    samples: npt.NDArray[np.float32]
    rate: int

    def at(self, rate: int) -> npt.NDArray[np.float32]:
        """Return its samples at another rate."""
        return resample(self.samples, self.rate, rate)


# One batch of inputs (str, uint8 pixels (side, side, rgb), Sound, or bytes of a page) -> one sequence of values a
# written column, each as long as the batch; None leaves that row's column as it was.
Encoder = Callable[[Sequence[Any]], Mapping[str, Sequence[Any]]]


@dataclass(frozen=True, kw_only=True)
class Encode(Stage):
    """Computes columns from one kind of payload; rows without it keep what they have."""

    takes: ClassVar[Literal["text", "pixels", "samples", "page"]]

    # Every package of weights that a member may use; `packages` are those that this one does.
    weights: ClassVar[tuple[Package, ...]] = ()

    batch: Annotated[int, Field(gt=0)] = 32  # inputs a model call
    actors: Annotated[int, Field(gt=0)] | None = None  # None: as many as the cluster holds

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the payload's column, and the sample rate with samples."""
        return (self.takes, "sample_rate") if self.takes == "samples" else (self.takes,)

    @property
    def packages(self) -> tuple[Package, ...]:
        """Return the packages of weights that this encoder loads."""
        return self.weights

    @property
    def revision(self) -> str:
        """Return the pins of its packaged weights."""
        return " ".join(package.pin for package in self.packages)

    @abstractmethod
    def encoder(self) -> Encoder:
        """Load weights and return the function that computes one model batch."""

    def text_encoder(self) -> Encoder | None:
        """Return the function that puts query texts into this encoder's own columns; None without such a tower."""
        return None

    def weight(self, payload: Any) -> int:
        """Return how long an input is: batches are filled with inputs of like length, so little is padding."""
        return len(payload.samples) if isinstance(payload, Sound) else len(payload)

    def open(self) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        """Return the work on a batch of rows: the same rows, in order, with the written columns filled."""
        encoder = self.encoder()
        batch = self.batch  # shrinks when memory runs out, and stays so: the next batch would not fit either

        def encode(rows: pa.RecordBatch) -> pa.RecordBatch:
            nonlocal batch
            inputs = sorted(self._inputs(rows), key=lambda one: self.weight(one[1]))
            made = _Made(values={name: {} for name in self.writes.names}, batch=batch)
            start = 0
            while start < len(inputs):
                part = inputs[start : start + made.batch]
                start += len(part)
                self._attempt(encoder, part, made)
            batch = made.batch
            return fill(rows, self.writes, made.values, made.errors)

        return encode

    def _attempt(self, encoder: Encoder, part: list[tuple[int, Any]], made: _Made) -> None:
        """Encode `part` (rows' indices and inputs); on failure try its halves, down to the one row that is to blame."""
        try:
            with watch(self.timeout):
                computed = encoder([payload for _, payload in part])
        except Exception as error:  # noqa: BLE001 - one bad row never costs its batch
            if len(part) == 1:
                made.errors[part[0][0]] = self._verdict(error)
                return
            half = len(part) // 2
            if _is_out_of_memory(error):
                made.batch = min(made.batch, half)
            self._attempt(encoder, part[:half], made)
            self._attempt(encoder, part[half:], made)
            return
        for name, column in computed.items():
            for (index, _), value in zip(part, column, strict=True):
                if value is not None:
                    made.values[name][index] = value

    def _verdict(self, error: Exception) -> BadMedia:
        if isinstance(error, BadMedia):
            return error
        message = f"{self.name}: {type(error).__name__}: {error}"
        return BadMedia("out_of_memory" if _is_out_of_memory(error) else "model_error", message)

    def _inputs(self, rows: pa.RecordBatch) -> list[tuple[int, Any]]:
        """Return the rows that have this payload and no error: index, and payload as text, array or bytes."""
        column = rows.column(self.takes)
        usable = np.logical_and(column.is_valid().to_numpy(False), rows.column("error").is_null().to_numpy(False))
        chosen = [int(index) for index in np.flatnonzero(usable)]
        if self.takes == "text":
            return [(index, column[index].as_py()) for index in chosen if column[index].as_py().strip()]
        if self.takes == "pixels":
            return [(index, _square(column[index].as_buffer())) for index in chosen]
        if self.takes == "samples":
            rates = rows.column("sample_rate")
            return [
                (index, Sound(np.frombuffer(column[index].as_buffer(), np.float32), rates[index].as_py()))
                for index in chosen
            ]
        return [(index, bytes(column[index].as_buffer())) for index in chosen]


@dataclass(kw_only=True)
class _Made:
    """What has been computed of a batch of rows, by row index."""

    values: dict[str, dict[int, Any]]
    errors: dict[int, BadMedia] = field(default_factory=dict)
    batch: int  # inputs a model call from now on


def _square(buffer: pa.Buffer) -> npt.NDArray[np.uint8]:
    # pixels: (side, side, rgb) uint8
    side = round((buffer.size / 3) ** 0.5)
    return np.frombuffer(buffer, np.uint8).reshape(side, side, 3)


def stacked(images: Sequence[npt.NDArray[np.uint8]], most: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Iterate over stacks of neighbouring images of one side, in order, copied once.

    Shapes: n times (side, side, rgb) -> (at most `most`, side, side, rgb)
    """
    for _, same in groupby(images, key=len):
        alike = list(same)
        for start in range(0, len(alike), most):
            yield np.stack(alike[start : start + most])


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return vectors (row, width) at length 1; one of nothing stays so."""
    lengths: npt.NDArray[np.float32] = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors / lengths


def _is_out_of_memory(error: Exception) -> bool:
    # torch.OutOfMemoryError is named, not imported: a worker whose encoders need no torch must not load it.
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def fill(
    rows: pa.RecordBatch,
    schema: pa.Schema,
    values: Mapping[str, Mapping[int, Any]],
    errors: Mapping[int, BadMedia],
) -> pa.RecordBatch:
    """Return `rows` with new values in the columns of `schema` and new errors; other values stay."""
    for written in schema:
        if written.name in rows.schema.names and not values[written.name]:
            continue
        rows = _put(rows, written, _column(rows, written, values[written.name]))
    return with_errors(rows, errors)


def _column(rows: pa.RecordBatch, field: pa.Field, values: Mapping[int, Any]) -> pa.Array:
    if pa.types.is_fixed_size_list(field.type) and field.name not in rows.schema.names:
        return vectors(values, rows.num_rows, field.type.list_size)
    old = rows.column(field.name).to_pylist() if field.name in rows.schema.names else [None] * rows.num_rows
    for index, value in values.items():
        old[index] = value
    return pa.array(old, field.type)


def vectors(values: Mapping[int, Any], rows: int, width: int) -> pa.FixedSizeListArray:
    """Return a column of `rows` vectors of `width` float32, null where `values` has none, without a Python float."""
    # flat: (rows, width) float32
    flat = np.zeros((rows, width), np.float32)
    missing = np.ones(rows, bool)
    for index, value in values.items():
        flat[index] = value
        missing[index] = False
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), width, mask=pa.array(missing))


def _put(rows: pa.RecordBatch, field: pa.Field, column: pa.Array) -> pa.RecordBatch:
    index = rows.schema.get_field_index(field.name)
    return rows.append_column(field, column) if index < 0 else rows.set_column(index, field, column)
