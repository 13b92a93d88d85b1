"""A small Lance table in which each key has one row: put again, a row replaces itself.

Under `quarantine.py` and `runs.py`. Lance keeps concurrent puts of one key apart only because the key is declared as
the primary key and the merge goes through `execute` (1,530 rows for 200 keys without, on pylance 14.0.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raycluster.errors import LakeError
from raycluster.lake import store
from raycluster.lake.expression import wrong
from raycluster.lake.sql import any_of


@dataclass(frozen=True)
class Register:
    """A table at `uri` whose first column is its key: not null, with the metadata of `columns.PRIMARY_KEY`."""

    uri: str
    schema: pa.Schema

    @property
    def key(self) -> str:
        """Return the name of the key column."""
        return str(self.schema.names[0])

    def put(self, rows: pa.Table) -> None:
        """Add rows; those whose key is there already replace the old ones."""
        if not rows.num_rows:
            return
        with store.explained(self.uri, "write to"):
            store.create(self.uri, self.schema)
            merge = store.open_dataset(self.uri).merge_insert(self.key)
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def add(self, rows: pa.Table) -> bool:
        """Add rows, none of which replaces any: of several puts at once of one key, one is the first.

        Tell whether these were all first.
        """
        with store.explained(self.uri, "write to"):
            store.create(self.uri, self.schema)
            done = store.open_dataset(self.uri).merge_insert(self.key).when_not_matched_insert_all().execute(rows)
        return bool(done["num_inserted_rows"] == rows.num_rows)

    def remove(self, keys: Sequence[str], *, column: str | None = None, where: str = "true") -> int:
        """Delete the rows with these keys (or values of another column) for which `where` (SQL) holds; count them."""
        if not keys or not store.exists(self.uri):
            return 0
        with store.explained(self.uri, "write to"):
            dataset = store.open_dataset(self.uri)
            before = dataset.count_rows()
            for part in any_of(column or self.key, keys):
                predicate = f"{part} AND {where}"
                if dataset.count_rows(predicate):
                    dataset.delete(predicate)
            return int(before - dataset.count_rows())

    def get(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the rows with these keys, by key."""
        found = (batch for predicate in any_of(self.key, keys) for batch in self.scan(predicate))
        return {row[self.key]: row for batch in found for row in batch.to_pylist()}

    def scan(
        self, where: str | None = None, *, columns: list[str] | None = None, said: str | None = None, **more: Any
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows, streaming; nothing where the table does not exist.

        Args:
            where: SQL.
            columns: None for all.
            said: the part of `where` that a person wrote, to be named when it is wrong.
            more: what Lance's scanner takes besides, such as `limit` and `order_by`.

        Raises:
            InvalidUse: what the person wrote is wrong.
        """
        if not store.exists(self.uri):
            return
        dataset = store.open_dataset(self.uri)
        try:
            yield from dataset.to_batches(columns=columns, filter=where, **more)
        except (ValueError, OSError, RuntimeError) as error:
            if said is not None:
                raise wrong(said, store.plain(error)) from error
            fix = store.fix_for(self.uri)
            raise LakeError(f"cannot read {self.uri}: {store.plain(error)}", fix=fix) from error
