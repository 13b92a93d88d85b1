"""A node that died is paid for until then, once, under a name that says that nobody knows what it did."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from raycluster.account.lost import lost
from raycluster.account.window import Book, Line, Node, Window
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import USAGE, Ledger

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
NODE = Node(cluster="c", node="0123456789abcdef" + "7" * 40, node_cpus=4.0, node_gpus=2.0, node_memory=1000)
SECOND = timedelta(seconds=1)


@pytest.fixture
def ledger(tmp_path: Any) -> Ledger:
    return Lake(str(tmp_path / "lake")).ledger()


def window(at: int, node: Node = NODE) -> pa.Table:
    """Return a window of ten seconds from so many seconds after START."""
    begun = int(START.timestamp() + at) * 10**9
    told = Window(started=begun, ended=begun + 10 * 10**9)
    told.add(Line(kind="system"), {"cpu": 10**9})
    return Book(node, started=begun).table(told)


def waiting(ledger: Ledger) -> list[dict[str, Any]]:
    return [row for row in ledger.inbox_lines(ledger.inbox_names()).to_pylist() if row["kind"] == "unattributed"]


@pytest.mark.parametrize("where", ["inbox", "usage", "both"])
def test_the_time_since_the_last_window(ledger: Ledger, where: str) -> None:
    if where != "inbox":
        ledger.put_usage(window(0))
    if where != "usage":
        ledger.drop(window(10), f"10-{NODE.node[:16]}")
    else:
        ledger.put_usage(window(10))
    assert lost(ledger, NODE, until=START + 27.5 * SECOND)
    (line,) = waiting(ledger)
    assert (line["started_at"], line["ended_at"]) == (START + 20 * SECOND, START + 27.5 * SECOND)
    assert (line["cpu_seconds"], line["gpu_seconds"]) == (30.0, 15.0)
    assert (line["memory_byte_seconds"], line["wall_seconds"]) == (7500.0, 7.5)
    assert (line["node"], line["team"], line["node_cpus"]) == (NODE.node, None, 4.0)
    lines = ledger.inbox_lines(ledger.inbox_names())
    whole = [row["cpu_seconds"] for row in lines.to_pylist() if row["started_at"] == line["started_at"]]
    assert sum(whole) == 30.0


@pytest.mark.parametrize("where", ["inbox", "usage"])
def test_what_it_was_is_what_it_said_last(ledger: Ledger, where: str) -> None:
    """Ray keeps of a dead node its name, and nothing of what it had."""
    if where == "usage":
        ledger.put_usage(window(0))
    else:
        ledger.drop(window(0), f"0-{NODE.node[:16]}")
    assert lost(ledger, Node(cluster=NODE.cluster, node=NODE.node, node_cpus=0.0), until=START + 20 * SECOND)
    (line,) = waiting(ledger)
    assert (line["node_cpus"], line["node_gpus"], line["node_memory"], line["cpu_seconds"]) == (4.0, 2.0, 1000, 40.0)


def test_two_that_enter_it_until_one_moment_enter_it_once(ledger: Ledger) -> None:
    ledger.put_usage(window(0))
    assert lost(ledger, NODE, until=START + 20 * SECOND)
    assert not lost(ledger, NODE, until=START + 20 * SECOND)
    assert len(waiting(ledger)) == 1


def test_a_node_that_never_told_anything(ledger: Ledger) -> None:
    assert not lost(ledger, NODE, until=START)
    assert ledger.inbox_names() == []


def test_a_node_that_died_before_its_first_window_is_paid_for_since_it_was_asked(ledger: Ledger) -> None:
    assert lost(ledger, NODE, since=START + 2 * SECOND, until=START + 9 * SECOND)
    (line,) = waiting(ledger)
    assert (line["started_at"], line["ended_at"]) == (START + 2 * SECOND, START + 9 * SECOND)
    assert line["cpu_seconds"] == 28.0
    assert not lost(ledger, NODE, since=START + 1 * SECOND, until=START + 9 * SECOND)  # another who had asked it
    ledger.put_usage(window(20))
    assert lost(ledger, NODE, since=START, until=START + 31 * SECOND)  # what it has told counts, and not who asked when
    assert max(row["started_at"] for row in waiting(ledger)) == START + 30 * SECOND


def test_twice_is_once(ledger: Ledger) -> None:
    ledger.put_usage(window(0))
    assert lost(ledger, NODE, until=START + 15 * SECOND)
    assert not lost(ledger, NODE, until=START + 15 * SECOND)
    ledger.put_usage(ledger.inbox_lines(ledger.inbox_names()))
    ledger.clear(ledger.inbox_names())
    assert not lost(ledger, NODE, until=START + 15 * SECOND)
    assert ledger.inbox_names() == []


def test_a_node_that_told_all(ledger: Ledger) -> None:
    ledger.drop(window(0), f"0-{NODE.node[:16]}")
    assert not lost(ledger, NODE, until=START + 10 * SECOND)
    assert not lost(ledger, NODE, until=START + 9 * SECOND)
    assert waiting(ledger) == []


def test_other_nodes_and_clusters_say_nothing_about_it(ledger: Ledger) -> None:
    near = replace(NODE, node=NODE.node[:16] + "8" * 40)  # the name of its file begins the same
    ledger.drop(window(50, near), f"50-{near.node[:16]}")
    ledger.put_usage(window(60, replace(NODE, cluster="it's another")))
    assert not lost(ledger, NODE, until=START + 100 * SECOND)
    ledger.put_usage(window(0))
    assert lost(ledger, NODE, until=START + 100 * SECOND)
    (line,) = waiting(ledger)
    assert line["started_at"] == START + 10 * SECOND


def test_moments_are_kept_to_the_microsecond(ledger: Ledger) -> None:
    odd = START + timedelta(seconds=10, microseconds=123_457)
    rows = [{**row, "ended_at": odd} for row in window(0).to_pylist()]
    ledger.put_usage(pa.Table.from_pylist(rows, USAGE))
    lost(ledger, NODE, until=odd + timedelta(microseconds=1))
    (line,) = waiting(ledger)
    assert (line["started_at"], line["ended_at"]) == (odd, odd + timedelta(microseconds=1))
    assert line["cpu_seconds"] == 4e-6
