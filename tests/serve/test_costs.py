"""The bill over HTTP is the command's own, line for line; what waits in the inbox is settled beside requests."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from cost_lines import ledger, line, usage

from raycluster import cli
from raycluster.account.question import KEYS
from raycluster.errors import Forbidden
from raycluster.serve import spent


@pytest.fixture(autouse=True)
def fresh():
    """Let each test's lake be settled by a settler of its own."""
    spent.settler.cache_clear()


@pytest.fixture
def billed(lake):
    now = datetime.now(UTC) - timedelta(minutes=5)
    ledger(
        lake.uri,
        line(nanousd=412_000, cpu_seconds=40.0, rows_out=100, bytes_read=10**9, started_at=now),
        line(nanousd=50_000, outcome="retried", started_at=now),
        line(nanousd=100_000, team="archive", run_id="run-2", stage="audio", started_at=now),
        line(nanousd=200_000, kind="idle", stage=None, outcome=None, is_shared=True, started_at=now),
        line(nanousd=7_000_000, started_at=now - timedelta(days=30)),
    )
    return lake


def command(lake, *words):
    done = CliRunner().invoke(cli.main, ["costs", "--lake", lake.uri, "--json", *words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def get(client, **asked):
    answer = client.get("/v1/costs", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, []),
        ({"by": "stage,outcome"}, ["--by", "stage,outcome"]),
        ({"run": "run-2"}, ["--run", "run-2"]),
        ({"by": "day"}, ["--by", "day"]),
        (
            {"by": "team", "only": ["stage=video", "stage=", "outcome=ok"]},
            ["--by", "team", "--only", "stage=video", "--only", "stage=", "--only", "outcome=ok"],
        ),
    ],
)
def test_it_is_the_document_of_the_command(client, billed, asked, words):
    found = get(client, **asked)
    assert found["lines"]
    assert found == command(billed, *words)


def test_time_limits_what_counts(client, billed):
    assert get(client)["total"]["nanousd"] == 7_762_000
    assert get(client, since="7d")["total"]["nanousd"] == 762_000
    assert get(client, until="7d")["total"]["nanousd"] == 7_000_000
    whole = get(client, since="60d", until="7d")
    assert whole["total"]["cost_usd"] == pytest.approx(0.007)
    assert datetime.fromisoformat(whole["until"]) - datetime.fromisoformat(whole["since"]) == timedelta(days=53)


@pytest.mark.parametrize(
    ("asked", "field", "says"),
    [
        ({"by": "taem"}, "by", "team"),
        ({"by": ""}, "by", ", ".join(KEYS)),
        ({"only": "stage"}, "only", "KEY=VALUE"),
        ({"only": ["stage=video", "stge=video"]}, "only", "stage"),
        ({"only": "version=x"}, "only", "number"),
        ({"since": "once"}, "since", "7d"),
        ({"until": "someday"}, "until", "7d"),
        ({"since": "1d", "until": "7d"}, "until", "not after"),
    ],
)
def test_what_is_wrong_is_named_with_its_field(client, billed, asked, field, says):
    answer = client.get("/v1/costs", params=asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (400, "invalid", field)
    assert says in error["message"] + error["fix"]


def test_a_run_that_nothing_was_paid_for_is_not_found(client, billed):
    assert client.get("/v1/costs?run=run-3").status_code == 404


def test_a_lake_without_costs_has_an_empty_bill(client):
    found = get(client)
    assert (found["lines"], found["total"]["nanousd"]) == ([], 0)


def test_who_may_not_see_costs_sees_none(ask, told, monkeypatch, billed):
    def permit(principal, method, path):
        if tuple(path) == ("costs",) and principal.subject != "ann":
            raise Forbidden("no")

    monkeypatch.setattr(told, "permit", permit)
    assert ask("ann", "/v1/costs").json()["total"]["nanousd"] == 7_762_000
    refused = ask("bob", "/v1/costs")
    assert refused.status_code == 403
    assert "nanousd" not in refused.text


def test_the_inbox_is_settled_beside_requests_once_in_a_while(client, lake, monkeypatch):
    settled = []
    settle = spent.settle
    monkeypatch.setattr(spent, "settle", lambda *given: (settle(*given), settled.append(given)))
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    lake.ledger().drop(usage(line(cpu_seconds=10.0, node_type="local", started_at=moment)), "n1")
    assert get(client)["lines"] == []
    deadline = time.monotonic() + 20
    while not settled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert get(client)["total"]["nanousd"] > 0
    assert lake.ledger().inbox_names() == []
    for _ in range(5):
        get(client)
    assert len(settled) == 1


def test_what_cannot_be_priced_is_no_ones_request(client, billed, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RAYCLUSTER_PRICES", str(tmp_path / "nowhere.yaml"))
    assert get(client)["total"]["nanousd"] == 7_762_000
    assert not spent.settler(billed).nudge(20)
    assert "nowhere.yaml" in caplog.text
