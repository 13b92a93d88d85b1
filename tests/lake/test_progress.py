"""How far a run has come, as others read it in the lake: while it goes on, when it dies, when nobody can write."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from raycluster.errors import LakeError
from raycluster.lake import progress, store
from raycluster.lake.progress import Teller, is_stale
from raycluster.lake.runs import Run


def run(status="running", ago=0.0):
    started = datetime.now(UTC) - timedelta(seconds=ago)
    return Run(run_id="r1", workload="w", dataset="d", status=status, started_at=started)


def eventually(look, seconds=10.0):
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.02)


def test_what_is_told_last_is_read_and_goes_away(place):
    told = place.progress()
    assert told.get("r1") is None
    told.put("r1", {"rows": 1})
    told.put("r1", {"rows": 2, "stages": {"text": {"rows": 2}}})
    told.put("r2", {"rows": 9})
    found = told.get("r1")
    assert (found["rows"], found["stages"]) == (2, {"text": {"rows": 2}})
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["at"])) < timedelta(seconds=30)
    told.remove("r1")
    told.remove("r1")
    assert told.get("r1") is None
    assert told.get("r2")["rows"] == 9
    assert place.datasets() == []


def test_a_teller_writes_the_last_of_what_it_is_told_and_leaves_nothing(lake, quick):
    told = lake.progress()
    told.put("r0", {"rows": 5})
    teller = Teller(told, "r1")
    teller.tell({"rows": 1})
    teller.start(follows="r0")
    assert eventually(lambda: told.get("r1"))["rows"] == 1
    assert told.get("r0") is None
    for rows in range(100):
        teller.tell({"rows": rows})
    assert eventually(lambda: told.get("r1")["rows"] == 99)
    teller.close()
    assert not teller.thread.is_alive()
    assert told.get("r1") is None
    teller.close()


def test_nothing_new_is_written_again_now_and_then_only(lake, quick, monkeypatch):
    writes = []
    monkeypatch.setattr(progress, "_ANYWAY_SECONDS", 0.5)
    upload = store.upload
    monkeypatch.setattr(store, "upload", lambda *given: (writes.append(time.monotonic()), upload(*given)))
    teller = Teller(lake.progress(), "r1")
    teller.start()
    assert eventually(lambda: len(writes) == 3)
    teller.close()
    assert all(0.45 < later - earlier < 5 for earlier, later in pairwise(writes))


def test_a_store_that_refuses_is_said_once_and_stops_nothing(lake, quick, monkeypatch, caplog):
    tried = []

    def refuse(*given):
        tried.append(given)
        raise LakeError("no room")

    monkeypatch.setattr(store, "upload", refuse)
    teller = Teller(lake.progress(), "r1")
    with caplog.at_level(logging.WARNING):
        teller.start()
        for rows in range(100):
            teller.tell({"rows": rows})
            time.sleep(0.005)
        assert eventually(lambda: len(tried) >= 3)
        teller.close()
    assert [one.getMessage() for one in caplog.records] == ["how far run r1 has come is not told: no room"]


def test_a_store_that_hangs_holds_up_neither_the_run_nor_its_end(lake, quick, monkeypatch):
    begun, let = [], threading.Event()

    def hang(*given):
        begun.append(given)
        let.wait(30)

    monkeypatch.setattr(store, "upload", hang)
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.2)
    teller = Teller(lake.progress(), "r1")
    teller.start()
    assert eventually(lambda: begun)
    started = time.monotonic()
    for rows in range(1000):
        teller.tell({"rows": rows})
    teller.close()
    assert time.monotonic() - started < 5
    assert len(begun) == 1  # never two at a time
    let.set()
    teller.thread.join(10)


def test_a_teller_that_never_began_can_be_closed(lake):
    Teller(lake.progress(), "r1").close()


@pytest.mark.parametrize(
    ("status", "started", "told", "stale"),
    [
        ("running", 5, None, False),
        ("running", 90, None, True),
        ("running", 90, 5, False),
        ("running", 900, 90, True),
        ("done", 900, 90, False),
        ("failed", 900, None, False),
    ],
)
def test_a_run_is_stale_once_its_driver_is_silent(status, started, told, stale):
    at = None if told is None else {"at": (datetime.now(UTC) - timedelta(seconds=told)).isoformat()}
    assert is_stale(run(status, started), at) == stale
