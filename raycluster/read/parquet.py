"""Rows of Parquet files become objects: a column holds their bytes, or the URIs where they lie.

Listing reads no payload: footers, and the `id` or URI column. A worker reads a row group once, forward, a window of
rows at a time. What is in memory is a few windows and one page of the file; pyarrow writes up to 1024 rows a page
unless `write_batch_size` says less.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

import pyarrow as pa

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference
from raycluster.read._column import (
    DAMAGED,
    Keys,
    cell_uri,
    cells,
    column_type,
    holds_uris,
    referred,
    refuse,
    window_rows,
)
from raycluster.read._listing import batches, each_once, places
from raycluster.read._load import Loading
from raycluster.read._named import Once
from raycluster.read._store import Changed, Found, is_local, say, shown
from raycluster.read._stores import store_of
from raycluster.row import Media

# Windows of a row group kept behind the newest: read-ahead threads ask for neighbouring rows in any order.
_KEPT_WINDOWS = 6
# Row groups open at once in a file: threads at the end of one and at the start of the next.
_OPEN_GROUPS = 2
_OPEN_FILES = 4
_OPENING = threading.Lock()  # read-ahead threads share one open file, also when all of them want it at once
_BUFFER_BYTES = 1 << 20  # read from the store at once while a column is decoded


@dataclass(frozen=True, kw_only=True)
class Parquet(Loading):
    """Rows of Parquet files: `column` holds bytes (binary) or URIs (string), by its type.

    `column: image.bytes` reaches into a struct. A row of bytes is named by its file and its `id`, or else its number;
    it counts as changed when its file is rewritten. A row with a URI is the object at that URI. A file that cannot be
    opened is one bad object.
    """

    sequential: ClassVar[bool] = True

    paths: tuple[str, ...]  # files, folders, globs; local or URIs
    column: str
    id: str | None = None  # a column of unique values that names rows of bytes for good, in any order of the file
    include: tuple[str, ...] = ("*.parquet",)  # globs, relative to each path; a file in `paths` itself is always read
    exclude: tuple[str, ...] = ()

    def objects(self) -> Iterator[pa.RecordBatch]:
        """List the rows, file after file in the order of their uris."""
        if not self.paths:
            raise InvalidUse("the source names no Parquet files", fix="give `paths`")
        found = places(self.paths, (self.include, self.exclude), timeout=self.timeout)
        files = each_once(found)
        first = next(files, None)
        if first is None:
            raise InvalidUse(f"no Parquet file in {', '.join(self.paths)}", fix="correct `paths` or `include`")
        kind = self._kind(first)
        if kind and self.id is not None:
            raise InvalidUse(
                f"`id` has no use: column {self.column!r} holds URIs, which are names already", fix="remove `id`"
            )
        return batches(self._listed(first, files))

    def _kind(self, found: Found) -> bool | None:
        """Say whether the column holds URIs; None where the file cannot be opened."""
        with self._opened(found) as file:
            if file is None:
                return None
            schema, where = file.schema_arrow, shown(found.uri)
        if self.id is not None:
            column_type(schema, self.id, where=where)
        return holds_uris(column_type(schema, self.column, where=where), self.column, where=where)

    @contextmanager
    def _opened(self, found: Found) -> Iterator[Any]:
        """Open a file to list it; None where it is damaged."""
        try:
            with store_of(found.uri, timeout=self.timeout).open(found.uri) as file:
                try:
                    opened = _open(file)
                except (pa.ArrowInvalid, OSError) as error:
                    if not _is_damage(error, found.uri):
                        raise
                    opened = None
                yield opened
        except OSError as error:
            fault = f"{shown(found.uri)} cannot be read: {say(error)}"
            raise InvalidUse(fault, fix="check address and access") from error

    def _listed(self, first: Found, others: Iterator[Found]) -> Iterator[Reference]:
        once = Once()
        for found in chain([first], others):
            kind = self._kind(found)
            if kind is None:
                yield Reference(uri=found.uri, version=found.version, size=found.size, locator=DAMAGED)
            elif kind:
                yield from referred(self._uris(found), once=once, timeout=self.timeout)
            else:
                yield from self._rows(found)

    def _uris(self, found: Found) -> Iterator[tuple[str, str | None]]:
        row = 0
        with self._opened(found) as file:
            for batch in file.iter_batches(columns=[self.column]):
                for text in cells(batch, self.column).to_pylist():
                    yield cell_uri(found.uri, row), text
                    row += 1

    def _rows(self, found: Found) -> Iterator[Reference]:
        keys, number = Keys(self.id or "", shown(found.uri)), 0
        with self._opened(found) as file:
            for group in range(file.num_row_groups):
                size = round(_average(file, group, self.column))
                names = self._names(file, group)
                for row in range(file.metadata.row_group(group).num_rows):
                    uri = cell_uri(found.uri, number if names is None else keys.check(names[row].as_py()))
                    yield Reference(uri=uri, version=found.version, size=size, locator=f"{group}:{row}")
                    number += 1

    def _names(self, file: Any, group: int) -> pa.Array | None:
        if self.id is None:
            return None
        return cells(file.read_row_group(group, columns=[self.id]), self.id)

    def get(self, reference: Reference) -> Media:
        """Return one row's bytes, or the object at its URI."""
        if reference.locator is None:
            return self.load(reference, Found(reference.uri, reference.version, reference.size))
        return self.gather(reference, [self._cell(reference)])

    def peek(self, reference: Reference, size: int = 4096) -> bytes:
        """Return the first bytes of a row's object."""
        if reference.locator is None:
            return self.head(reference.uri, size)
        return bytes(self._cell(reference)[:size])

    def _cell(self, reference: Reference) -> memoryview:
        table = reference.uri.rpartition("#")[0] or reference.uri
        refuse(reference.locator, shown(table))
        group, row = map(int, (reference.locator or "").split(":"))
        try:
            with _OPENING:
                reader = _reader(table, reference.version, self.column, self.timeout)
            content = reader.cell(group, row)
        except (pa.ArrowInvalid, OSError) as error:
            if _is_damage(error, table):
                raise BadMedia("corrupt", f"row {row} of row group {group} cannot be decoded: {error}") from error
            raise BadMedia("unreadable", f"{shown(table)}: {say(error)}") from error
        if content is None:
            raise BadMedia("empty", f"its cell in column {self.column!r} is null")
        return content


