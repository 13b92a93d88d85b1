"""Streams of lines become tables on disk that are grouped and sorted in bounded memory, and are gone afterwards.

Under `bill.py`. DuckDB does it: what does not fit into memory is spilled to the folder for temporary files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from raycluster.errors import RayclusterError

_MEMORY = "512MB"  # of DuckDB; Python, Arrow and what is read ahead come on top
_THREADS = 4  # DuckDB wants about 100 MB each
_INSERTED_ROWS = 245_760  # two of DuckDB's row groups
_READ_ROWS = 65_536


class Scratch:
    """A database in a folder of its own that is deleted after it."""

    def __enter__(self) -> Scratch:
        with _explained():
            self.folder = TemporaryDirectory(prefix="raycluster-costs-")
            settings: dict[str, Any] = {
                "memory_limit": _MEMORY,
                "threads": min(_THREADS, os.cpu_count() or 1),
                "temp_directory": self.folder.name,
                "preserve_insertion_order": False,  # which takes memory; queries say the order where it matters
                "autoinstall_known_extensions": False,
            }
            self.database = duckdb.connect(f"{self.folder.name}/costs.duckdb", config=settings)
            self.database.execute("SET TimeZone = 'UTC'")
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        self.folder.cleanup()

    def fill(self, queries: Mapping[str, str], lines: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
        """Make tables, by name, each of what its query makes of a few batches (`part`) at a time.

        Where a query groups, one group may come out of several parts. What the lines raise comes out as it is.
        """
        for name, query in queries.items():
            self._insert(f"CREATE TABLE {name} AS {query}", schema.empty_table())
        for part in _gathered(lines, schema):
            for name, query in queries.items():
                self._insert(f"INSERT INTO {name} {query}", part)

    def _insert(self, statement: str, part: pa.Table) -> None:
        with _explained():
            self.database.register("part", part)
            self.database.execute(statement)
            self.database.unregister("part")

    def run(self, statement: str) -> None:
        """Carry out a statement."""
        with _explained():
            self.database.execute(statement)

    def table(self, query: str) -> pa.Table:
        """Return an answer that fits into memory."""
        with _explained():
            return self.database.sql(query).to_arrow_table()

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """Yield an answer of any length."""
        with _explained():
            reader = self.database.sql(query).to_arrow_reader(_READ_ROWS)
        while True:
            with _explained():
                batch = next(reader, None)
            if batch is None:
                return
            yield batch


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise RayclusterError(
            f"cannot add up costs: {str(error).partition(chr(10))[0]}",
            fix="free space in the folder for temporary files, or set TMPDIR to a folder on a larger disk",
        ) from error


def _gathered(lines: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield batches together, enough of them to be worth a statement."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in lines:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _INSERTED_ROWS:
            yield pa.Table.from_batches(held).select(schema.names).cast(schema)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held).select(schema.names).cast(schema)
