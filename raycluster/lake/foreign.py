"""Any Lance table, whoever wrote it, becomes rows with lasting names, and the bytes of its cells.

Read by `read/lance.py`. A cell's *mark* is the name of the data files that hold it: Lance never rewrites a file, so
that a mark changes exactly when an update, a compaction or an added fragment has put the cell elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import pyarrow as pa

from raycluster.lake import store

_SCAN_ROWS = 8192  # rows a batch of names: under 1 MB
_BLOB = b"lance-encoding:blob"


@dataclass(frozen=True)
class Foreign:
    """A Lance table at one version, a tag, or the latest one."""

    uri: str
    version: int | str | None = None

    @cached_property
    def dataset(self) -> Any:
        """Return Lance's own dataset, opened once.

        Raises:
            NotFound: no table or no such version.
            LakeError: it cannot be read.
        """
        return store.open_dataset(self.uri, self.version)

    @property
    def number(self) -> int:
        """Return the version's number."""
        return int(self.dataset.version)

    @property
    def schema(self) -> pa.Schema:
        """Return the columns; a blob column is shown as `large_binary`."""
        fields = [pa.field(one.name, pa.large_binary()) if _is_blob(one) else one for one in self.dataset.schema]
        return pa.schema(fields)

    def is_blob(self, column: str) -> bool:
        """Say whether a column's bytes lie apart and can be read in parts."""
        return column in self.dataset.schema.names and _is_blob(self.dataset.schema.field(column))

    def rows(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows in their order: `columns`, `_rowid`, `_rowaddr`; a blob as the struct that tells its size."""
        with store.explained(self.uri):
            yield from self.dataset.scanner(
                columns=columns, with_row_id=True, with_row_address=True, scan_in_order=True, batch_size=_SCAN_ROWS
            ).to_batches()

    def marks(self, column: str) -> dict[int, str]:
        """Return each fragment's mark for a column, by the fragment's number (a row address >> 32)."""
        top = column if column in self.dataset.schema.names else column.partition(".")[0]
        wanted = next(_ids(field) for field in self.dataset.lance_schema.fields() if field.name() == top)
        marks = {}
        for fragment in self.dataset.get_fragments():
            files = [one.path.removesuffix(".lance") for one in fragment.data_files() if wanted & set(one.fields)]
            marks[fragment.fragment_id] = "+".join(files)
        return marks

    def average(self, column: str) -> float:
        """Return the mean size of a column's cells on disk, bytes."""
        first, *rest = [column] if column in self.dataset.schema.names else column.split(".")
        field = next(one for one in self.dataset.lance_schema.fields() if one.name() == first)
        for part in rest:
            field = next(one for one in field.children() if one.name() == part)
        sizes = {one.id: one.bytes_on_disk for one in self.dataset.stats.data_stats().fields}
        total = sum(int(sizes.get(one, 0)) for one in _ids(field))
        return total / max(int(self.dataset.count_rows()), 1)

    def take(self, column: str, start: int, stop: int) -> pa.Table:
        """Return a column of the rows between two row numbers, fewer where the table ends."""
        with store.explained(self.uri):
            stop = min(stop, self.dataset.count_rows())
            return self.dataset.take(list(range(start, stop)), columns=[column])

    @contextmanager
    def blob(self, column: str, row: int) -> Iterator[BinaryIO]:
        """Open one blob as a file, by row number; a null is an empty one."""
        with store.explained(self.uri):
            found = self.dataset.take_blobs(column, indices=[row])[0]
            with found or io.BytesIO() as file:
                yield file


def _is_blob(field: pa.Field) -> bool:
    is_extension = isinstance(field.type, pa.BaseExtensionType) and "blob" in field.type.extension_name
    return is_extension or (field.metadata or {}).get(_BLOB) == b"true"


def _ids(field: Any) -> set[int]:
    return {field.id()}.union(*map(_ids, field.children()))
