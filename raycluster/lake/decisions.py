"""Who was let in and who was not becomes a table of the lake, `_decisions.lance`: one row a decision, only appended.

A batch whose outcome is not known is written again: then its rows stand twice, with one `decision_id`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import lance
import pyarrow as pa

from raycluster.errors import LakeError
from raycluster.lake import store

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("decision_id", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("subject", pa.string()),
        ("team", pa.string()),
        ("roles", pa.list_(pa.string())),
        ("method", pa.string()),
        ("path", pa.list_(pa.string())),
        ("input_digest", pa.string()),  # sha256 of the input document: equal questions have equal ones
        ("allowed", pa.bool_()),
        ("filters", pa.int32()),  # how many
        ("masks", pa.int32()),
        ("reason", pa.string()),  # why nothing was decided, so that it was refused; null otherwise
        ("revision", pa.string()),  # of the policy; null where it is not known
        ("engine", pa.string()),  # rego | opa | none
        ("latency_us", pa.int64()),
    ]
)

_MANY = 64  # fragments: then they are joined
_KEEP_AGE = timedelta(hours=1)  # of old versions: nobody goes back to one
_KEEP_VERSIONS = 3


@dataclass(frozen=True, kw_only=True)
class Decided:
    """One decision."""

    decision_id: str
    at: datetime
    subject: str
    team: str | None
    roles: Sequence[str]
    method: str
    path: Sequence[str]
    input_digest: str
    allowed: bool
    filters: int
    masks: int
    reason: str | None
    revision: str | None
    engine: str
    latency_us: int


@dataclass(frozen=True)
class Decisions:
    """The decision log of a lake."""

    uri: str

    def add(self, decided: Sequence[Decided]) -> None:
        """Append decisions, and join what earlier ones have left in many pieces.

        Raises:
            LakeError: they cannot be written.
        """
        if not decided:
            return
        rows = pa.Table.from_pylist([asdict(one) for one in decided], SCHEMA)
        with store.explained(self.uri, "write to"):
            store.create(self.uri, SCHEMA)
            lance.write_dataset(rows, self.uri, mode="append")
        try:
            self._join()
        except LakeError as error:  # others are at it, or the next time will do
            log.warning("%s", error)

    def scan(self, where: str | None = None, *, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield decisions for which `where` (SQL) holds; none where none were ever written."""
        if store.exists(self.uri):
            with store.explained(self.uri):
                yield from store.open_dataset(self.uri).to_batches(columns=columns, filter=where)

    def _join(self) -> None:
        with store.explained(self.uri, "compact"):
            dataset: Any = store.open_dataset(self.uri)
            if len(dataset.get_fragments()) >= _MANY:
                dataset.optimize.compact_files()
                dataset.cleanup_old_versions(_KEEP_AGE, _KEEP_VERSIONS)
