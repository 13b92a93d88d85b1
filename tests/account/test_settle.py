"""However often, in whatever order and by how many the ledger is settled: each window is paid once, in full."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from raycluster.account import settle as module
from raycluster.account.settle import Settled, cost_of, lines_of, settle, unexplained
from raycluster.declare.prices import NodePrice, Prices
from raycluster.errors import InvalidUse
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import USAGE, Ledger
from raycluster.lake.runs import Run

START = datetime(2026, 11, 1, tzinfo=UTC)
RATE = 1000  # nano-dollars a second of a node
FLAT = Prices(
    name="flat",
    version="1",
    nodes={"n": NodePrice(on_demand=RATE * 3600)},
    cpu_hour=1,
    gib_hour=0,
    gpu_hour={"default": 0},
)
DEAR = replace(FLAT, version="2", nodes={"n": NodePrice(on_demand=3 * RATE * 3600)})


@pytest.fixture
def lake(tmp_path: Any) -> Lake:
    return Lake(str(tmp_path / "lake"))


def line(name: str, at: float = 0, length: float = 10, **known: Any) -> dict[str, Any]:
    window = {"started_at": START + timedelta(seconds=at), "ended_at": START + timedelta(seconds=at + length)}
    whole = {"cluster": "c", "node": "one", "node_type": "n", "market": "on_demand", "kind": "idle", "node_cpus": 1.0}
    return {**whole, **window, "node_gpus": 0.0, "node_memory": 0, "id": name, **known}


def task(name: str, team: str, cpu: float, at: float = 0, **known: Any) -> dict[str, Any]:
    return line(name, at, kind="task", team=team, run_id=f"run-{team}", workload="w", cpu_seconds=cpu, **known)


def drop(lake: Lake, *lines: dict[str, Any], name: str = "x") -> None:
    lake.ledger().drop(pa.Table.from_pylist(list(lines), USAGE), name)


def costs(lake: Lake) -> list[dict[str, Any]]:
    rows = [row for batch in lake.ledger().costs() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: str(row["id"]))


def paid(lake: Lake, key: str) -> dict[Any, int]:
    sums: Counter[Any] = Counter()
    for row in costs(lake):
        sums[row[key]] += row["nanousd"]
    return dict(sums)


def test_nothing_to_settle(lake: Lake) -> None:
    assert settle(lake, FLAT) == Settled()
    assert cost_of(lake, "r") == 0
    assert lines_of(lake, "r").num_rows == 0


def test_a_window_is_paid_and_its_idle_time_borne(lake: Lake) -> None:
    drop(lake, task("a", "anna", 3), task("b", "bert", 1), line("idle", cpu_seconds=6))
    assert settle(lake, FLAT) == Settled(files=1, lines=3, windows=1)
    assert paid(lake, "team") == {"anna": 7500, "bert": 2500}
    assert cost_of(lake, "run-anna") == 7500
    assert sum(lines_of(lake, "run-bert")["nanousd"].to_pylist()) == 2500
    assert lake.ledger().inbox_names() == []


def test_twice_is_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(lake, task("a", "anna", 3), line("idle", cpu_seconds=7))
    monkeypatch.setattr(Ledger, "clear", lambda *_: None)
    settle(lake, FLAT)
    once = costs(lake)
    assert settle(lake, FLAT) == Settled(files=1, lines=2, windows=1)
    assert costs(lake) == once
    assert sum(row["nanousd"] for row in once) == 10 * RATE


def test_a_window_that_is_told_again_replaces_itself(lake: Lake) -> None:
    drop(lake, task("ok", "anna", 4, outcome="ok"), task("b", "bert", 4), line("idle", cpu_seconds=2))
    settle(lake, FLAT)
    failed = task("failed", "anna", 4, outcome="failed")
    drop(lake, task("ok", "anna", 0, outcome="ok"), failed, task("b", "bert", 4), line("idle", cpu_seconds=2))
    settle(lake, FLAT)
    assert paid(lake, "team") == {"anna": 5000, "bert": 5000}
    assert {row["outcome"] for row in costs(lake) if row["team"] == "anna" and row["nanousd"] > 1000} == {"failed"}
    drop(lake, task("failed", "anna", 0), task("b", "bert", 8), line("idle", cpu_seconds=2))
    settle(lake, FLAT)
    assert {team: amount for team, amount in paid(lake, "team").items() if amount} == {"bert": 10 * RATE}
    assert {row["usage_id"] for row in costs(lake)} <= {"ok", "failed", "b", "idle"}


def test_a_node_that_is_late_reprices_the_window_and_leaves_no_orphans(lake: Lake) -> None:
    drop(lake, task("a", "anna", 5), line("idle", cpu_seconds=5))
    settle(lake, FLAT)
    assert paid(lake, "team") == {"anna": 10 * RATE}
    drop(lake, task("b", "bert", 10, node="two"))
    settle(lake, FLAT)
    both = costs(lake)
    assert sum(row["nanousd"] for row in both) == 20 * RATE
    assert {row["team"] for row in both if row["usage_id"] == "idle"} == {"anna", "bert"}
    drop(lake, task("a", "anna", 0), line("idle", cpu_seconds=10))  # anna did nothing after all
    settle(lake, FLAT)
    assert {row["team"] for row in costs(lake) if row["usage_id"] == "idle"} == {"bert"}
    assert sum(row["nanousd"] for row in costs(lake)) == 20 * RATE


ORDER = [
    task("a", "anna", 5, 0),
    line("a-idle", 0, cpu_seconds=5),
    task("b", "bert", 5, 5, node="two"),  # from 5 to 15: it joined late
    line("b-idle", 5, cpu_seconds=5, node="two"),
    task("c", "cleo", 5, 10),
    line("c-idle", 10, cpu_seconds=5),
    task("d", "dora", 5, 20),
    line("d-idle", 20, cpu_seconds=5),
]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [1, 0, 3, 2]])
def test_windows_that_overlap_cost_the_same_in_whatever_order_they_come(
    lake: Lake, tmp_path: Any, order: list[int]
) -> None:
    whole = Lake(str(tmp_path / "whole"))
    drop(whole, *ORDER)
    settle(whole, FLAT)
    for number in order:
        drop(lake, *ORDER[2 * number : 2 * number + 2])
        settle(lake, FLAT)
    assert costs(lake) == costs(whole)
    assert sum(row["nanousd"] for row in costs(lake)) == 40 * RATE
    assert {row["team"] for row in costs(lake) if row["usage_id"] == "d-idle"} == {"dora"}


def test_windows_that_nothing_new_came_for_are_left_alone(lake: Lake) -> None:
    """A correction of an hour ago is no reason to price the hour again, at other prices."""
    for at in (0, 100, 200):
        drop(lake, task(f"a{at}", "anna", 10, at))
    settle(lake, FLAT)
    drop(lake, task("a0", "anna", 10, 0), task("a200", "anna", 10, 200))
    settle(lake, DEAR)
    assert paid(lake, "usage_id") == {"a0": 30 * RATE, "a100": 10 * RATE, "a200": 30 * RATE}


def test_windows_without_number_are_priced_together(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPANS_AT_ONCE", 3)
    drop(lake, *(task(f"a{at}", "anna", 10, at) for at in range(0, 200, 20)))
    assert settle(lake, FLAT).windows == 10
    assert sum(row["nanousd"] for row in costs(lake)) == 100 * RATE


def test_a_window_is_paid_once_whatever_the_prices(lake: Lake) -> None:
    drop(lake, task("a", "anna", 5), line("idle", cpu_seconds=5))
    settle(lake, FLAT)
    drop(lake, task("b", "bert", 10, node="two"))
    settle(lake, DEAR)
    assert {row["prices"] for row in costs(lake)} == {DEAR.ref}
    assert sum(row["nanousd"] for row in costs(lake)) == 2 * 30 * RATE


def test_clusters_are_settled_apart(lake: Lake) -> None:
    drop(lake, task("a", "anna", 5), line("idle", cpu_seconds=5), task("b", "bert", 10, cluster="it's"))
    assert settle(lake, FLAT).windows == 2
    assert paid(lake, "team") == {"anna": 10 * RATE, "bert": 10 * RATE}


def test_a_node_without_a_price_waits_in_the_inbox(lake: Lake) -> None:
    drop(lake, task("a", "anna", 10, node_type="unheard-of"))
    with pytest.raises(InvalidUse, match="unheard-of"):
        settle(lake, replace(FLAT, cpu_hour=None, gib_hour=None, gpu_hour={}))
    assert len(lake.ledger().inbox_names()) == 1
    assert [row["id"] for batch in lake.ledger().usage() for row in batch.to_pylist()] == ["a"]
    assert costs(lake) == []
    mended = replace(FLAT, version="2", nodes={"unheard-of": NodePrice(on_demand=RATE * 3600)})
    settle(lake, mended)
    assert paid(lake, "team") == {"anna": 10 * RATE}
    assert lake.ledger().inbox_names() == []


def test_lines_get_the_version_that_their_run_has_made(lake: Lake) -> None:
    run = Run(run_id="run-anna", workload="w", dataset="d", status="running", started_at=START)
    lake.runs().put(run)
    drop(lake, task("a", "anna", 4), task("b", "bert", 4), line("idle", cpu_seconds=2))
    settle(lake, FLAT)
    assert {row["version"] for row in costs(lake)} == {None}
    lake.runs().put(replace(run, status="done", version=7))
    drop(lake, task("late", "anna", 4, 10))
    settle(lake, FLAT)
    assert {row["id"]: row["version"] for batch in lake.ledger().usage() for row in batch.to_pylist()} == {
        "a": None,
        "b": None,
        "idle": None,
        "late": 7,
    }


@pytest.mark.parametrize("at", ["put_usage", "put_costs", "remove_costs", "clear"])
@pytest.mark.parametrize("after", [False, True])
def test_a_settler_that_dies_anywhere_is_made_up_for(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, at: str, after: bool
) -> None:
    drop(lake, task("a", "anna", 5), line("idle", cpu_seconds=5))
    settle(lake, FLAT)
    drop(lake, task("a", "anna", 0), line("idle", cpu_seconds=10), task("b", "bert", 10, node="two"))
    real: Callable[..., Any] = getattr(Ledger, at)

    def step(ledger: Ledger, *given: Any) -> None:
        if after:
            real(ledger, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, at, step)
        with pytest.raises(KeyboardInterrupt):
            settle(lake, FLAT)
    settle(lake, FLAT)
    assert {team: amount for team, amount in paid(lake, "team").items() if amount} == {"bert": 20 * RATE}
    assert lake.ledger().inbox_names() == []


def test_settlers_at_once_end_with_the_same_costs_as_one(lake: Lake, tmp_path: Any) -> None:
    alone = Lake(str(tmp_path / "alone"))
    told = [
        [task(f"{node}-{at}", team, 4, at, node=node), line(f"{node}-{at}-idle", at, cpu_seconds=6, node=node)]
        for at in (0, 10)
        for node, team in (("one", "anna"), ("two", "bert"), ("three", "cleo"), ("four", "anna"))
    ]
    for place in (alone, lake):
        for number, lines in enumerate(told[::2]):
            drop(place, *lines, name=str(number))
    settle(alone, FLAT)
    errors: list[Exception] = []
    start = threading.Barrier(3)

    def work(number: int) -> None:
        try:
            start.wait()
            for lines in told[1::2][number::3]:
                drop(lake, *lines)
                settle(lake, FLAT)
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    for lines in told[1::2]:
        drop(alone, *lines)
    settle(alone, FLAT)
    settle(lake, FLAT)  # what one of them may have left to the next
    assert costs(lake) == costs(alone)
    assert sum(row["nanousd"] for row in costs(lake)) == 8 * 10 * RATE


def test_who_cannot_keep_up_with_others_leaves_its_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(lake, task("a", "anna", 10))
    versions = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "version", lambda _: next(versions))
        assert settle(lake, FLAT) == Settled()
    assert len(lake.ledger().inbox_names()) == 1
    assert settle(lake, FLAT).files == 1
    assert paid(lake, "team") == {"anna": 10 * RATE}


def test_what_another_settler_took_first_is_left_to_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been told again meanwhile, and the other have read that: the older word must not come after."""
    drop(lake, task("a", "anna", 1), line("idle", cpu_seconds=9))
    real = Ledger.inbox_lines

    def slow(ledger: Ledger, names: list[str]) -> pa.Table:
        lines = real(ledger, names)
        monkeypatch.setattr(Ledger, "inbox_lines", real)
        drop(lake, task("a", "anna", 8), line("idle", cpu_seconds=2))
        settle(lake, FLAT)
        return lines

    monkeypatch.setattr(Ledger, "inbox_lines", slow)
    settle(lake, FLAT)
    (row,) = [row for batch in lake.ledger().usage("id = 'a'") for row in batch.to_pylist()]
    assert row["cpu_seconds"] == 8


def test_what_no_process_showed_is_a_share_of_all_time_since_a_moment(lake: Lake) -> None:
    lines = [
        line("before", -10, kind="unexplained", cpu_seconds=50.0),
        line("seen", kind="task", cpu_seconds=9.0),
        line("unseen", kind="unexplained", cpu_seconds=0.75),
        line("idle", cpu_seconds=0.25),
        line("elsewhere", cluster="other", kind="unexplained", cpu_seconds=7.0),
    ]
    lake.ledger().put_usage(pa.Table.from_pylist(lines, USAGE))
    assert unexplained(lake, ["c"], since=START) == pytest.approx(0.075)
    assert unexplained(lake, ["c", "other"], since=START) == pytest.approx(7.75 / 17)
    assert unexplained(lake, ["c"], since=START + timedelta(seconds=10)) == 0  # nothing since then
    assert unexplained(lake, [], since=START) == 0
