"""Lines of cost and usage as tests of the bill need them: what is not said has a plain value."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycluster.lake.ledger import COSTS, QUANTITIES, USAGE, Ledger, line_id

# A Thursday. `LAST_WEEK` lies in the ISO week before it: from Monday the 9th to Sunday the 15th.
NOW = datetime(2026, 11, 19, 12, 0).astimezone()
LAST_WEEK = datetime(2026, 11, 11, 10, 0).astimezone(UTC)
WINDOW = timedelta(seconds=10)


def line(**given: Any) -> dict[str, Any]:
    """Return a direct line of a task, of 1,000 nano-dollars."""
    plain: dict[str, Any] = {
        "cluster": "c",
        "node": "n1",
        "node_type": "small",
        "market": "on_demand",
        "kind": "task",
        "run_id": "run-1",
        "workload": "clips",
        "stage": "video",
        "modality": "video",
        "team": "discovery",
        "project": "search",
        "environment": "test",
        "dataset": "clips",
        "version": 1,
        "outcome": "ok",
        "prices": "list@1",
        "is_shared": False,
        "nanousd": 1000,
        **dict.fromkeys(QUANTITIES, 0),
        "started_at": LAST_WEEK,
        **given,
    }
    plain.setdefault("ended_at", plain["started_at"] + WINDOW)
    return plain


def ledger(folder: Path, *lines: dict[str, Any]) -> Ledger:
    """Return a ledger that holds these lines of cost."""
    made = Ledger(str(folder))
    made.put_costs(table(*lines))
    return made


def table(*lines: dict[str, Any]) -> pa.Table:
    """Return lines of cost as a table of COSTS, each with an id of its own."""
    named = [{"id": line_id(place, str(one)), "usage_id": f"u{place}", **one} for place, one in enumerate(lines)]
    return pa.Table.from_pylist(named, COSTS)


def usage(*lines: dict[str, Any]) -> pa.Table:
    """Return lines as usage, on nodes of two cores."""
    node = {"node_cpus": 2.0, "node_gpus": 0.0, "node_memory": 4 * 2**30}
    named = [{"id": line_id(place, str(one)), **node, **one} for place, one in enumerate(lines)]
    return pa.Table.from_pylist(named, USAGE)
