"""Decisions reach the lake in batches; one that cannot be written costs memory up to a bound, and no request."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from raycluster.govern import journal as module
from raycluster.govern.journal import Journal
from raycluster.lake.decisions import Decided
from raycluster.lake.lake import Lake


def decided(number: int) -> Decided:
    return Decided(
        decision_id=str(number),
        at=datetime.now(UTC),
        subject="ada",
        team=None,
        roles=(),
        method="GET",
        path=("runs",),
        input_digest="0",
        allowed=True,
        filters=0,
        masks=0,
        reason=None,
        revision=None,
        engine="none",
        latency_us=1,
    )


def written(lake: Lake) -> list[str]:
    return [name for batch in lake.decisions().scan() for name in batch["decision_id"].to_pylist()]


def wait_for(condition) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def test_what_was_decided_is_in_the_lake_once_it_is_closed(lake):
    journal = Journal(lake.decisions())
    for number in range(10):
        journal.add(decided(number))
    assert written(lake) == []
    journal.close()
    assert written(lake) == [str(number) for number in range(10)]


def test_it_is_written_after_a_while(lake):
    journal = Journal(lake.decisions(), every=0.05)
    journal.add(decided(1))
    wait_for(lambda: written(lake) == ["1"])
    journal.close()
    assert written(lake) == ["1"]


def test_it_is_written_when_there_is_much_of_it(lake, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 10)
    journal = Journal(lake.decisions())
    for number in range(25):
        journal.add(decided(number))
    wait_for(lambda: len(written(lake)) >= 20)
    journal.close()
    assert written(lake) == [str(number) for number in range(25)]


def test_a_lake_that_cannot_be_written_costs_no_request_and_no_more_memory_than_is_bounded(tmp_path, caplog):
    (tmp_path / "lake").write_text("a file, where a folder should be")
    lake = Lake(str(tmp_path / "lake"))
    journal = Journal(lake.decisions(), every=0.05, most=20)
    for number in range(30):
        journal.add(decided(number))
    wait_for(lambda: journal.problem)
    assert journal.dropped == 10
    assert "cannot be written" in journal.problem
    (tmp_path / "lake").unlink()
    wait_for(lambda: journal.problem is None)
    journal.add(decided(30))
    journal.close()
    # What there was room for is there, in order, and what was dropped was counted.
    assert written(lake) == [str(number) for number in [*range(20), 30]]
    assert "10 were dropped" in caplog.text
    assert "10 decisions are in no log" in caplog.text


def test_one_that_never_can_be_written_is_told_at_the_end(tmp_path, caplog):
    (tmp_path / "lake").write_text("a file, where a folder should be")
    journal = Journal(Lake(str(tmp_path / "lake")).decisions())
    journal.add(decided(1))
    journal.close()
    assert "1 decisions are in no log: the decision log cannot be written" in caplog.text
