"""What could not be used, each with a code: a Lance table beside the dataset, put again without doubling.

A row is named as it would be in the dataset (object, modality, position), so that it can be found there once it passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import ColumnOrdering

from raycluster.errors import QUARANTINE_CODES, InvalidUse
from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.expression import condition
from raycluster.lake.register import Register
from raycluster.lake.sql import instant, quoted
from raycluster.row import row_id
from raycluster.stage import unknown

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        ("object_id", pa.string()),
        # the digest of the declaration under which nothing more will come of the object, so that it is not tried
        # again; null where other rows of it are in the dataset, or where the fault may pass by itself
        ("settled_by", pa.string()),
        ("uri", pa.string()),
        ("modality", pa.string()),
        ("position", pa.int32()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("run_id", pa.string()),
        ("workload", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)
_ORDER = [ColumnOrdering("at", ascending=False), ColumnOrdering("uri"), ColumnOrdering("id")]
_SHOWN = 1000  # rows listed when nobody says how many
_ADDED_AT_ONCE = 5000  # rows a merge: a few MB of messages


@dataclass(frozen=True)
class Quarantine:
    """The quarantine of one dataset, where it lies; it exists from the first bad row on."""

    uri: str

    def add(self, bad: Sequence[dict[str, Any]], *, run_id: str, workload: str) -> None:
        """Put bad rows: each holds object_id, uri, modality, position, stage, code, message, and settled_by if any.

        `attempts` counts the runs that failed on a row; a run that adds it twice counts once.
        """
        for start in range(0, len(bad), _ADDED_AT_ONCE):
            self._add(bad[start : start + _ADDED_AT_ONCE], {"run_id": run_id, "workload": workload})

    def _add(self, bad: Sequence[dict[str, Any]], run: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        rows = {_identity(one): one for one in bad}
        before = self._register.get(list(rows))
        entries = [
            {
                "whole": True,
                **one,
                **run,
                "id": identity,
                "at": now,
                "attempts": _attempts(before.get(identity), run["run_id"]),
            }
            for identity, one in rows.items()
        ]
        self._register.put(pa.Table.from_pylist(entries, SCHEMA))

    def remove(self, object_ids: Sequence[str], *, except_run: str | None = None) -> int:
        """Take out every row of objects that now pass, or whose uri now has another version; return how many.

        `except_run`: rows that this run has put stay; they are what is bad now.
        """
        where = "true" if except_run is None else f"run_id <> {quoted(except_run)}"
        return self._register.remove(object_ids, column="object_id", where=where)

    def remove_rows(self, ids: Sequence[str]) -> int:
        """Take out single rows, which their objects' other rows survive; return how many."""
        return self._register.remove(ids)

    def known(self, declaration: str) -> Iterator[pa.RecordBatch]:
        """Yield every row, streaming: `uri`, `object_id`, `modality`, `workload`, `code`, `settled`.

        `settled`: whether nothing more will come of its object under `declaration` (a digest).
        """
        for batch in self._register.scan(columns=["uri", "object_id", "modality", "workload", "code", "settled_by"]):
            settled = pc.fill_null(pc.equal(batch.column("settled_by"), declaration), False)
            yield batch.drop_columns(["settled_by"]).append_column("settled", settled)

    def rows(
        self, code: str | None = None, *, where: str | None = None, limit: int = _SHOWN, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Return rows, newest first.

        Args:
            code: only those with this code.
            where: an SQL condition on the columns of SCHEMA.
            limit: at most so many.
            after: only those that follow a row, which `place_of` tells; it need not be there any more.

        Raises:
            InvalidUse: the condition, `limit` or `after` is wrong.
            NotFound: no such code; says the nearest.
        """
        if code is not None and code not in QUARANTINE_CODES:
            raise unknown("quarantine code", code, list(QUARANTINE_CODES))
        if limit < 0:
            raise InvalidUse(f"limit {limit} is negative", where="limit")
        wanted = [f"code = {quoted(code)}"] if code else []
        wanted += [condition(where, SCHEMA).sql] if where else []
        wanted += [_following(after)] if after else []
        found = self._register.scan(" AND ".join(wanted) or None, said=where, order_by=_ORDER, limit=limit)
        return [row for batch in found for row in batch.to_pylist()]

    def counts(self) -> dict[str, int]:
        """Return how many rows each code has, the most frequent first."""
        sums = Counter[str]()
        for batch in self._register.scan(columns=["code"]):
            sums.update(batch.column("code").to_pylist())
        return dict(sums.most_common())

    def tally(self) -> dict[tuple[str, str], int]:
        """Return how many rows each run has here of each stage: (run_id, stage) -> rows."""
        sums = Counter[tuple[str, str]]()
        for batch in self._register.scan(columns=["run_id", "stage"]):
            sums.update(zip(batch.column("run_id").to_pylist(), batch.column("stage").to_pylist(), strict=True))
        return dict(sums)

    @property
    def _register(self) -> Register:
        return Register(self.uri, SCHEMA)


def place_of(row: dict[str, Any]) -> str:
    """Return where a row stands in the order in which they are listed, for `after`."""
    return f"{row['at'].isoformat()}|{row['uri']}|{row['id']}"


def _following(place: str) -> str:
    """Return the SQL condition on rows that come after a place.

    Raises:
        InvalidUse: it is none.
    """
    try:
        moment, rest = place.split("|", 1)
        uri, row = (quoted(part) for part in rest.rsplit("|", 1))
        at = instant(datetime.fromisoformat(moment))
    except ValueError as error:
        fix = "give what the page before says as `next`"
        raise InvalidUse(f"{place!r} is no place in a quarantine", where="after", fix=fix) from error
    return f"(at < {at} OR (at = {at} AND (uri > {uri} OR (uri = {uri} AND id > {row}))))"


def _identity(bad: dict[str, Any]) -> str:
    return row_id(bad["object_id"], bad["modality"] or "", bad["position"] or 0)


def _attempts(before: dict[str, Any] | None, run_id: str) -> int:
    if before is None:
        return 1
    return int(before["attempts"]) + int(before["run_id"] != run_id)
