"""The column of a table becomes a kind (bytes, or URIs), and its cells names that stay the same.

Shared by the sources that are tables. A cell of bytes is an object of its own, named by table and row; a cell that
is a URI names an object elsewhere, which is listed under that URI, so that two tables naming it mean one object.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference
from raycluster.read._listing import reference, require_uri
from raycluster.read._named import Once, look_up
from raycluster.read._store import ABSENT

# Locators that stand for no place: why the cell has no bytes.
NULL = "null"
DAMAGED = "damaged"

# Cells are read in windows of about this many bytes: a few read-ahead threads share one read.
WINDOW_BYTES = 4 << 20
WINDOW_ROWS = 512


def column_type(schema: pa.Schema, column: str, *, where: str) -> pa.DataType:
    """Return a column's type; `image.bytes` is the field `bytes` of the struct `image`.

    Raises:
        InvalidUse: no such column; says the nearest.
    """
    known = list(_paths(schema))
    if column not in known:
        near = difflib.get_close_matches(column, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known)}"
        raise InvalidUse(f"{where} has no column {column!r}", fix=hint)
    first, *rest = [column] if column in schema.names else column.split(".")
    kind = schema.field(first).type
    for part in rest:
        kind = kind.field(part).type
    return kind


def _paths(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[str]:
    for field in fields:
        yield prefix + field.name
        if pa.types.is_struct(field.type):
            yield from _paths(field.type, f"{prefix}{field.name}.")


def holds_uris(kind: pa.DataType, column: str, *, where: str) -> bool:
    """Say whether a column holds URIs (text) or the bytes themselves.

    Raises:
        InvalidUse: neither.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return True
    if any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)):
        return False
    if pa.types.is_fixed_size_binary(kind):
        return False
    inner = [field.name for field in kind] if pa.types.is_struct(kind) else []
    hint = f"name one of its fields, such as {column}.{inner[0]}" if inner else "name a column of bytes or of URIs"
    raise InvalidUse(f"column {column!r} of {where} is {kind}, neither bytes nor URIs", fix=hint)


def cells(batch: Any, column: str) -> pa.Array:
    """Return the cells of a column of a batch or table, reaching into structs."""
    if column in batch.schema.names:
        found = batch.column(column)
    else:
        import pyarrow.compute as pc  # takes 40 ms

        first, *rest = column.split(".")
        found = batch.column(first)
        for part in rest:
            found = pc.struct_field(found, part)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def window_rows(size: float) -> int:
    """Return how many cells to read at once, from their average size in bytes."""
    return int(min(max(WINDOW_BYTES / max(size, 1.0), 1), WINDOW_ROWS))


def cell_uri(table: str, key: object) -> str:
    """Name a cell: the table's uri, then the row's key, percent-encoded."""
    return f"{table}#{quote(str(key), safe='')}"


class Keys:
    """Makes sure that a column which names rows names each differently; about 100 bytes of memory a row."""

    def __init__(self, column: str, where: str) -> None:
        self.column, self.where = column, where
        self.seen: set[object] = set()

    def check(self, key: object) -> object:
        """Return the key.

        Raises:
            InvalidUse: it is null, or another row has it.
        """
        if key is None or key in self.seen:
            fault = "is null in a row" if key is None else f"has {key!r} twice"
            raise InvalidUse(f"id column {self.column!r} of {self.where} {fault}", fix="name a column of unique values")
        self.seen.add(key)
        return key


def referred(named: Iterable[tuple[str, str | None]], *, once: Once, timeout: float) -> Iterator[Reference]:
    """Yield the objects that a column of URIs names, each once.

    Args:
        named: the cell's own name, and its URI or path; a null is listed under the cell's name, to be quarantined.
        once: what other files of the same source named already.
        timeout: seconds to wait for a store.
    """
    held: list[Reference] = []

    def new() -> Iterator[str]:
        for own, text in named:
            if text is None or not text.strip():
                held.append(Reference(uri=own, version=ABSENT, size=0, locator=NULL))
            else:
                yield require_uri(text.strip())

    for found in look_up(new(), once=once, timeout=timeout):
        yield from _drain(held)
        yield reference(found)
    yield from _drain(held)


def _drain(held: list[Reference]) -> Iterator[Reference]:
    while held:
        yield held.pop(0)


def refuse(locator: str | None, where: str) -> None:
    """Raise the verdict on a cell whose locator says that it has no bytes."""
    if locator == NULL:
        raise BadMedia("empty", f"its cell in {where} is null")
    if locator == DAMAGED:
        raise BadMedia("corrupt", f"{where} cannot be opened as a table: it is damaged, incomplete, or not one")
