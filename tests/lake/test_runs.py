from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from raycluster.errors import NotFound
from raycluster.lake.runs import Run

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(number: int, **more) -> Run:
    fields = {
        "run_id": f"20260101-{number:04d}",
        "workload": "w",
        "dataset": "d",
        "status": "running",
        "started_at": START + timedelta(minutes=number),
    }
    return Run(**(fields | more))


def test_a_run_is_one_row_whatever_becomes_of_it(place):
    runs = place.runs()
    begun = run(1)
    runs.put(begun)
    assert runs.get(begun.run_id) == begun
    ended = replace(
        begun,
        status="done",
        finished_at=START + timedelta(hours=1),
        version=7,
        summary={"rows": 3, "codes": {"empty": 1}, "text": "it's ü"},
    )
    runs.put(ended)
    assert runs.recent() == [ended]


def test_newest_first_by_dataset_and_status(lake):
    runs = lake.runs()
    for number in (2, 3, 1):
        runs.put(run(number, dataset="d" if number % 2 else "e", status="done" if number == 3 else "failed"))
    assert [one.run_id[-1] for one in runs.recent()] == ["3", "2", "1"]
    assert [one.run_id[-1] for one in runs.recent("d")] == ["3", "1"]
    assert [one.run_id[-1] for one in runs.recent("d", status="failed")] == ["1"]
    assert [one.run_id[-1] for one in runs.recent(limit=1)] == ["3"]
    runs.put(run(4, workload="it's"))
    assert [one.run_id[-1] for one in runs.recent(workload="it's")] == ["4"]
    assert [one.run_id[-1] for one in runs.recent("e", workload="w")] == ["2"]
    assert runs.recent("' OR '1'='1") == []


def test_a_run_that_is_not_there(lake):
    with pytest.raises(NotFound, match="none has run yet"):
        lake.runs().get("x")
    lake.runs().put(run(1))
    with pytest.raises(NotFound, match="did you mean '20260101-0001'"):
        lake.runs().get("20260101-001")


def test_runs_that_start_at_once(lake):
    errors = []

    def put(number):
        try:
            lake.runs().put(run(number))
            lake.runs().put(run(number, status="done"))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    assert [(one.run_id, one.status) for one in lake.runs().recent()] == [
        (f"20260101-{number:04d}", "done") for number in reversed(range(8))
    ]


def test_several_runs_are_those_that_there_are(place):
    runs = place.runs()
    assert runs.several([]) == []
    assert runs.several(["it's"]) == []
    for number in range(3):
        runs.put(run(number, status="done", version=number))
    found = runs.several([run(2).run_id, "none", run(0).run_id, run(2).run_id, "it's"])
    assert sorted((one.run_id, one.version) for one in found) == [(run(0).run_id, 0), (run(2).run_id, 2)]
    many = [f"x{number}" for number in range(2500)]
    assert [one.version for one in runs.several([*many, run(1).run_id])] == [1]
