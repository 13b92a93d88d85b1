"""Objects that somebody has deleted: one row each in `_deleted/<dataset>.lance`, so that no run brings them back.

An object that has changed since is another one, and comes in; so does one that is posted again (`restore`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.register import Register

SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        ("uri", pa.string()),
        ("by", pa.string()),
        ("why", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """One object, deleted by somebody."""

    object_id: str
    uri: str
    by: str
    why: str
    at: datetime


@dataclass(frozen=True)
class Deletions:
    """What was deleted from one dataset; it exists from the first deletion on."""

    uri: str

    def put(self, deletions: Sequence[Deletion]) -> None:
        """Enter deletions; of an object that is deleted again the last one is kept."""
        self._register.put(pa.Table.from_pylist([asdict(one) for one in deletions], SCHEMA))

    def restore(self, uris: Sequence[str]) -> int:
        """Let objects be brought in again; return how many were deleted."""
        return self._register.remove(uris, column="uri")

    def get(self, object_ids: Sequence[str]) -> dict[str, Deletion]:
        """Return those of these objects that were deleted, by their ids."""
        return {key: Deletion(**row) for key, row in self._register.get(object_ids).items()}

    def known(self) -> Iterator[pa.RecordBatch]:
        """Yield every object, streaming, as `Table.known` does: nobody's, of no modality."""
        for rows in self._register.scan(columns=["uri", "object_id"]):
            nothing = pa.nulls(rows.num_rows, pa.string())
            facts = {"modality": nothing, "workload": nothing, "outdated": pa.array([False] * rows.num_rows)}
            yield pa.record_batch({"uri": rows.column("uri"), "object_id": rows.column("object_id"), **facts})

    def among(self, object_ids: Iterable[pa.Array]) -> list[str]:
        """Return which of these objects were deleted. Memory holds the ids of all that were."""
        deleted = [rows.column("object_id") for rows in self._register.scan(columns=["object_id"])]
        if not deleted:
            return []
        every = pa.chunked_array(deleted).combine_chunks()
        found: set[str] = set()
        for some in object_ids:
            found.update(some.filter(pc.is_in(some, every)).to_pylist())
        return sorted(found)

    @property
    def _register(self) -> Register:
        return Register(self.uri, SCHEMA)