def _open(file: Any) -> Any:
    import pyarrow.parquet as pq

    # pre_buffer would hold a whole row group's column in memory.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _is_damage(error: Exception, uri: str) -> bool:
    """Tell a file's own faults from those of the way to it: Arrow raises OSError, without a number, for both."""
    return isinstance(error, pa.ArrowInvalid) or (type(error) is OSError and is_local(uri) and error.errno is None)


def _average(file: Any, group: int, column: str) -> float:
    """Return the mean size of a row group's cells, bytes: the footer knows their sum."""
    found = file.metadata.row_group(group)
    for index in range(found.num_columns):
        if found.column(index).path_in_schema == column:
            return int(found.column(index).total_uncompressed_size) / max(int(found.num_rows), 1)
    return 0.0


@lru_cache(maxsize=_OPEN_FILES)
def _reader(uri: str, version: str, column: str, timeout: float) -> _Reader:
    return _Reader(uri, version, column, timeout)


class _Reader:
    """One open file of this worker, shared by its read-ahead threads."""

    def __init__(self, uri: str, version: str, column: str, timeout: float) -> None:
        store = store_of(uri, timeout=timeout)
        if store.find(uri).version != version:
            raise Changed
        self.file, self.column = _open(store.open(uri)), column
        self.lock = threading.Lock()
        self.groups: OrderedDict[int, _Group] = OrderedDict()

    def cell(self, group: int, row: int) -> memoryview | None:
        """Return a view of one cell's bytes, None for a null."""
        with self.lock:
            if group not in self.groups or self.groups[group].has_passed(row):
                self.groups[group] = _Group(self.file, group, self.column)
                while len(self.groups) > _OPEN_GROUPS:
                    self.groups.popitem(last=False)
            return self.groups[group].cell(row)


class _Group:
    """A row group read forward, a window at a time."""

    def __init__(self, file: Any, group: int, column: str) -> None:
        rows = window_rows(_average(file, group, column))
        self.column = column
        self.windows = file.iter_batches(batch_size=rows, row_groups=[group], columns=[column], use_threads=False)
        self.kept: deque[tuple[int, pa.Array]] = deque(maxlen=_KEPT_WINDOWS)
        self.next = 0  # the first row not read yet
        self.broken: Exception | None = None  # what stopped it: Arrow cannot go on behind a damaged page

    def has_passed(self, row: int) -> bool:
        return row < self.next and not any(start <= row < start + len(window) for start, window in self.kept)

    def cell(self, row: int) -> memoryview | None:
        while row >= self.next:
            self._advance()
        start, window = next(kept for kept in self.kept if kept[0] <= row < kept[0] + len(kept[1]))
        found = window[row - start]
        return memoryview(found.as_buffer()) if found.is_valid else None

    def _advance(self) -> None:
        if self.broken is not None:
            raise self.broken
        try:
            window = cells(next(self.windows), self.column)
        except Exception as error:
            self.broken = error
            raise
        self.kept.append((self.next, window))
        self.next += len(window)
