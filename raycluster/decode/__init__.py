"""Bytes of one object become rows: one file a modality, and what all of them share.

A member writes one method, `decoder`, which loads what it needs and returns a function from a `Media` to its
`Piece`s. Everything else (columns, errors, time limits, batches of bounded size) happens here, once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from raycluster.errors import BadMedia
from raycluster.row import MEDIA, Media, Piece, features_type, row_schema, with_errors
from raycluster.stage import Stage, watch

# A batch of pieces is handed on at this many rows or bytes, whichever comes first, so that an hour of video
# is never in memory at once. 64 rows of 224 x 224 pixels are 10 MB.
_BATCH_ROWS = 64
_BATCH_BYTES = 32 << 20

Decoder = Callable[[Media], Iterator[Piece]]


@dataclass(frozen=True, kw_only=True)
class Decode(Stage):
    """Turns objects of one modality into rows. The only family that turns one row into many."""

    # What this decoder measures, by name and Arrow type; a name shared by two decoders has one type.
    features: ClassVar[dict[str, pa.DataType]] = {}

    @property
    def modality(self) -> str:
        """Return which objects it takes: its file's name; a private decoder says."""
        return self.name

    @property
    def relies_on(self) -> tuple[str, ...]:
        """Return the encoders without which some of its rows stay unfinished; a workload adds those it lacks."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the columns of `row.MEDIA`."""
        return tuple(MEDIA.names)

    @property
    def writes(self) -> pa.Schema:
        """Return the columns of `row.row_schema()`."""
        return row_schema()

    @abstractmethod
    def decoder(self) -> Decoder:
        """Load what is heavy and return the function that takes one object apart.

        It raises `BadMedia` for an object it cannot use, before or after pieces; any other exception becomes
        `corrupt`, with its text as message.
        """

    def open(self) -> Callable[[pa.RecordBatch], Iterator[pa.RecordBatch]]:
        """Return a generator of row batches; a bad object yields one row that holds only its `error`."""
        decoder = self.decoder()

        def decode(objects: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
            for media in _media(objects):
                yield from self._rows(decoder, media)

        return decode

    def _rows(self, decoder: Decoder, media: Media) -> Iterator[pa.RecordBatch]:
        for part in self.parts(decoder, media):
            yield error_batch(media, part) if isinstance(part, BadMedia) else batch_of(media, part)

    def parts(self, decoder: Decoder, media: Media) -> Iterator[list[Piece] | BadMedia]:
        """Yield the pieces of one object, a bounded number at a time; last, if it is bad, the verdict."""
        pieces: list[Piece] = []
        size = count = 0
        try:
            stream = iter(decoder(media))
            while (piece := self._next(stream)) is not None:
                pieces.append(piece)
                count += 1
                size += weight(piece)
                if len(pieces) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    yield pieces
                    pieces, size = [], 0
            if not count:
                raise BadMedia("empty", f"no {media.modality} content found in it")
        except Exception as error:  # noqa: BLE001 - routed to quarantine: one bad object never ends a run
            yield bad(error)
            return
        if pieces:
            yield pieces

    def _next(self, stream: Iterator[Piece]) -> Piece | None:
        with watch(self.timeout):
            return next(stream, None)


def bad(error: Exception) -> BadMedia:
    """Return the quarantine verdict for an exception that a decoder raised."""
    if isinstance(error, BadMedia):
        return error
    if isinstance(error, MemoryError):
        return BadMedia("out_of_memory", "decoding it does not fit in this worker's memory")
    if isinstance(error, PermissionError | FileNotFoundError):
        return BadMedia("unreadable", str(error))
    return BadMedia("corrupt", f"{type(error).__name__}: {error}")


def _media(objects: pa.RecordBatch) -> Iterator[Media]:
    """Iterate over a `row.MEDIA` batch; bytes are views of its buffers, not copies."""
    contents = objects.column("content")
    others = [name for name in MEDIA.names if name != "content"]
    for index, values in enumerate(objects.select(others).to_pylist()):
        scalar = contents[index]
        content = memoryview(scalar.as_buffer()) if scalar.is_valid else None
        yield Media(content=content, **values)


def weight(piece: Piece) -> int:
    """Return the bytes of a piece's payloads."""
    arrays = sum(int(array.nbytes) for array in (piece.pixels, piece.samples) if array is not None)
    return arrays + len(piece.page or b"") + len(piece.thumbnail or b"")


def batch_of(media: Media, pieces: Sequence[Piece]) -> pa.RecordBatch:
    """Assemble rows (schema `row.row_schema()`) from the pieces of one object."""
    return rows_of([(media, piece) for piece in pieces])


def rows_of(owned: Sequence[tuple[Media, Piece]]) -> pa.RecordBatch:
    """Assemble rows from the pieces of several objects, each with the object that it was taken from."""
    schema, pieces = row_schema(), [piece for _, piece in owned]
    columns: dict[str, Any] = {
        name: [getattr(media, name) for media, _ in owned] for name in ("object_id", "uri", "sha256", "media_type")
    }
    columns |= {
        "modality": [piece.modality or media.modality for media, piece in owned],
        "features": [piece.features or {} for piece in pieces],
        "pixels": _payload([piece.pixels for piece in pieces], np.uint8),
        "samples": _payload([piece.samples for piece in pieces], np.float32),
        "error": pa.nulls(len(pieces), schema.field("error").type),
    }
    for name in ("position", "start_seconds", "end_seconds", "text", "thumbnail", "sample_rate", "page"):
        columns[name] = [getattr(piece, name) for piece in pieces]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, schema.field(name).type)
        for name, column in ((name, columns[name]) for name in schema.names)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _payload(arrays: list[Any], kind: Any) -> pa.Array:
    """Return the bytes of arrays as a column of large binaries, copied once.

    Not `pa.array(memoryviews)`: pyarrow 26.0.1 never lets go of a memoryview, nor of the pixels behind it.
    """
    found = np.array([array is not None for array in arrays])
    if not found.any():
        return pa.nulls(len(arrays), pa.large_binary())
    flat = [np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8) for array in arrays if array is not None]
    # ends: (row + 1,) int64, where each row's bytes begin, and where the last one's end
    ends = np.zeros(len(arrays) + 1, np.int64)
    ends[1:][found] = [part.size for part in flat]
    np.cumsum(ends, out=ends)
    mask = None if found.all() else pa.py_buffer(np.packbits(found, bitorder="little"))
    buffers = [mask, pa.py_buffer(ends), pa.py_buffer(np.concatenate(flat))]
    return pa.Array.from_buffers(pa.large_binary(), len(arrays), buffers)


def error_batch(media: Media, verdict: BadMedia) -> pa.RecordBatch:
    """Return one row that says why this object cannot be used."""
    return with_errors(batch_of(media, [Piece()]), {0: verdict})


__all__ = ["Decode", "Decoder", "bad", "batch_of", "error_batch", "features_type", "rows_of", "weight"]
