"""Alive and ready are two questions: the first waits for nothing, the second says what is in the way."""

from __future__ import annotations

import threading
import time

import pytest

from raycluster import __version__
from raycluster.errors import LakeError
from raycluster.lake.lake import Lake
from raycluster.serve import health


@pytest.fixture(autouse=True)
def anew():
    health._glance.cache_clear()


def test_a_replica_that_can_answer_is_ready(client):
    assert client.get("/healthz").json() == {"status": "ok", "version": __version__}
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (200, [])


def test_neither_asks_for_credentials(ask):
    for url in ("/healthz", "/readyz"):
        answer = ask("nobody", url)
        assert answer.status_code == 200
        assert "gallery" not in answer.text


def test_a_lake_that_hangs_makes_it_unready_and_not_dead(client, monkeypatch):
    let, looks = threading.Event(), []
    monkeypatch.setattr(Lake, "datasets", lambda self: (looks.append(1), let.wait(30)))
    monkeypatch.setattr(health, "_PATIENCE_SECONDS", 0.2)
    started = time.monotonic()
    for _ in range(3):
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "lake" in answer.json()["reasons"][0]
        assert client.get("/healthz").status_code == 200
    assert time.monotonic() - started < 5
    assert len(looks) == 1  # hung looks do not gather
    let.set()


def test_a_lake_that_comes_back_makes_it_ready_again(client, monkeypatch):
    monkeypatch.setattr(health, "_PATIENCE_SECONDS", 0.1)
    with monkeypatch.context() as broken:
        broken.setattr(Lake, "datasets", lambda self: (_ for _ in ()).throw(LakeError("away")))
        assert client.get("/readyz").status_code == 503
    deadline = time.monotonic() + 10
    while client.get("/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.get("/readyz").json()["reasons"] == []


def test_a_follower_that_is_stuck_makes_it_unready(client, context):
    context.follower.stop()
    time.sleep(1.1)  # its last round
    context.follower.looked = time.monotonic() - 61
    assert client.get("/readyz").json()["reasons"] == ["nobody looks for new versions any more"]
    assert client.get("/readyz").status_code == 503
