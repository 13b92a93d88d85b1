"""What the last hour has cost and whom, and how budgets stand, as figures; settled beside requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cost_lines import ledger, line, usage

from raycluster.lake.lake import Lake
from raycluster.serve import spent
from raycluster.serve.figures import Figures

BUDGET = """
apiVersion: raycluster/v1
kind: Budget
metadata: {{name: vision-{period}}}
spec: {{owner: {{team: vision}}, limit: {limit}, period: {period}}}
"""


@pytest.fixture
def billed(tmp_path):
    now = datetime.now(UTC) - timedelta(minutes=5)
    place = Lake(str(tmp_path / "lake"))
    ledger(
        place.uri,
        line(nanousd=1_500_000_000, team="vision", started_at=now),
        line(nanousd=500_000_000, team="vision", started_at=now),
        line(nanousd=250_000_000, team="vision", kind="idle", stage=None, is_shared=True, started_at=now),
        line(nanousd=125_000_000, team=None, kind="idle", stage=None, is_shared=True, started_at=now),
        line(nanousd=8_000_000_000, team="archive", started_at=now - timedelta(hours=2)),
    )
    place.ledger().put_usage(
        usage(*(line(kind=kind, cpu_seconds=seconds, started_at=now) for kind, seconds in CPU_SECONDS))
    )
    return place


CPU_SECONDS = (("task", 90.0), ("task", 8.0), ("unexplained", 2.0))


def told(families):
    return {
        (one.name.removeprefix("raycluster_"), *one.labels.values()): one.value
        for family in families
        for one in family.samples
    }


def test_the_last_hour_by_team_and_what_it_went_to(billed):
    assert told(spent.figures(billed)) == {
        ("hour_cost_usd", "vision", "task"): 2.0,
        ("hour_cost_usd", "vision", "idle"): 0.25,
        ("hour_cost_usd", "(nobody)", "idle"): 0.125,
        ("hour_cpu_seconds", "task"): 98.0,
        ("hour_cpu_seconds", "unexplained"): 2.0,
    }


def test_a_lake_that_nobody_has_used_yet_tells_nothing(tmp_path):
    assert told(spent.figures(Lake(str(tmp_path)))) == {}


def test_budgets_of_periods_tell_what_is_spent_and_of_how_much(billed, tmp_path, monkeypatch):
    (folder := tmp_path / "budgets").mkdir()
    for period, limit in (("month", "2.50"), ("run", "1.00")):
        (folder / f"{period}.yaml").write_text(BUDGET.format(period=period, limit=limit))
    monkeypatch.setenv("RAYCLUSTER_BUDGETS", str(folder))
    found = told(spent.figures(billed))
    assert {key[1:] for key in found if key[0] == "budget_limit_usd"} == {("vision-month", "month")}
    assert found["budget_limit_usd", "vision-month", "month"] == 2.5
    this_month = (datetime.now(UTC) - timedelta(minutes=5)).month == datetime.now(UTC).month
    assert found["budget_spent_usd", "vision-month", "month"] == (2.25 if this_month else 0)


def test_what_waits_in_the_inbox_is_settled_before_it_is_told(billed, context):
    source = Figures(billed, context.follower)
    lines = usage(line(kind="task", cpu_seconds=7.0, started_at=datetime.now(UTC) - timedelta(minutes=3)))
    billed.ledger().drop(lines, "1-node")
    source.collect()
    assert source.bill.nudge(30)
    assert billed.ledger().inbox_names() == []
    assert told(source.collect())["hour_cpu_seconds", "task"] == 105.0
