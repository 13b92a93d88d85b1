"""Rows of a Lance table become objects: a column holds their bytes (a blob column too), or the URIs where they lie."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from raycluster.errors import BadMedia, InvalidUse, RayclusterError
from raycluster.read import Reference
from raycluster.read._column import Keys, cell_uri, cells, column_type, holds_uris, referred, refuse, window_rows
from raycluster.read._listing import batches, require_uri
from raycluster.read._load import Loading
from raycluster.read._named import Once
from raycluster.read._store import CHUNK_BYTES, Found, is_local, local_path, shown
from raycluster.row import Media

if TYPE_CHECKING:
    from raycluster.lake.foreign import Foreign

# Windows of rows kept: read-ahead threads ask for neighbouring rows in any order.
_KEPT_WINDOWS = 6
_OPEN_TABLES = 4
_OPENING = threading.Lock()  # those threads share one open table, also when all of them want it at once


@dataclass(frozen=True, kw_only=True)
class Lance(Loading):
    """Rows of any Lance table: `column` holds bytes (binary or blob) or URIs (string), by its type.

    `column: image.bytes` reaches into a struct. A row of bytes is named by the table and its `id`, or else by Lance's
    row id; it counts as changed when Lance has written it anew, in an update or, without stable row ids, a
    compaction. Appending rows changes none of the others. A row with a URI is the object at that URI.
    """

    sequential: ClassVar[bool] = True

    uri: str  # the table: a path or a URI
    column: str
    id: str | None = None  # a column of unique values that names rows of bytes for good
    version: int | str | None = None  # a version's number or tag; None: the latest when the source is listed

    def objects(self) -> Iterator[pa.RecordBatch]:
        """List the rows in the table's order."""
        table = self._table(self.version)
        where = shown(require_uri(self.uri))
        uris = holds_uris(column_type(table.schema, self.column, where=where), self.column, where=where)
        if self.id is not None:
            if uris:
                raise InvalidUse(
                    f"`id` has no use: column {self.column!r} holds URIs, which are names already", fix="remove `id`"
                )
            column_type(table.schema, self.id, where=where)
        if uris:
            return batches(referred(self._uris(table), once=Once(), timeout=self.timeout))
        return batches(self._rows(table))

    def _table(self, version: int | str | None) -> Foreign:
        uri = require_uri(self.uri)
        place = local_path(uri) if is_local(uri) else uri
        # Only a numbered version stays what it is; the latest, or a tag, is looked up anew.
        return _numbered(place, version) if isinstance(version, int) else _foreign(place, version)

    def _uris(self, table: Foreign) -> Iterator[tuple[str, str | None]]:
        uri = require_uri(self.uri)
        for batch in table.rows([self.column]):
            for row, text in zip(batch.column("_rowid"), cells(batch, self.column), strict=True):
                yield cell_uri(uri, row), text.as_py()

    def _rows(self, table: Foreign) -> Iterator[Reference]:
        uri, keys, number = require_uri(self.uri), Keys(self.id or "", self.uri), 0
        marks, version, blob = table.marks(self.column), table.number, table.is_blob(self.column)
        average = 0 if blob else round(table.average(self.column))
        for batch in table.rows([*([self.id] if self.id else []), *([self.column] if blob else [])]):
            names = cells(batch, self.id or "_rowid").to_pylist()
            sizes = _blob_sizes(batch.column(self.column)) if blob else [average] * batch.num_rows
            fragments = [address >> 32 for address in batch.column("_rowaddr").to_pylist()]
            for name, size, fragment in zip(names, sizes, fragments, strict=True):
                yield Reference(
                    uri=cell_uri(uri, keys.check(name) if self.id else name),
                    version=marks[fragment],
                    size=size,
                    locator=f"{version}:{number}",
                )
                number += 1

    def get(self, reference: Reference) -> Media:
        """Return one row's bytes, or the object at its URI."""
        if reference.locator is None:
            return self.load(reference, Found(reference.uri, reference.version, reference.size))
        return self.gather(reference, self._chunks(reference))

    def peek(self, reference: Reference, size: int = 4096) -> bytes:
        """Return the first bytes of a row's object."""
        if reference.locator is None:
            return self.head(reference.uri, size)
        return bytes(next(self._chunks(reference, size), b"")[:size])

    def _chunks(self, reference: Reference, chunk: int = CHUNK_BYTES) -> Iterator[bytes | memoryview]:
        """Yield a cell's bytes: a blob's in parts, others whole."""
        refuse(reference.locator, self.uri)
        version, row = map(int, (reference.locator or "").split(":"))
        try:
            table = self._table(version)
            if not table.is_blob(self.column):
                with _OPENING:
                    windows = _windows(table, self.column)
                yield windows.cell(row)
                return
            with table.blob(self.column, row) as blob:
                while part := blob.read(chunk):
                    yield part
        except RayclusterError as error:
            raise BadMedia("unreadable", error.message) from error


def _blob_sizes(described: pa.Array) -> list[int]:
    import pyarrow.compute as pc

    return [size or 0 for size in pc.struct_field(described, "size").to_pylist()]


def _foreign(uri: str, version: int | str | None) -> Foreign:
    from raycluster.lake.foreign import Foreign  # lance takes 0.4 s

    return Foreign(uri, version)


_numbered = lru_cache(maxsize=_OPEN_TABLES)(_foreign)


@lru_cache(maxsize=_OPEN_TABLES)
def _windows(table: Foreign, column: str) -> _Windows:
    return _Windows(table, column)


class _Windows:
    """A column of one table in this worker, read a window of rows at a time and shared by its read-ahead threads."""

    def __init__(self, table: Foreign, column: str) -> None:
        self.table, self.column = table, column
        self.rows = window_rows(table.average(column))
        self.lock = threading.Lock()
        self.kept: OrderedDict[int, pa.Array] = OrderedDict()

    def cell(self, row: int) -> memoryview:
        """Return a view of one cell's bytes."""
        number, index = divmod(row, self.rows)
        with self.lock:
            if number not in self.kept:
                start = number * self.rows
                self.kept[number] = cells(self.table.take(self.column, start, start + self.rows), self.column)
                while len(self.kept) > _KEPT_WINDOWS:
                    self.kept.popitem(last=False)
            found = self.kept[number][index]
        if not found.is_valid:
            raise BadMedia("empty", f"its cell in column {self.column!r} is null")
        return memoryview(found.as_buffer())
