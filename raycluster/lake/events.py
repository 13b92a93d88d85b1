"""What happened and somebody should know: one row each in `_events.lance`, entered once however often it is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.register import Register
from raycluster.lake.sql import instant, quoted

Kind = Literal[
    "budget_warn",  # a share of a budget's limit was reached, of which somebody wants to know
    "budget_stop",  # the share at which runs are refused and stopped
    "unexplained",  # more time than is tolerable has no owner
    "prices_missing",  # usage that no price file covers
]

SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        ("at", pa.timestamp("us", "UTC")),
        ("kind", pa.string()),
        ("subject", pa.string()),
        ("run_id", pa.string()),
        ("message", pa.string()),
        ("detail", pa.string()),  # JSON
    ]
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened. Two with one id are the same: `ledger.line_id` of what tells it from others."""

    event_id: str
    at: datetime
    kind: Kind
    subject: str  # the budget, the node, ...
    run_id: str | None = None
    message: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Events:
    """The list of a lake's events."""

    uri: str

    def put(self, *events: Event) -> None:
        """Enter events; one that is there already stays as it was told first."""
        if not events:
            return
        known = self._register.get([one.event_id for one in events])
        rows = {one.event_id: asdict(one) | {"detail": json.dumps(one.detail)} for one in reversed(events)}
        new = [row for event_id, row in rows.items() if event_id not in known]
        self._register.put(pa.Table.from_pylist(new, SCHEMA))

    def recent(
        self, kind: Kind | None = None, since: datetime | None = None, *, limit: int | None = 100
    ) -> list[Event]:
        """Return events, newest first; `limit` None: all."""
        wanted = [f"kind = {quoted(kind)}"] if kind else []
        wanted += [f"at >= {instant(since)}"] if since else []
        table = pa.Table.from_batches(self._register.scan(" AND ".join(wanted) or None), SCHEMA)
        return [_event(row) for row in table.sort_by([("at", "descending")]).slice(0, limit).to_pylist()]

    @property
    def _register(self) -> Register:
        return Register(self.uri, SCHEMA)


def _event(row: dict[str, Any]) -> Event:
    return Event(**{one.name: row[one.name] for one in fields(Event)} | {"detail": json.loads(row["detail"] or "{}")})
