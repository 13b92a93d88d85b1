"""Runs, past and present: one row each in `_runs.lance`, put when a run starts, moves and ends."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from raycluster.errors import NotFound
from raycluster.lake.columns import PRIMARY_KEY
from raycluster.lake.register import Register
from raycluster.lake.sql import quoted
from raycluster.stage import unknown

Status = Literal["queued", "running", "done", "failed", "stopped"]

SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        ("workload", pa.string()),
        ("dataset", pa.string()),
        ("status", pa.string()),
        ("started_at", pa.timestamp("us", "UTC")),
        ("finished_at", pa.timestamp("us", "UTC")),
        ("version", pa.int64()),
        ("summary", pa.string()),  # JSON
    ]
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution of a plan. `version` is what it made; `summary` what `run --json` prints."""

    run_id: str
    workload: str
    dataset: str
    status: Status
    started_at: datetime
    finished_at: datetime | None = None
    version: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def new_run_id() -> str:
    """Return an id that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Runs:
    """The list of a lake's runs."""

    uri: str

    def put(self, run: Run) -> None:
        """Write a run's present state over its last one."""
        entry = {**asdict(run), "summary": json.dumps(run.summary)}
        self._register.put(pa.Table.from_pylist([entry], SCHEMA))

    def get(self, run_id: str) -> Run:
        """Return one run.

        Raises:
            NotFound: no such run; says the nearest id.
        """
        found = self._register.get([run_id])
        if run_id in found:
            return _run(found[run_id])
        known = [one.run_id for one in self.recent()]
        if not known:
            raise NotFound(f"there is no run {run_id!r}: none has run yet")
        raise unknown("run", run_id, known)

    def several(self, run_ids: list[str]) -> list[Run]:
        """Return those runs that there are."""
        return [_run(row) for row in self._register.get(run_ids).values()]

    def close(self, run_id: str, why: str) -> None:
        """Enter the end of a run that died without a word, or may not go on; one that has ended stays as it is."""
        found = self._register.get([run_id])
        if run_id not in found or (run := _run(found[run_id])).status != "running":
            return
        summary = run.summary | {"status": "failed", "message": why}
        self.put(replace(run, status="failed", finished_at=datetime.now(UTC), summary=summary))

    def recent(
        self,
        dataset: str | None = None,
        *,
        workload: str | None = None,
        status: Status | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """Return runs, newest first; `limit` None: all."""
        asked = {"dataset": dataset, "workload": workload, "status": status}
        wanted = [f"{name} = {quoted(value)}" for name, value in asked.items() if value]
        table = pa.Table.from_batches(self._register.scan(" AND ".join(wanted) or None), SCHEMA)
        return [_run(row) for row in table.sort_by([("started_at", "descending")]).slice(0, limit).to_pylist()]

    @property
    def _register(self) -> Register:
        return Register(self.uri, SCHEMA)


def _run(row: dict[str, Any]) -> Run:
    return Run(**{one.name: row[one.name] for one in fields(Run)} | {"summary": json.loads(row["summary"] or "{}")})
