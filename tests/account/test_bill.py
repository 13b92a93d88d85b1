"""The bill adds up to the nano-dollar, whatever it is grouped by, and says what was asked of nobody."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cost_lines import LAST_WEEK, NOW, WINDOW, ledger, line, table, usage
from hypothesis import given, settings
from hypothesis import strategies as st

from raycluster.account.bill import compare, lines, make_bill, records
from raycluster.account.group import add_up
from raycluster.account.price import price
from raycluster.account.question import KEYS, Question, ask
from raycluster.account.restate import windows
from raycluster.declare.prices import LOCAL, Prices
from raycluster.errors import LakeError, NotFound, RayclusterError
from raycluster.lake.ledger import USAGE, Ledger
from raycluster.units import nano_usd

DEAR = Prices(name="dear", version="1", cpu_hour=nano_usd("3.6"), gib_hour=0)


def asked(place: Ledger, **question: Any) -> list[dict[str, Any]]:
    return list(records(make_bill(place, ask(now=NOW, **question)).sums.lines))


# --- grouping --------------------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b", None])
LINES = st.lists(
    st.builds(
        line,
        team=LABELS,
        stage=LABELS,
        run_id=LABELS,
        kind=st.sampled_from(["task", "idle"]),
        version=st.sampled_from([1, None]),
        is_shared=st.booleans(),
        nanousd=st.integers(0, 2**50),
        started_at=st.integers(0, 100).map(lambda hours: LAST_WEEK + timedelta(hours=hours)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(LINES, st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
def test_groups_add_up_to_the_total_exactly(made: list[dict[str, Any]], by: list[str]) -> None:
    sums = add_up(table(*made).to_batches(max_chunksize=3), by)
    whole = sum(one["nanousd"] for one in made)
    shared = sum(one["nanousd"] for one in made if one["is_shared"])
    found = list(records(sums.lines))
    assert sum(one["nanousd"] for one in found) == sums.total["nanousd"] == whole
    assert sum(one["shared_nanousd"] for one in found) == sums.total["shared_nanousd"] == shared
    assert all(one["direct_nanousd"] + one["shared_nanousd"] == one["nanousd"] for one in found)
    assert sum(sums.shared.values()) == shared
    assert len({tuple(one[key] for key in by) for one in found}) == len(found)
    if whole:
        assert sum(one["share"] for one in found) == pytest.approx(100.0)


def test_the_dearest_comes_first_and_of_times_the_earliest(tmp_path: Path) -> None:
    place = ledger(
        tmp_path,
        line(team="a", nanousd=5, started_at=LAST_WEEK + timedelta(days=1)),
        line(team="b", nanousd=9),
        line(team="a", nanousd=1),
    )
    assert [(one["team"], one["nanousd"]) for one in asked(place, by="team")] == [("b", 9), ("a", 6)]
    assert [one["day"] for one in asked(place, by="day")] == ["2026-11-11", "2026-11-12"]


def test_a_row_counts_once_though_every_stage_puts_it_out(tmp_path: Path) -> None:
    place = ledger(
        tmp_path,
        line(stage="video", rows_out=30, bytes_read=2 * 10**9, nanousd=300),
        line(stage="image", modality="image", rows_out=20, nanousd=100),
        line(stage="efficientnet", modality=None, rows_out=50, nanousd=500),
        line(stage="minilm", modality=None, rows_out=50, nanousd=100),
        line(run_id="run-2", stage="image", rows_out=10),
    )
    (team,) = asked(place, by="team")
    assert (team["rows_out"], team["rows"]) == (160, 60)
    assert team["nanousd_per_1000_rows"] == round(2000 / 60 * 1000)
    assert team["nanousd_per_gb_read"] == 1000
    by_stage = {one["stage"]: one for one in asked(place, by="stage", only=["run=run-1"])}
    assert by_stage["video"]["nanousd_per_1000_rows"] == 10_000
    assert by_stage["minilm"]["nanousd_per_gb_read"] is None


def test_which_teams_video_decoding_cost_what_last_week_and_how_much_of_it_was_retries(tmp_path: Path) -> None:
    place = ledger(
        tmp_path,
        line(nanousd=700),
        line(nanousd=200, outcome="retried"),
        line(nanousd=90, outcome="killed"),
        line(nanousd=50, team="archive"),
        line(nanousd=10_000, stage="minilm"),
        line(nanousd=10_000, started_at=LAST_WEEK - timedelta(days=7)),
        line(nanousd=10_000, started_at=LAST_WEEK + timedelta(days=7)),
    )
    found = asked(place, by="team,outcome", only=["stage=video"], since="last week")
    assert [(one["team"], one["outcome"], one["nanousd"]) for one in found] == [
        ("discovery", "ok", 700),
        ("discovery", "retried", 200),
        ("discovery", "killed", 90),
        ("archive", "ok", 50),
    ]
    assert [round(one["share"], 1) for one in found] == [67.3, 19.2, 8.7, 4.8]


def test_prices_and_shared_kinds_are_named(tmp_path: Path) -> None:
    place = ledger(
        tmp_path,
        line(),
        line(kind="idle", is_shared=True, nanousd=7),
        line(kind="startup", is_shared=True, nanousd=5, prices="list@2"),
    )
    sums = make_bill(place, ask(by="team")).sums
    assert sums.prices == ("list@1", "list@2")
    assert sums.shared == {"idle": 7, "startup": 5}


# --- nothing to say --------------------------------------------------------------------------------------------------


def test_a_ledger_that_was_never_written_to_costs_nothing(tmp_path: Path) -> None:
    bill = make_bill(Ledger(str(tmp_path)), ask(only=["team=discovery"]))
    assert bill.document["lines"] == []
    assert bill.document["total"]["nanousd"] == 0
    assert not list(tmp_path.iterdir())


def test_a_quiet_week_costs_nothing_and_a_misspelt_team_is_an_error(tmp_path: Path) -> None:
    place = ledger(tmp_path, line())
    assert asked(place, only=["team=discovery"], since="today") == []
    with pytest.raises(NotFound, match="unknown team 'discovry'") as caught:
        asked(place, only=["team=discovry"], since="today")
    assert caught.value.fix == "did you mean 'discovery'?"
    with pytest.raises(NotFound, match="unknown run 'run-7'"):
        asked(place, only=["run=run-7"])
    assert asked(place, only=["outcome="]) == []


def test_what_the_lake_says_comes_out_as_it_is(tmp_path: Path) -> None:
    place = ledger(tmp_path, line())
    for file in (tmp_path / "_costs.lance" / "data").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(LakeError):
        make_bill(place, ask())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(RayclusterError, match="cannot add up costs") as caught:
        add_up([], ("team",))
    assert "TMPDIR" in caught.value.fix


# --- two runs --------------------------------------------------------------------------------------------------------


def test_two_runs_beside_each_other(tmp_path: Path) -> None:
    place = ledger(
        tmp_path,
        line(nanousd=100, cpu_seconds=1.0, rows_out=5),
        line(nanousd=40, stage="minilm"),
        line(run_id="run-2", nanousd=150, cpu_seconds=2.0, rows_out=5),
        line(run_id="run-2", nanousd=7, stage="image"),
        line(run_id="run-3"),
    )
    found = compare(place, ask(by="stage"), ("run-1", "run-2"))
    said = {one["stage"]: (one["a_nanousd"], one["b_nanousd"], one["difference_nanousd"]) for one in found.parts}
    assert said == {"video": (100, 150, 50), "minilm": (40, 0, -40), "image": (0, 7, 7)}
    assert [one["ratio"] for one in found.parts] == [1.5, 0.0, None]
    assert found.total["difference_nanousd"] == 17
    assert (found.total["a_cpu_seconds"], found.total["b_rows"]) == (1.0, 5)
    assert found.by == ("stage",)


def test_comparing_with_a_run_that_is_not_there(tmp_path: Path) -> None:
    place = ledger(tmp_path, line())
    with pytest.raises(NotFound, match="unknown run 'run-2'") as caught:
        compare(place, ask(by="stage"), ("run-1", "run-2"))
    assert caught.value.fix == "did you mean 'run-1'?"
    with pytest.raises(NotFound, match="no lines of cost that fit"):
        compare(place, ask(by="stage", only=["team=discovery"], since="today", now=NOW), ("run-1", "run-1"))
    with pytest.raises(NotFound, match="no lines of cost"):
        compare(Ledger(str(tmp_path / "empty")), ask(by="stage"), ("run-1", "run-1"))


# --- other prices ----------------------------------------------------------------------------------------------------


def used(**given: Any) -> dict[str, Any]:
    return line(**{"cpu_seconds": 10.0, **given})


@pytest.fixture
def worked(tmp_path: Path) -> Ledger:
    """Return a ledger of usage on two nodes: of two runs, and idle time that both bear."""
    place = Ledger(str(tmp_path))
    later = {"started_at": LAST_WEEK + 2 * WINDOW}
    half = {"started_at": LAST_WEEK + WINDOW / 2, "ended_at": LAST_WEEK + WINDOW}
    nobody = dict.fromkeys(("team", "project", "environment", "run_id", "workload", "stage", "outcome"))
    place.put_usage(
        usage(
            used(),
            used(kind="idle", **nobody),
            used(node="n2", run_id="run-2", team="archive", cpu_seconds=5.0, **half),
            used(node="n2", kind="idle", cpu_seconds=5.0, **nobody | half),
            used(run_id="run-3", **later),
            used(kind="idle", **nobody, **later),
        )
    )
    return place


def test_restating_prices_usage_anew_and_stores_nothing(worked: Ledger) -> None:
    bill = make_bill(worked, ask(by="team"), prices=DEAR)
    found = {one["team"]: one for one in records(bill.sums.lines)}
    assert bill.sums.prices == ("dear@1",)
    assert bill.sums.total["nanousd"] == (20 + 10 + 20) * 1_000_000  # core-seconds x nano-dollars
    assert found["discovery"]["direct_nanousd"] == 20_000_000
    assert found["archive"]["shared_nanousd"] == 5_000_000
    assert list(worked.costs()) == []


@pytest.mark.parametrize("only", [["run=run-2"], ["team=archive"], ["run=run-2", "day=2026-11-11"]])
def test_a_part_restated_is_that_part_of_the_whole(worked: Ledger, only: list[str]) -> None:
    every = pa.Table.from_batches(worked.usage())
    whole = price(every.select(USAGE.names).cast(USAGE), DEAR)
    wanted = ask(by="run", only=only).choose(whole)
    sums = make_bill(worked, ask(by="run", only=only), prices=DEAR).sums
    assert sums.total["nanousd"] == sum(wanted["nanousd"].to_pylist()) == 10_000_000


def test_a_time_within_a_window_still_prices_the_window_as_a_whole(worked: Ledger) -> None:
    question = Question(by=("run",), since=LAST_WEEK + timedelta(seconds=3), until=LAST_WEEK + WINDOW)
    sums = make_bill(worked, question, prices=DEAR).sums
    assert sums.lines["run"].to_pylist() == ["run-2", "run-1"]  # which bears idle time of the other node
    assert sums.total["nanousd"] == 10_000_000


def test_restated_lines_are_whole_costs(worked: Ledger) -> None:
    found = pa.Table.from_batches(lines(worked, ask(only=["team=archive"]), prices=DEAR))
    assert set(found["team"].to_pylist()) == {"archive"}
    assert "usage_id" in found.schema.names
    with pytest.raises(NotFound, match="unknown team 'archives'"):
        make_bill(worked, ask(only=["team=archives"]), prices=LOCAL)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), min_size=1, max_size=40), st.integers(1, 9))
def test_windows_that_overlap_are_never_parted(spans: list[tuple[int, int]], most: int) -> None:
    made = usage(
        *(
            used(started_at=LAST_WEEK + timedelta(seconds=start), ended_at=LAST_WEEK + timedelta(seconds=start + long))
            for start, long in sorted(spans)
        )
    )
    parts = list(windows(made.to_batches(max_chunksize=4), most))
    assert pa.concat_tables(parts)["id"].to_pylist() == made["id"].to_pylist()
    for before, after in pairwise(parts):
        assert max(before["ended_at"].to_pylist()) <= min(after["started_at"].to_pylist())
