"""Predictions are held against histories whose truth is known: how often the interval holds it, and how wide it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from raycluster.account.forecast import CONFIDENCE, Past, history, predict, why_not
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS
from raycluster.lake.runs import Run

USD = 10**9
START = datetime(2026, 1, 1, tzinfo=UTC)


def past(objects, nanousd, **more) -> Past:
    return Past(**{"run_id": f"r{objects}", "objects": objects, "nanousd": nanousd} | more)


class Truth:
    """A workload that costs a fixed part and a part an object, or a byte, times chance of a relative size."""

    def __init__(self, *, fixed=0.3, noise=0.15, spread=0.7, seed=0):
        self.fixed, self.noise, self.spread = fixed, noise, spread
        self.chance = np.random.default_rng(seed)

    def run(self, factor=1.0, size=0) -> Past:
        """Return a run of about 1,000 objects times `factor`; `size`: how much the bytes of its objects vary."""
        objects = max(1, round(1000 * factor * np.exp(self.chance.normal(0, self.spread))))
        large = float(objects)
        if size:
            large *= np.exp(self.chance.normal(0, size))
        cost = USD * (self.fixed + (1 - self.fixed) * large / 1000) * np.exp(self.chance.normal(0, self.noise))
        return past(objects, round(cost), size_bytes=round(large * 1e6) if size else 0)

    def trial(self, runs, **more):
        """Return a prediction from so many runs, and what the predicted run really cost."""
        known = [self.run(size=more.get("size", 0)) for _ in range(runs)]
        next_one = self.run(**more)
        return predict(known, next_one.objects, next_one.size_bytes), next_one.nanousd


def coverage(truth, runs, *, trials=60, **more) -> float:
    made = [truth.trial(runs, **more) for _ in range(trials)]
    return sum(found.low <= cost <= found.high for found, cost in made) / trials


@pytest.mark.parametrize("runs", [1, 2, 5, 20])
@pytest.mark.parametrize("noise", [0.05, 0.15, 0.3])
def test_the_interval_holds_the_truth_as_often_as_it_says(runs, noise):
    found = [coverage(Truth(noise=noise, fixed=fixed, seed=runs), runs) for fixed in (0.05, 0.3, 0.9)]
    # of 180 trials at 80 %, chance alone takes 9 % off once in a thousand times
    assert np.mean(found) > CONFIDENCE - 0.09, found


@pytest.mark.parametrize("runs", [1, 5, 20])
def test_far_beyond_what_was_seen_it_holds_the_truth_too(runs):
    found = [coverage(Truth(fixed=fixed, seed=runs), runs, factor=1000.0) for fixed in (0.05, 0.3, 0.9)]
    assert np.mean(found) > CONFIDENCE - 0.09, found


def test_it_narrows_with_what_is_known_and_not_below_what_runs_differ_by():
    def width(runs, **more):
        truth = Truth(seed=3, **more)
        return np.median([found.high / found.low for found, _ in (truth.trial(runs) for _ in range(20))])

    one, few, many = width(1), width(5), width(40)
    assert one > 4 > few > many
    assert 1.4 < many < 1.7  # e ** (2 * 1.28 * 0.15) = 1.47
    assert width(40, noise=0.03) < 1.2


def test_the_middle_is_in_the_middle():
    truth = Truth(seed=4)
    found = [prediction.nanousd / cost for prediction, cost in (truth.trial(10) for _ in range(100))]
    assert np.median(found) == pytest.approx(1.0, abs=0.05)


def test_finds_the_fixed_part_and_the_part_an_object():
    truth = Truth(fixed=0.3, noise=0.02, spread=1.5, seed=5)
    found = predict([truth.run() for _ in range(30)], 2000)
    assert found.fixed == pytest.approx(0.3 * USD, rel=0.05)
    assert found.per_object == pytest.approx(0.0007 * USD, rel=0.05)
    assert found.fixed + 2000 * found.per_object == pytest.approx(found.nanousd)
    assert found.nanousd == pytest.approx(1.7 * USD, rel=0.03)


def test_one_run_gives_a_wide_interval_and_does_not_pretend_to_know_the_parts():
    found = predict([past(100, USD)], 100)
    assert found.nanousd == pytest.approx(USD, rel=0.02)
    assert found.low < 0.5 * USD < 2 * USD < found.high
    assert (found.fixed, found.per_object, found.runs, found.is_extrapolation) == (None, None, 1, False)
    assert found.message == "about $1.00 ($0.43 to $2.42 in 80 % of cases, from 1 earlier run)"


def test_many_runs_of_one_size_leave_other_sizes_open():
    known = [past(1000, USD) for _ in range(20)]
    same, ten = predict(known, 1000), predict(known, 10_000)
    assert same.high / same.low < 1.2
    assert ten.low < 1.5 * USD < 9 * USD < ten.high  # all of it may be fixed, or nothing


def test_a_run_a_thousand_times_larger_is_said_to_be_beyond_experience():
    known = [past(100, USD), past(200, 2 * USD)]
    found = predict(known, 200_000)
    assert found.is_extrapolation
    assert found.notes == ("1,000 times as many objects as the largest earlier run: no run was like this one",)
    small = predict(known, 1)
    assert (small.is_extrapolation, small.notes[0][:23]) == (True, "100 times fewer objects")
    for objects in (34, 100, 600):
        assert (predict(known, objects).is_extrapolation, predict(known, objects).notes) == (False, ())


def test_objects_of_another_size_are_beyond_experience_too():
    known = [past(100, USD, size_bytes=10**6)]
    found = predict(known, 100, 10**9)
    assert found.notes == ("1,000 times as many bytes as the largest earlier run: no run was like this one",)
    assert found.low < 2 * USD < 500 * USD < found.high  # it may go by objects or by bytes
    assert not predict(known, 100).is_extrapolation  # bytes are not known
    assert not predict([*known, past(100, USD)], 100, 10**9).is_extrapolation


def test_bytes_are_believed_where_they_explain_the_past_better():
    truth = Truth(noise=0.1, seed=6)
    known = [truth.run(size=1.5) for _ in range(15)]
    made = [truth.run(size=1.5) for _ in range(60)]
    by_bytes = [predict(known, one.objects, one.size_bytes) for one in made]
    by_objects = [predict(known, one.objects) for one in made]
    assert np.mean([p.low <= one.nanousd <= p.high for p, one in zip(by_bytes, made, strict=True)]) > 0.7
    ratio = np.median([a.high / a.low for a in by_bytes]) / np.median([b.high / b.low for b in by_objects])
    assert ratio < 0.5


def test_runs_that_declared_the_same_are_preferred():
    known = [past(100, USD, declaration="a"), past(100, 9 * USD, declaration="b")]
    assert predict(known, 100, declaration="b").nanousd == pytest.approx(9 * USD, rel=0.02)
    assert predict(known, 100, declaration="b").notes == ()
    other = predict(known, 100, declaration="c")
    assert other.runs == 2
    assert "declared other stages" in other.notes[0]
    assert predict(known, 100).notes == ()


def test_only_the_latest_runs_count():
    known = [past(100, USD)] * 50 + [past(100, 100 * USD)] * 50
    found = predict(known, 100)
    assert (found.runs, found.nanousd) == (50, pytest.approx(USD, rel=0.01))


def test_the_same_question_has_the_same_answer():
    known = [past(100, USD), past(300, 2 * USD)]
    assert predict(known, 150) == predict(known, 150)


def test_nothing_to_do_costs_nothing():
    found = predict([past(100, USD)], 0)
    assert (found.nanousd, found.low, found.high) == (0, 0, 0)


def test_where_nothing_is_known_it_says_so():
    assert predict([], 100) is None
    assert "no earlier run" in why_not([])
    unpaid = [past(100, None), past(100, 0)]
    assert predict(unpaid, 100) is None
    assert "no costs in the ledger" in why_not(unpaid)
    assert why_not([*unpaid, past(1, 1)]) == ""
    assert predict([*unpaid, past(100, USD)], 100).runs == 1


@pytest.mark.parametrize(("objects", "nanousd"), [(1, 1), (10**12, 10**18)])
def test_extreme_sizes_and_costs_are_numbers_still(objects, nanousd):
    found = predict([past(objects, nanousd)] * 3, 10**13)
    assert 0 <= found.low <= found.nanousd <= found.high < 10**40


def test_history_joins_runs_with_what_they_cost(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    assert history(lake, "w") == []

    def enter(number, *, workload="w", status="done", **summary):
        lake.runs().put(
            Run(
                run_id=f"r{number}",
                workload=workload,
                dataset="d",
                status=status,
                started_at=START + timedelta(days=number),
                summary={"objects": 10, "skipped": 4, "rows": 12, "seconds": 3.5, "declaration": "x"} | summary,
            )
        )

    enter(1)
    enter(2, size_bytes=99, skipped=0)
    enter(3)  # has no costs
    enter(4, skipped=10)  # had nothing to do
    enter(5, filled=7)  # gave old rows new columns
    enter(6, status="failed")
    enter(7, workload="it's another")
    lines = [
        ("r1", 5, False),
        ("r1", 20, True),
        ("r2", 300, False),
        ("r6", 1, False),
        ("r7", 1, False),
        (None, 1, True),
    ]
    lake.ledger().put_costs(
        pa.Table.from_pylist(
            [
                {"id": str(index), "run_id": run_id, "nanousd": amount, "is_shared": is_shared}
                for index, (run_id, amount, is_shared) in enumerate(lines)
            ],
            COSTS,
        )
    )
    same = {"rows": 12, "seconds": 3.5, "declaration": "x"}
    assert history(lake, "w") == [
        Past(run_id="r3", objects=6, nanousd=None, **same),
        Past(run_id="r2", objects=10, size_bytes=99, nanousd=300, **same),
        Past(run_id="r1", objects=6, nanousd=25, **same),
    ]
    assert [one.run_id for one in history(lake, "w", limit=1)] == ["r3"]
    assert [one.nanousd for one in history(lake, "it's another")] == [1]
