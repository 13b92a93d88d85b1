"""Runs over HTTP: past ones from the lake, live ones with what their drivers tell, dead ones said to be stale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from raycluster.lake.runs import Run


def enter(lake, run_id, *, ago=0.0, **more):
    started = datetime.now(UTC) - timedelta(seconds=ago)
    known = {"workload": "w", "dataset": "gallery", "status": "running", "started_at": started}
    lake.runs().put(Run(run_id=run_id, **(known | more)))


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [one["run_id"] for one in answer.json()["runs"]]


def test_a_past_run_has_its_summary_and_no_progress(client):
    (run,) = client.get("/v1/runs").json()["runs"]
    assert (run["run_id"], run["status"], run["dataset"], run["summary"]) == ("run1", "done", "gallery", {"rows": 15})
    assert (run["progress"], run["stale"]) == (None, False)
    assert datetime.fromisoformat(run["started_at"]) == datetime(2026, 1, 1, tzinfo=UTC)
    assert client.get("/v1/runs/run1").json() == run


def test_a_live_run_shows_how_far_it_is(client, lake):
    enter(lake, "run2")
    assert client.get("/v1/runs/run2").json()["progress"] is None
    lake.progress().put("run2", {"objects": 10, "done": 4, "left_seconds": 3.5, "stages": {"text": {"rows": 4}}})
    found = client.get("/v1/runs/run2").json()
    assert found["progress"]["left_seconds"] == 3.5
    assert found["progress"]["stages"] == {"text": {"rows": 4}}
    assert found["stale"] is False
    assert client.get("/v1/runs").json()["runs"][0] == found


@pytest.mark.parametrize(("ago", "stale"), [(5, False), (120, True)])
def test_a_run_whose_driver_never_told_is_stale_after_a_minute(client, lake, ago, stale):
    enter(lake, "run2", ago=ago)
    assert client.get("/v1/runs/run2").json()["stale"] is stale


def test_a_run_whose_driver_fell_silent_is_stale(client, lake, monkeypatch):
    enter(lake, "run2", ago=120)
    lake.progress().put("run2", {"done": 4})
    assert client.get("/v1/runs/run2").json()["stale"] is False
    monkeypatch.setattr("raycluster.lake.progress._STALE", timedelta(seconds=-1))
    found = client.get("/v1/runs/run2").json()
    assert (found["stale"], found["progress"]["done"]) == (True, 4)


def test_what_a_driver_left_behind_is_not_shown_of_a_run_that_has_ended(client, lake):
    lake.progress().put("run1", {"done": 4})
    assert client.get("/v1/runs/run1").json()["progress"] is None


def test_the_list_is_filtered_and_bounded(client, lake):
    for number in range(2, 6):
        status = "failed" if number % 2 else "done"
        enter(lake, f"run{number}", ago=-number, status=status, dataset="other", workload=f"w{number}")
    assert ids(client.get("/v1/runs")) == ["run5", "run4", "run3", "run2", "run1"]
    assert ids(client.get("/v1/runs?limit=2")) == ["run5", "run4"]
    assert ids(client.get("/v1/runs?dataset=gallery")) == ["run1"]
    assert ids(client.get("/v1/runs?dataset=nothing")) == []
    assert ids(client.get("/v1/runs?status=failed")) == ["run5", "run3"]
    assert ids(client.get("/v1/runs?workload=w4&status=done")) == ["run4"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [("status=lost", "status"), ("limit=0", "limit"), ("limit=9999", "limit"), ("limit=x", "limit"), ("of=me", "of")],
)
def test_a_wrong_filter_is_named(client, asked, field):
    answer = client.get(f"/v1/runs?{asked}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_an_unknown_run_is_not_found_and_no_other_is_named(client):
    answer = client.get("/v1/runs/run2")
    assert answer.status_code == 404
    assert "run1" not in answer.text
    assert answer.json()["error"]["fix"] == "list them: GET /v1/runs"


def test_only_runs_of_datasets_that_one_may_read_are_shown(ask, lake):
    enter(lake, "run2", dataset="other")
    assert ids(ask("ann", "/v1/runs")) == ["run1"]
    assert ids(ask("dan", "/v1/runs")) == ["run2"]
    assert ids(ask("dan", "/v1/runs?limit=1")) == ["run2"]  # what is hidden counts for nothing
    assert ids(ask("dan", "/v1/runs?dataset=gallery")) == []
    assert ask("dan", "/v1/runs/run2").json()["dataset"] == "other"
    refused = ask("dan", "/v1/runs/run1")
    assert refused.status_code == 403
    assert "gallery" not in refused.text
    assert ask("eve", "/v1/runs").status_code == 401


@pytest.mark.parametrize("subject", ["bob", "cid"])
def test_sums_are_for_who_sees_all_rows(ask, subject):
    (listed,), alone = ask(subject, "/v1/runs").json()["runs"], ask(subject, "/v1/runs/run1").json()
    assert ask("ann", "/v1/runs/run1").json()["summary"]
    for one in (listed, alone):
        assert (one["run_id"], one["status"]) == ("run1", "done")
        assert (one["summary"], one["progress"]) == ({}, None)


def test_who_may_not_see_runs_sees_none(ask, told, monkeypatch):
    from raycluster.errors import Forbidden

    asked = []

    def permit(principal, method, path):
        asked.append((method, tuple(path)))
        if path[0] == "runs":
            raise Forbidden("no")

    monkeypatch.setattr(told, "permit", permit)
    assert ask("ann", "/v1/runs").status_code == 403
    assert ask("ann", "/v1/runs/run1").status_code == 403
    assert asked == [("GET", ("runs",)), ("GET", ("runs", "run1"))]
