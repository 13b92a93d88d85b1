"""What is laid into the inbox is there until it is read, as it was told last; no line stands twice in the tables."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycluster.errors import LakeError
from raycluster.lake import store
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS, NAMES, QUANTITIES, USAGE, line_id

START = datetime(2026, 11, 1, tzinfo=UTC)


def usage(**told: float) -> pa.Table:
    """Return a line for each name: how many CPU-seconds it says."""
    known = {
        "cluster": "c",
        "node": "n",
        "started_at": START,
        "ended_at": START + timedelta(seconds=10),
        "kind": "task",
    }
    rows = [{**known, "id": name, "cpu_seconds": seconds} for name, seconds in told.items()]
    return pa.Table.from_pylist(rows, USAGE)


def cost(**paid: int) -> pa.Table:
    return pa.Table.from_pylist([{"id": name, "nanousd": amount} for name, amount in paid.items()], COSTS)


def told(batches: Any, column: str) -> dict[str, Any]:
    return {row["id"]: row[column] for batch in batches for row in batch.to_pylist()}


def test_nothing_was_ever_written(place: Lake) -> None:
    ledger = place.ledger()
    assert list(ledger.usage()) == list(ledger.costs("nanousd > 1")) == ledger.inbox_names() == []
    assert ledger.inbox_lines([]).schema == USAGE
    assert ledger.version() == 0
    ledger.clear(["x.arrow"])
    ledger.remove_costs(["x"])


def test_the_inbox_keeps_what_is_laid_in_until_it_is_cleared(place: Lake) -> None:
    ledger = place.ledger()
    ledger.drop(usage(a=1, b=2), "10-node")
    ledger.drop(usage(c=3), "20-node")
    names = ledger.inbox_names()
    assert [name.split("-", 1)[1] for name in names] == ["10-node.arrow", "20-node.arrow"]
    assert told(ledger.inbox_lines(names).to_batches(), "cpu_seconds") == {"a": 1, "b": 2, "c": 3}
    ledger.clear(names[:1])
    assert ledger.inbox_names() == names[1:]
    assert told(ledger.inbox_lines(names).to_batches(), "cpu_seconds") == {"c": 3}


def test_what_is_told_again_counts_as_told_last(lake: Lake) -> None:
    ledger = lake.ledger()
    ledger.drop(usage(a=1, b=2), "10-node")
    ledger.drop(usage(c=9), "05-node")
    ledger.drop(usage(a=5, d=4), "10-node")
    lines = ledger.inbox_lines(list(reversed(ledger.inbox_names())))
    assert told(lines.to_batches(), "cpu_seconds") == {"a": 5, "b": 2, "c": 9, "d": 4}
    assert lines.num_rows == 4
    ledger.put_usage(lines)
    assert told(ledger.usage(), "cpu_seconds") == {"a": 5, "b": 2, "c": 9, "d": 4}


def test_who_clears_what_it_has_read_removes_nothing_that_was_told_meanwhile(lake: Lake) -> None:
    ledger = lake.ledger()
    ledger.drop(usage(a=1), "10-node")
    read = ledger.inbox_names()
    ledger.drop(usage(a=2), "10-node")
    ledger.clear(read)
    assert told(ledger.inbox_lines(ledger.inbox_names()).to_batches(), "cpu_seconds") == {"a": 2}


def test_a_file_that_holds_no_usage_is_named(lake: Lake) -> None:
    ledger = lake.ledger()
    ledger.drop(usage(a=1), "10-node")
    (name,) = ledger.inbox_names()
    for content in (b"", b"garbage", Path(ledger.inbox, name).read_bytes()[:-20]):
        Path(ledger.inbox, "9-bad.arrow").write_bytes(content)
        with pytest.raises(LakeError, match=r"9-bad.arrow holds no usage"):
            ledger.inbox_lines(ledger.inbox_names())
    with pa.OSFile(f"{ledger.inbox}/9-bad.arrow", "wb") as file, pa.ipc.new_file(file, COSTS) as writer:
        writer.write_table(cost(a=1))
    with pytest.raises(LakeError, match=r"9-bad.arrow holds no usage"):
        ledger.inbox_lines(ledger.inbox_names())
    Path(ledger.inbox, "notes.txt").write_text("not for the ledger")
    assert "notes.txt" not in ledger.inbox_names()


def test_files_of_the_inbox_are_read_and_removed_side_by_side(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = lake.ledger()
    for number in range(4):
        ledger.drop(usage(**{f"line{number}": number}), f"{number}")
    together = threading.Barrier(4, timeout=20)  # breaks where one waits for another

    def beside(act: Any) -> Any:
        return lambda *given: (together.wait(), act(*given))[1]

    monkeypatch.setattr(store, "download", beside(store.download))
    monkeypatch.setattr(store, "remove_file", beside(store.remove_file))
    names = ledger.inbox_names()
    assert ledger.inbox_lines(names)["id"].to_pylist() == ["line0", "line1", "line2", "line3"]
    ledger.clear(names)
    assert ledger.inbox_names() == []


def test_a_line_replaces_itself(place: Lake) -> None:
    ledger = place.ledger()
    ledger.put_usage(usage(a=1, b=2))
    before = ledger.version()
    ledger.put_usage(usage(b=3, c=4))
    assert ledger.version() != before
    assert told(ledger.usage(), "cpu_seconds") == {"a": 1, "b": 3, "c": 4}
    ledger.put_costs(cost(a=10, b=20))
    ledger.put_costs(cost(b=21))
    ledger.remove_costs(["a", "no such line"])
    assert told(ledger.costs(), "nanousd") == {"b": 21}
    ledger.put_usage(USAGE.empty_table())
    assert told(ledger.usage("id = 'b'", columns=["id", "cpu_seconds"]), "cpu_seconds") == {"b": 3}


def test_many_who_put_the_same_lines_at_once(lake: Lake) -> None:
    errors: list[Exception] = []
    start = threading.Barrier(4)

    def put(number: int) -> None:
        try:
            start.wait()
            lake.ledger().put_usage(usage(shared=1, **{f"own{number}": 2}))
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    rows = [row["id"] for batch in lake.ledger().usage() for row in batch.to_pylist()]
    assert sorted(rows) == ["own0", "own1", "own2", "own3", "shared"]


def test_ids_tell_lines_apart() -> None:
    parts = [("a", "b"), ("ab", ""), ("", "ab"), ("a", None, "b"), ("a", "b", None), ("b", "a"), (1, 23), (12, 3)]
    assert len({line_id(*one) for one in parts}) == len(parts)
    assert line_id("a", 1) == line_id("a", 1)
    assert {len(line_id(*one)) for one in parts} == {32}


def test_both_tables_say_who_and_how_much_with_the_same_words() -> None:
    for name in (*NAMES, *QUANTITIES):
        assert USAGE.field(name) == COSTS.field(name)
