"""What was spent is counted exactly, judged against its limit, and each crossing is told once."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from time import perf_counter

import pyarrow as pa
import pytest

from raycluster.account.budget import Guard, event, judge, matching, require_within, spent
from raycluster.declare.budget import Budget, Owner
from raycluster.errors import OverBudget
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS

NOW = datetime(2026, 9, 18, 12, tzinfo=UTC)  # a Friday
USD = 10**9
LABELS = {"team": "discovery", "project": "search"}


def budget(**more) -> Budget:
    fields = {
        "name": "discovery-month",
        "owner": Owner(team="discovery"),
        "period": "month",
        "limit": 25 * USD,
        "warn": (0.5, 0.8),
        "where": "budgets/discovery.yaml:7:3",
    }
    return Budget(**(fields | more))


def verdict(amount=0, *, expected=0, **more):
    (found,) = judge([budget(**more)], LABELS, spent={"discovery-month": amount}, at=NOW, expected=expected)
    return found


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def bill(lake, *lines) -> None:
    """Enter lines of cost: (moment, nano-dollars, other columns)."""
    rows = [
        {"team": "discovery", "project": "search", "run_id": "r1", "is_shared": False}
        | {"id": f"{index}", "started_at": at, "nanousd": amount}
        | more
        for index, (at, amount, more) in enumerate(lines)
    ]
    lake.ledger().put_costs(pa.Table.from_pylist(rows, COSTS))


def test_nothing_is_spent_where_nothing_was_billed(lake):
    assert spent(lake, budget(), NOW) == 0


def test_counts_the_owner_and_no_one_else(lake):
    bill(
        lake,
        (NOW, 1, {}),
        (NOW, 20, {"is_shared": True}),  # their part of what nobody used
        (NOW, 300, {"project": None}),
        (NOW, 4000, {"team": "other"}),
        (NOW, 50_000, {"team": None}),
        (NOW, 600_000, {"project": "it's"}),
    )
    assert spent(lake, budget(), NOW) == 600_321
    assert spent(lake, budget(owner=Owner(team="discovery", project="search")), NOW) == 21
    assert spent(lake, budget(owner=Owner(project="it's")), NOW) == 600_000
    assert spent(lake, budget(owner=Owner(team="' OR '1'='1")), NOW) == 0


@pytest.mark.parametrize(
    ("period", "since", "until"),
    [
        ("day", datetime(2026, 9, 18, tzinfo=UTC), datetime(2026, 9, 19, tzinfo=UTC)),
        ("week", datetime(2026, 9, 14, tzinfo=UTC), datetime(2026, 9, 21, tzinfo=UTC)),
        ("month", datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)),
        ("quarter", datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)),
        ("year", datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_window_belongs_to_the_period_in_which_it_began(lake, period, since, until):
    moment = timedelta(microseconds=1)
    bill(lake, (since - moment, 1, {}), (since, 20, {}), (until - moment, 300, {}), (until, 4000, {}))
    assert spent(lake, budget(period=period), NOW) == 320


def test_sums_beyond_what_a_float_holds(lake):
    bill(lake, (NOW, 9_007_199_254_740_993, {}), (NOW, 9_007_199_254_740_992, {"id": "b"}))
    assert spent(lake, budget(), NOW) == 18_014_398_509_481_985


def test_the_run_that_a_guard_is_told_of_is_left_out(lake):
    bill(lake, (NOW, 1, {"run_id": "r1"}), (NOW, 20, {"run_id": "r2"}), (NOW, 300, {"run_id": None}))
    assert spent(lake, budget(), NOW, besides="r1") == 320


def test_a_single_run_has_spent_nothing_before(lake):
    bill(lake, (NOW, 1, {}))
    assert spent(lake, budget(period="run"), NOW) == 0


def test_only_budgets_of_the_owner_are_judged():
    other = budget(name="other", owner=Owner(team="other"))
    prod = budget(name="prod", owner=Owner(team="discovery", environment="prod"))
    both = budget(name="both", owner=Owner(team="discovery", project="search"))
    assert matching([other, prod, both], LABELS) == (both,)
    (found,) = judge([other, prod, both], LABELS, spent={"other": 10**12, "both": 1}, at=NOW)
    assert (found.budget.name, found.spent) == ("both", 1)


@pytest.mark.parametrize(
    ("amount", "level", "threshold"),
    [
        (0, "ok", None),
        (12_499_999_999, "ok", None),
        (12_500_000_000, "warn", 0.5),
        (19_999_999_999, "warn", 0.5),
        (20_000_000_000, "warn", 0.8),
        (24_999_999_999, "warn", 0.8),
        (25_000_000_000, "stop", 1.0),
        (90_000_000_000, "stop", 1.0),
    ],
)
def test_levels_change_at_the_very_nano_dollar(amount, level, threshold):
    for before in (0, 10 * USD):  # what is spent and what is expected count alike
        found = verdict(min(before, amount), expected=amount - min(before, amount))
        assert (found.level, found.threshold) == (level, threshold)


def test_a_budget_that_only_warns_never_stops():
    found = verdict(90 * USD, stop=None)
    assert (found.level, found.threshold, found.share) == ("warn", 0.8, 3.6)
    require_within([found])


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (verdict(2 * USD), "budget 'discovery-month': $2.00 of $25.00 spent this month (8 %)"),
        (
            verdict(21_300_000_000),
            "budget 'discovery-month': $21.30 of $25.00 spent this month (85 %), warns at 80 %",
        ),
        (
            verdict(21_300_000_000, expected=5 * USD),
            "budget 'discovery-month': $21.30 of $25.00 spent this month (85 %), "
            "$5.00 more expected (together 105 %), stops at 100 %",
        ),
        (
            verdict(expected=25 * USD, period="run"),
            "budget 'discovery-month': $0.00 of $25.00 spent by this run (0 %), "
            "$25.00 more expected (together 100 %), stops at 100 %",
        ),
        (
            verdict(24_999_999_999, period="day", warn=()),
            "budget 'discovery-month': $25.00 of $25.00 spent today (99 %)",
        ),
    ],
)
def test_a_verdict_says_itself(found, says):
    assert found.message == says


def test_to_stop_is_an_error_that_says_what_to_do():
    over = verdict(26 * USD)
    with pytest.raises(OverBudget) as caught:
        require_within([verdict(0), over])
    error = caught.value
    assert (error.code, error.status, error.retryable, error.exit_code) == ("over_budget", 402, False, 1)
    assert error.message == over.message
    assert error.fix == (
        "raise `limit` (budgets/discovery.yaml:7:3), wait until 2026-10-01 (UTC), when the period ends, "
        "or allow it: --over-budget"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_several_that_stop_are_told_together_and_waiting_helps_only_where_time_does():
    day = budget(name="day", period="day", where="")
    single = budget(name="single", period="run", where="b.yaml:3:1")
    spends = {"discovery-month": 26 * USD, "day": 26 * USD}
    with pytest.raises(OverBudget) as caught:
        require_within(judge([budget(), day], LABELS, spent=spends, at=NOW))
    assert "wait until 2026-10-01" in caught.value.fix
    assert "(budgets/discovery.yaml:7:3, budget 'day')" in caught.value.fix
    with pytest.raises(OverBudget) as caught:
        require_within(judge([day, single], LABELS, spent=spends, at=NOW, expected=26 * USD))
    assert caught.value.message.count("stops at 100 %") == 2
    assert "wait" not in caught.value.fix


def test_within_the_limit_nothing_is_raised():
    require_within([])
    require_within([verdict(0), verdict(24 * USD)])


def test_one_crossing_is_one_event(lake):
    first = event(verdict(13 * USD), at=NOW, run_id="r1")
    again = event(verdict(14 * USD), at=NOW + timedelta(hours=1), run_id="r2")
    assert first.event_id == again.event_id
    assert (first.kind, first.subject, first.run_id) == ("budget_warn", "discovery-month", "r1")
    assert (first.detail["spent_nanousd"], first.detail["since"]) == (13 * USD, "2026-09-01T00:00:00+00:00")
    later = judge([budget()], LABELS, spent={"discovery-month": 13 * USD}, at=NOW + timedelta(days=30))[0]
    others = [
        event(verdict(21 * USD), at=NOW),  # the next threshold
        event(verdict(26 * USD), at=NOW),
        event(verdict(expected=13 * USD), at=NOW),  # it has not come to be
        event(verdict(13 * USD, limit=24 * USD), at=NOW),  # another limit
        event(verdict(13 * USD, name="discovery-month", period="week"), at=NOW),
        event(later, at=NOW + timedelta(days=30)),
    ]
    assert len({one.event_id for one in (first, *others)}) == 7
    assert others[1].kind == "budget_stop"
    lake.events().put(first)
    lake.events().put(again)
    assert lake.events().recent("budget_warn") == [first]


def test_single_runs_cross_each_by_itself():
    found = verdict(26 * USD, period="run")
    ids = {event(found, at=NOW, run_id=run_id).event_id for run_id in ("r1", "r2", "r2")}
    assert len(ids) == 2


def test_where_nothing_happened_there_is_no_event():
    with pytest.raises(ValueError, match="no threshold was reached"):
        event(verdict(0), at=NOW)


def test_a_guard_tells_each_threshold_once():
    guard = Guard([budget()], {"discovery-month": 10 * USD}, at=NOW)
    told = [[one.threshold for one in guard.look(cost * USD, at=NOW)] for cost in (0, 2, 3, 3, 9, 10, 11, 14, 15, 99)]
    assert told == [[], [], [0.5], [], [], [0.8], [], [], [1.0], []]


def test_a_guard_counts_what_was_spent_before_and_what_the_run_costs():
    guard = Guard([budget()], {"discovery-month": 10 * USD}, at=NOW)
    (found,) = guard.look(15 * USD, at=NOW)  # three thresholds at once: the highest is told
    assert (found.level, found.spent, found.expected) == ("stop", 25 * USD, 0)
    assert guard.look(16 * USD, at=NOW) == []


def test_a_guard_tells_what_was_reached_before_the_run():
    guard = Guard([budget()], {"discovery-month": 20 * USD}, at=NOW)
    assert [one.threshold for one in guard.look(0, at=NOW)] == [0.8]


def test_a_guard_keeps_budgets_apart():
    single = budget(name="single", period="run", limit=2 * USD)
    guard = Guard([budget(), single], {"discovery-month": 19 * USD}, at=NOW)
    assert [one.budget.name for one in guard.look(0, at=NOW)] == ["discovery-month"]
    assert [(one.budget.name, one.threshold) for one in guard.look(USD, at=NOW)] == [
        ("discovery-month", 0.8),
        ("single", 0.5),
    ]
    assert [(one.budget.name, one.level) for one in guard.look(2 * USD, at=NOW)] == [("single", "stop")]


def test_a_cost_that_is_corrected_downwards_tells_nothing_twice():
    guard = Guard([budget()], {}, at=NOW)
    assert len(guard.look(13 * USD, at=NOW)) == 1
    assert guard.look(11 * USD, at=NOW) == guard.look(13 * USD, at=NOW) == []


def test_where_a_period_ends_the_next_begins_with_nothing():
    day = budget(period="day", limit=10 * USD, warn=(0.5,))
    guard = Guard([day], {"discovery-month": 4 * USD}, at=NOW)
    assert [one.threshold for one in guard.look(5 * USD, at=NOW)] == [0.5]
    midnight = datetime(2026, 9, 19, tzinfo=UTC)
    assert guard.look(7 * USD, at=midnight) == []
    (half,) = guard.look(12 * USD, at=midnight + timedelta(hours=1))
    assert (half.threshold, half.spent) == (0.5, 5 * USD)
    assert half.window == (midnight, midnight + timedelta(days=1))
    assert [one.level for one in guard.look(17 * USD, at=midnight + timedelta(hours=2))] == ["stop"]


def test_a_single_run_that_lasts_for_days_is_still_one():
    guard = Guard([budget(period="run", limit=10 * USD, warn=())], {}, at=NOW)
    assert guard.look(6 * USD, at=NOW) == []
    assert [one.level for one in guard.look(10 * USD, at=NOW + timedelta(days=400))] == ["stop"]


def test_what_others_spend_meanwhile_counts_when_it_is_counted_again():
    guard = Guard([budget()], {"discovery-month": 5 * USD}, at=NOW)
    assert guard.look(5 * USD, at=NOW) == []
    guard.recount({"discovery-month": 19 * USD})
    assert [one.spent for one in guard.look(6 * USD, at=NOW)] == [25 * USD]


def test_looking_twice_a_second_costs_nothing():
    guard = Guard([budget(name=f"b{index}") for index in range(100)], {}, at=NOW)
    start = perf_counter()
    for cost in range(1000):
        assert guard.look(cost) == []
    assert perf_counter() - start < 10  # 100 budgets: below 10 ms a look, of the 500 between two
