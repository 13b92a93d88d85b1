"""Rollbacks, past and unfinished: one row each in `_rollbacks.lance`, put before anything moves and when all has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.register import Register
from raycluster.lake.sql import quoted

SCHEMA = pa.schema(
    [
        pa.field("rollback_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        ("dataset", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("by", pa.string()),
        ("why", pa.string()),
        ("left", pa.int64()),
        ("version", pa.int64()),
        ("restored", pa.int64()),
        ("undone", pa.string()),  # JSON
        ("regained", pa.string()),  # JSON
    ]
)


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """One rollback of a dataset: from version `left` to `version`."""

    rollback_id: str
    dataset: str
    at: datetime
    by: str
    why: str
    left: int  # what readers saw before: give that to undo the rollback
    version: int  # what `live` went back to
    restored: int | None = None  # the version on which the next run builds: the same rows; None: not finished
    undone: dict[str, str] = field(default_factory=dict)  # workload -> digest of the declaration whose run was undone
    regained: dict[str, str] = field(default_factory=dict)  # the same of the runs whose rows are there (again)


@dataclass(frozen=True)
class Rollbacks:
    """The list of a lake's rollbacks."""

    uri: str

    def put(self, entry: Rollback) -> None:
        """Write a rollback's present state over its last one."""
        row = asdict(entry) | {"undone": json.dumps(entry.undone), "regained": json.dumps(entry.regained)}
        self._register.put(pa.Table.from_pylist([row], SCHEMA))

    def of(self, dataset: str) -> list[Rollback]:
        """Return a dataset's rollbacks, newest first."""
        found = pa.Table.from_batches(self._register.scan(f"dataset = {quoted(dataset)}"), SCHEMA)
        return [_entry(row) for row in found.sort_by([("at", "descending")]).to_pylist()]

    @property
    def _register(self) -> Register:
        return Register(self.uri, SCHEMA)


def _entry(row: dict[str, Any]) -> Rollback:
    known = {one.name: row[one.name] for one in fields(Rollback)}
    return Rollback(**known | {"undone": json.loads(row["undone"]), "regained": json.loads(row["regained"])})
