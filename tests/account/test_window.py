"""Whatever is found, and whenever: windows lose nothing, owe nothing, and add up to the node."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycluster.account.owners import NOBODY, Owner
from raycluster.account.window import PEAKS, Amounts, Book, Line, Node, Window, difference
from raycluster.lake.ledger import USAGE

SECOND = 10**9
START = 1_800_000_000 * SECOND
NODE = Node(cluster="c", node="n", node_cpus=4.0, node_gpus=1.0, node_gpu_type="H100", node_memory=1000)
ANNA = Owner(run_id="a", team="anna")
BERT = Owner(run_id="b", team="bert")


def task(outcome: str = "ok", stage: str = "s", modality: str = "", owner: Owner = ANNA) -> Line:
    return Line(kind="task", owner=owner, stage=stage, modality=modality, outcome=outcome)


def found(at: float, length: float, **lines: tuple[Line, Amounts]) -> Window:
    window = Window(started=START + round(at * SECOND), ended=START + round((at + length) * SECOND))
    for line, amounts in lines.values():
        window.add(line, amounts)
    return window


def book() -> Book:
    return Book(NODE, started=START)


def tell(into: Book, *changes: tuple[Line, Amounts], at: int) -> None:
    """Fill the window of the second `at`, and close it."""
    into.take(found(at, 1, **{str(n): change for n, change in enumerate(changes)}), close=START + (at + 1) * SECOND)


def amounts(of: Book, line: Line, name: str = "cpu") -> list[int]:
    return [window.lines.get(line, {}).get(name, 0) for window in of.closed]


def least(of: Book) -> int:
    return min((a for w in of.closed for s in w.lines.values() for n, a in s.items() if n not in PEAKS), default=0)


def test_amounts_are_added_and_of_peaks_the_highest_counts() -> None:
    window = found(0, 1)
    for cpu, rss in ((1, 50), (2, 40), (3, 60)):
        window.add(task(), {"cpu": cpu, "peak_rss": rss})
    assert window.lines == {task(): {"cpu": 6, "peak_rss": 60}}


def test_a_look_is_divided_where_the_window_ends() -> None:
    pages = book()
    pages.take(found(0, 8, a=(task(), {"cpu": 80, "calls": 1, "peak_rss": 7})))
    pages.take(found(8, 4, a=(task(), {"cpu": 41, "calls": 3, "peak_rss": 5})), close=START + 10 * SECOND)
    (closed,) = pages.closed
    assert (closed.started, closed.ended) == (START, START + 10 * SECOND)
    assert closed.lines[task()] == {"cpu": 100, "calls": 2, "peak_rss": 7}
    assert pages.open.started == START + 10 * SECOND
    assert pages.open.lines[task()] == {"cpu": 21, "calls": 2, "peak_rss": 5}


@pytest.mark.parametrize(
    ("close", "expected"),
    [(-5, 8), (8, 8), (9, 9), (99, 12), (2**63, 12)],
)
def test_a_window_ends_within_the_look_that_ends_it(close: int, expected: int) -> None:
    pages = book()
    pages.take(found(0, 8))
    pages.take(found(8, 4, a=(task(), {"cpu": 3})), close=START + close * SECOND if close < 2**60 else close)
    assert pages.closed[0].ended == pages.open.started == START + expected * SECOND


def test_a_clock_that_goes_back_makes_no_window_that_ends_before_it_begins() -> None:
    pages = book()
    pages.take(found(0, 10), close=START + 10 * SECOND)
    pages.take(found(10, -5, a=(task(), {"cpu": 7})), close=START + 4 * SECOND)
    pages.take(found(5, 6), close=START + 11 * SECOND)
    assert all(window.started <= window.ended for window in pages.closed)
    assert sum(amounts(pages, task())) + pages.open.lines.get(task(), {}).get("cpu", 0) == 7


LINES = [task(), task("failed"), task(stage="t"), Line(kind="system", stage="raylet"), Line(kind="startup")]
LOOKS = st.lists(
    st.tuples(
        st.integers(1, 3 * SECOND),
        st.booleans(),
        st.lists(
            st.tuples(st.sampled_from(LINES), st.integers(0, 10**10), st.integers(0, 5), st.integers(0, 99)), max_size=4
        ),
    ),
    max_size=20,
)


@given(looks=LOOKS)
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_between_windows(looks: list[tuple[int, bool, list[tuple[Line, int, int, int]]]]) -> None:
    pages = book()
    truth: Counter[tuple[Line, str]] = Counter()
    at = START
    for length, closes, lines in looks:
        look = Window(started=at, ended=at + length)
        for line, cpu, calls, rss in lines:
            look.add(line, {"cpu": cpu, "calls": calls, "peak_rss": rss})
            truth.update({(line, "cpu"): cpu, (line, "calls"): calls})
        pages.take(look, close=at + length // 3 if closes else None)
        at += length
    told: Counter[tuple[Line, str]] = Counter()
    for window in [*pages.closed, pages.open]:
        for line, sums in window.lines.items():
            assert min(sums.values()) >= 0
            told.update({(line, name): amount for name, amount in sums.items() if name not in PEAKS})
    assert {key: amount for key, amount in told.items() if amount} == {key: a for key, a in truth.items() if a}
    spans = [(window.started, window.ended) for window in pages.closed]
    assert [end for _, end in spans][:-1] == [start for start, _ in spans][1:]


# Corrections.


def test_a_call_that_fails_after_all_was_failed_in_every_window() -> None:
    pages = book()
    for at in range(3):
        tell(pages, (task(), {"cpu": 10, "wall": 20}), at=at)
    assert len(pages.news()) == 3
    failed: Amounts = {"cpu": 35, "wall": 70, "calls": 1, "rows_in": 9}
    tell(pages, (task(), {"cpu": -30, "wall": -60}), (task("failed"), failed), at=3)
    assert amounts(pages, task()) == amounts(pages, task(), "wall") == [0, 0, 0, 0]
    assert amounts(pages, task("failed")) == [10, 10, 10, 5]
    assert amounts(pages, task("failed"), "wall") == [20, 20, 20, 10]
    assert amounts(pages, task("failed"), "calls") == [0, 0, 0, 1]
    assert len(pages.news()) == 4
    assert pages.news() == []


def test_rows_that_were_good_alone_are_corrected_too() -> None:
    """Another call of the stage went well in the window: its calls and its time are more than what is taken back."""
    pages = book()
    tell(pages, (task(), {"cpu": 10, "calls": 1, "rows_in": 50}), at=0)
    good: Amounts = {"cpu": 90, "calls": 4, "rows_in": -40}
    tell(pages, (task(), good), (task("failed"), {"cpu": 10, "calls": 1, "rows_in": 50}), at=1)
    assert amounts(pages, task(), "rows_in") == [10, 0]
    assert amounts(pages, task("failed"), "rows_in") == [40, 10]
    assert least(pages) == 0


def test_time_of_a_lap_that_turns_out_to_be_shared_between_modalities() -> None:
    pages = book()
    tell(pages, (task(modality="image"), {"cpu": 50, "wall": 50}), at=0)
    changes = [(task(modality="image"), {"cpu": -25, "wall": -25}), (task(modality="text"), {"cpu": 25, "wall": 25})]
    tell(pages, *changes, at=1)
    assert amounts(pages, task(modality="image")) == [25, 0]
    assert amounts(pages, task(modality="text")) == [25, 0]


def test_a_debt_goes_to_the_same_work_first_then_to_its_process_then_to_others() -> None:
    background, other = Line(kind="background", owner=ANNA), task(stage="t")
    for heirs in ([task("failed"), background, other], [background, other], [other]):
        pages = book()
        tell(pages, (task(), {"cpu": 50}), at=0)
        tell(pages, *((heir, {"cpu": 60}) for heir in reversed(heirs)), (task(), {"cpu": -50}), at=1)
        assert amounts(pages, heirs[0]) == [50, 10]
        assert amounts(pages, task()) == [0, 0]
        assert all(amounts(pages, heir) == [0, 60] for heir in heirs[1:])


def test_a_debt_is_never_anothers_but_nobodys_is_anyones() -> None:
    pages = book()
    tell(pages, (task(), {"cpu": 50}), at=0)
    tell(pages, (task(), {"cpu": -50}), (task(owner=BERT), {"cpu": 60}), at=1)
    assert amounts(pages, task(owner=BERT)) == [0, 60]
    pages = book()
    tell(pages, (task(owner=NOBODY), {"cpu": 50, "calls": 2}), at=0)
    tell(pages, (task(owner=NOBODY), {"cpu": -50, "calls": -2}), (task(), {"cpu": 50, "calls": 2}), at=1)
    assert amounts(pages, task()) == [50, 0]
    assert amounts(pages, task(), "calls") == [2, 0]


def test_counts_do_not_move_between_stages() -> None:
    pages = book()
    tell(pages, (task(), {"rows_in": 5}), at=0)
    tell(pages, (task(), {"rows_in": -5}), (task(stage="t"), {"rows_in": 9}), at=1)
    assert amounts(pages, task(stage="t"), "rows_in") == [0, 9]


def test_what_windows_kept_no_more_would_bear_is_taken_from_what_stands_for_it_now() -> None:
    """A call of two hours fails: the first hour stays as it was told, and is not told again as failed."""
    pages = book()
    for at in range(400):
        tell(pages, (task(), {"cpu": 1}), at=at)
    tell(pages, (task(), {"cpu": -400}), (task("failed"), {"cpu": 401}), at=400)
    assert len(pages.closed) == 360
    assert sum(amounts(pages, task())) == 0
    assert sum(amounts(pages, task("failed"))) == 360
    assert least(pages) == 0


CHANGES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 100), st.integers(0, 50)), max_size=4),
    max_size=12,
)


@given(story=CHANGES)
@settings(max_examples=300, deadline=None)
def test_corrections_keep_the_sum_of_every_window_and_leave_no_debt(
    story: list[list[tuple[int, int, int, int]]],
) -> None:
    """Each change takes back some of what one line was told before, and gives it to another, with something new."""
    lines = [task(), task("failed"), task("killed"), task("retried")]
    pages = book()
    whole: Counter[Line] = Counter()
    for at, changes in enumerate(story):
        before = {window.started: total(window) for window in pages.closed}
        new: Counter[Line] = Counter()
        for source, target, back, more in changes:
            moved = min(back, whole[lines[source]] + new[lines[source]])
            new[lines[source]] -= moved
            new[lines[target]] += moved + more
        whole.update(new)
        tell(pages, *((line, {"cpu": cpu}) for line, cpu in new.items()), at=at)
        assert all(before[window.started] == total(window) for window in pages.closed if window.started in before)
        assert total(pages.closed[-1]) == sum(new.values())
        assert least(pages) >= 0
    for line in lines:
        assert sum(amounts(pages, line)) == whole[line]


def total(window: Window) -> int:
    return sum(sums.get("cpu", 0) for sums in window.lines.values())


# What is laid into the inbox.


def test_a_table_adds_up_to_the_node() -> None:
    pages = book()
    held: Amounts = {"cpu": SECOND, "gpu": SECOND // 4, "memory": 300 * SECOND, "gpu_memory": 5}
    pages.take(found(0, 10, a=(task(modality="image"), held)), close=START + 10 * SECOND)
    table = pages.table(pages.closed[0])
    assert table.schema == USAGE
    rows = {row["kind"]: row for row in table.to_pylist()}
    assert rows["task"]["cpu_seconds"] == 1.0
    assert (rows["idle"]["cpu_seconds"], rows["idle"]["gpu_seconds"]) == (39.0, 9.75)
    assert sum(row["memory_byte_seconds"] for row in rows.values()) == 1000 * 10 * SECOND / 1e9
    assert rows["idle"]["wall_seconds"] == 10.0
    assert (rows["task"]["team"], rows["task"]["modality"], rows["task"]["gpu_memory"]) == ("anna", "image", 5)
    assert (rows["idle"]["node_cpus"], rows["idle"]["node_gpu_type"]) == (4.0, "H100")
    assert (rows["task"]["ended_at"] - rows["task"]["started_at"]).total_seconds() == 10


def test_a_node_that_is_more_than_full_has_no_negative_idle_time() -> None:
    pages = book()
    tell(pages, (task(), {"cpu": 5 * SECOND, "gpu": 2 * SECOND, "memory": 2000 * SECOND}), at=0)
    idle = next(row for row in pages.table(pages.closed[0]).to_pylist() if row["kind"] == "idle")
    assert (idle["cpu_seconds"], idle["gpu_seconds"], idle["memory_byte_seconds"]) == (0, 0, 0)


def test_ids_are_those_of_what_a_line_is_about_and_stay() -> None:
    pages, again = book(), book()
    lines = [*LINES, task(owner=BERT), task(modality="image"), Line(kind="background", owner=ANNA, stage="s")]
    tell(pages, *((line, {"cpu": 1}) for line in lines), at=0)
    tell(again, *((line, {"cpu": 2}) for line in reversed(lines)), at=0)
    first, second = (ids(one) for one in (pages, again))
    assert first == second
    assert len(first) == len(lines) + 1
    tell(pages, *((line, {"cpu": 1}) for line in lines), at=1)
    assert not first & ids(pages, 1)
    assert not first & ids(Book(Node(cluster="c", node="m"), started=START), window=pages.closed[0])


def ids(of: Book, number: int = 0, window: Window | None = None) -> set[str]:
    found: list[str] = of.table(window or of.closed[number])["id"].to_pylist()
    assert len(found) == len(set(found))
    return set(found)


def test_a_line_that_has_come_to_nothing_is_told_once_it_was_told_before() -> None:
    pages = book()
    tell(pages, (task(), {"cpu": 5}), (task("killed"), {"cpu": 0}), at=0)
    assert pages.table(pages.closed[0]).num_rows == 2  # with idle
    pages.closed[0].is_told = True
    tell(pages, (task(), {"cpu": -5}), (task("failed"), {"cpu": 5}), at=1)
    told: dict[Any, float] = {row["outcome"]: row["cpu_seconds"] for row in pages.table(pages.closed[0]).to_pylist()}
    assert told["ok"] == 0
    assert told["failed"] == 5e-9


def test_differences() -> None:
    assert difference({"a": 3, "b": 1}, {"a": 1, "c": 2}) == {"a": 2, "b": 1, "c": -2}
