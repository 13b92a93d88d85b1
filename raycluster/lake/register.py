"""A small Lance table in which each key has one row: put again, a row replaces itself.

Under `quarantine.py` and `runs.py`. Lance keeps concurrent puts of one key apart only because the key is declared as
the primary key and the merge goes through `execute` (1,530 rows for 200 keys without, on pylance 14.0.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa

from raycluster.errors import InvalidUse
from raycluster.lake import store
from raycluster.lake.write import STORAGE_VERSION

_KEYS_A_FILTER = 1000  # 67 kB of SQL


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
            merge = self._created().merge_insert(self.key)
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def remove(self, keys: Sequence[str], *, column: str | None = None) -> int:
        """Delete the rows with these keys (or values of another column); return how many there were."""
        if not keys or not store.exists(self.uri):
            return 0
        with store.explained(self.uri, "write to"):
            dataset = store.open_dataset(self.uri)
            before = dataset.count_rows()
            for predicate in _predicates(column or self.key, keys):
                if dataset.count_rows(predicate):
                    dataset.delete(predicate)
            return int(before - dataset.count_rows())

    def get(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the rows with these keys, by key."""
        found = (batch for predicate in _predicates(self.key, keys) for batch in self.scan(predicate))
        return {row[self.key]: row for batch in found for row in batch.to_pylist()}

    def scan(
        self, where: str | None = None, *, columns: list[str] | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows, streaming; nothing where the table does not exist. `where` is SQL.

        Raises:
            InvalidUse: the SQL is wrong.
        """
        if not store.exists(self.uri):
            return
        dataset = store.open_dataset(self.uri)
        try:
            yield from dataset.to_batches(columns=columns, filter=where, limit=limit)
        except (ValueError, OSError) as error:
            if where is None:
                with store.explained(self.uri):
                    raise
            raise InvalidUse(f"filter {where!r}: {store.plain(error)}", where="filter") from error

    def _created(self) -> Any:
        if not store.exists(self.uri):
            try:
                lance.write_dataset(
                    self.schema.empty_table(),
                    self.uri,
                    data_storage_version=STORAGE_VERSION,
                    enable_stable_row_ids=True,
                )
            except OSError:
                if not store.exists(self.uri):  # else another driver was faster
                    raise
        return store.open_dataset(self.uri)


def _predicates(column: str, values: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(values), _KEYS_A_FILTER):
        listed = ",".join(quoted(one) for one in values[start : start + _KEYS_A_FILTER])
        yield f"{column} IN ({listed})"


def quoted(text: str) -> str:
    """Return text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
