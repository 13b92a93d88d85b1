"""What lies ahead is predicted from earlier runs, where there are any, and held against every budget that matches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.account.outlook import Work, outlook
from raycluster.account.terms import Terms
from raycluster.declare.budget import load_budgets
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS
from raycluster.lake.runs import Run

USD = 10**9
BUDGET = """
apiVersion: raycluster/v1
kind: Budget
metadata: {name: anna-year}
spec:
  owner: {team: anna}
  period: year
  limit: 10.00
  warn: [0.5]
"""
WORK = Work(workload="w", labels={"team": "anna"}, objects=1000, size_bytes=10**6, declaration="d1")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    path = tmp_path / "budget.yaml"
    path.write_text(BUDGET)
    return Terms(budgets=load_budgets(str(path)))


def ran(lake: Lake, number: int, cost: int, objects: int = 1000) -> None:
    """Enter a run that has cost so much, a moment ago."""
    now = datetime.now(UTC)
    summary = {"objects": objects, "declaration": "d1", "size_bytes": objects * 1000}
    lake.runs().put(
        Run(
            run_id=f"r{number}",
            workload="w",
            dataset="d",
            status="done",
            started_at=now - timedelta(seconds=10),
            finished_at=now,
            summary=summary,
        )
    )
    paid = {"id": f"c{number}", "run_id": f"r{number}", "workload": "w", "team": "anna", "nanousd": cost}
    window = {"started_at": now - timedelta(seconds=10), "ended_at": now, "is_shared": False}
    lake.ledger().put_costs(pa.Table.from_pylist([{**paid, **window}], COSTS))


def test_a_first_run_has_no_prediction_and_says_why(lake: Lake, terms: Terms) -> None:
    found = outlook(lake, WORK, terms)
    assert found.prediction is None
    assert found.why
    (verdict,) = found.verdicts
    assert (verdict.level, verdict.spent, verdict.expected) == ("ok", 0, 0)


def test_what_is_spent_and_what_is_expected_count_together(lake: Lake, terms: Terms) -> None:
    for number in range(3):
        ran(lake, number, 2 * USD)
    found = outlook(lake, WORK, terms)
    assert found.prediction is not None
    assert found.prediction.low <= 2 * USD <= found.prediction.high
    (verdict,) = found.verdicts
    assert verdict.spent == 6 * USD
    assert verdict.expected == found.prediction.nanousd
    assert verdict.level == "warn"


def test_what_is_spent_alone_may_be_too_much(lake: Lake, terms: Terms) -> None:
    ran(lake, 0, 11 * USD, objects=0)
    (verdict,) = outlook(lake, WORK, terms).verdicts
    assert verdict.level == "stop"


def test_budgets_of_others_and_none_at_all(lake: Lake, terms: Terms) -> None:
    ran(lake, 0, 11 * USD)
    others = Work(workload="w", labels={"team": "bert"}, objects=10, size_bytes=0, declaration="d1")
    assert outlook(lake, others, terms).verdicts == ()
    assert outlook(lake, WORK, Terms()).verdicts == ()
