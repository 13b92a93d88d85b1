"""What travels: the reference to an object, the row made from a piece of it, and how both get their ids.

An *object reference* (schema `OBJECT`) is what a source lists and what crosses the network. A *row* (schema `ROW`
plus the columns that encoders add) is what stages pass on inside one worker; its payload columns (`PAYLOAD`) never
reach the dataset.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from raycluster import stage
from raycluster.errors import BadMedia

# What a source lists: one raw thing each. `version` is the etag, or size and modification time.
# `locator` is the source's own note on where the bytes lie (a row of a table, say); null where the uri says all.
OBJECT = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("locator", pa.string()),
    ]
)

# What decoders take: an object with its bytes (`content`), or with a local file that holds them (`path`).
MEDIA = pa.schema(
    [
        ("object_id", pa.string()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("modality", pa.string()),
        ("media_type", pa.string()),
        ("content", pa.large_binary()),
        ("path", pa.string()),
    ]
)

ERROR = pa.struct([("code", pa.string()), ("message", pa.string())])

# Payloads between decoders and encoders.
# pixels: (side, side, rgb) uint8, row-major, square.   samples: mono float32 in [-1, 1] at sample_rate Hz.
# page: an encoded PNG or JPEG of a page or picture whose text is wanted (OCR).
PAYLOAD = pa.schema(
    [
        ("pixels", pa.large_binary()),
        ("samples", pa.large_binary()),
        ("sample_rate", pa.int32()),
        ("page", pa.large_binary()),
        ("error", ERROR),
    ]
)


def object_id(uri: str, version: str) -> str:
    """Name an object for ever: sha256 hex of its uri and version."""
    return hashlib.sha256(f"{uri}\0{version}".encode()).hexdigest()


def row_id(object_id: str, modality: str, position: int) -> str:
    """Name a row for ever: sha256 hex of object, modality and position; the same in every run."""
    return hashlib.sha256(f"{object_id}\0{modality}\0{position}".encode()).hexdigest()


@cache
def features_type() -> pa.StructType:
    """Return the struct of everything that any decoder measures, in the order of the decoders' names."""
    fields: dict[str, pa.DataType] = {}
    for name in stage.names("decode"):
        for feature, kind in stage.find("decode", name).features.items():
            if fields.setdefault(feature, kind) != kind:
                raise TypeError(
                    f"decode/{name}.py measures {feature!r} as {kind}, another decoder as {fields[feature]}"
                )
    return pa.struct(list(fields.items()))


@cache
def row_schema() -> pa.Schema:
    """Return what a decoder writes: the dataset's own columns that it can fill, then the payloads."""
    return pa.schema(
        [
            ("object_id", pa.string()),
            ("uri", pa.string()),
            ("sha256", pa.string()),
            ("modality", pa.string()),
            ("media_type", pa.string()),
            ("position", pa.int32()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            ("text", pa.string()),
            ("thumbnail", pa.binary()),
            ("features", features_type()),
            *PAYLOAD,
        ]
    )


def with_errors(rows: pa.RecordBatch, errors: Mapping[int, BadMedia]) -> pa.RecordBatch:
    """Return rows with the verdicts of `errors` (row index -> verdict) beside those that are there."""
    if not errors:
        return rows
    verdicts = rows.column("error").to_pylist()
    for index, verdict in errors.items():
        verdicts[index] = {"code": verdict.code, "message": verdict.message}
    return rows.set_column(rows.schema.get_field_index("error"), "error", pa.array(verdicts, ERROR))


@dataclass(frozen=True, kw_only=True)
class Media:
    """One object with its bytes at hand: in memory (`content`), or in a local file (`path`) when they are many."""

    object_id: str
    uri: str
    sha256: str
    modality: str
    media_type: str
    content: bytes | memoryview | None = None
    path: str | None = None

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        if self.content is not None:
            return len(self.content)
        return Path(self.path or "").stat().st_size

    def read(self) -> bytes | memoryview:
        """Return all bytes; for a large object prefer `open`."""
        return self.content if self.content is not None else Path(self.path or "").read_bytes()

    def open(self) -> BinaryIO:
        """Return a seekable file of the bytes."""
        if self.content is not None:
            return io.BytesIO(self.content)
        return Path(self.path or "").open("rb")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One row to be: what a decoder took out of an object. `modality` None means the object's own."""

    position: int = 0
    modality: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    text: str | None = None
    thumbnail: bytes | None = None
    features: dict[str, Any] | None = None
    pixels: Any = None  # numpy (side, side, rgb) uint8
    samples: Any = None  # numpy (time,) float32
    sample_rate: int | None = None
    page: bytes | None = None
