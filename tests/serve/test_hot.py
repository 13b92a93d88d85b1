"""Vectors in memory, as clients and those who watch see them: the same answers, three metrics, a bound that holds."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from raycluster.cli.serve import serve
from raycluster.serve import search
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

SEARCH = "/v1/datasets/gallery/search"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep files of indexes in a cache of their own; the encoders' weights are not needed here."""
    monkeypatch.setenv("RAYCLUSTER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def question(lake) -> dict[str, object]:
    width = lake.table("gallery").schema("live").field("vector").type.list_size
    vector = np.random.default_rng(7).normal(size=width)
    return {"vector": vector.tolist(), "k": 5}


def wait_for(context: Context, state: str) -> None:
    """Wait until it is settled how a dataset is held; a replica takes up what it is asked for."""
    context.follower.table("gallery")
    limit = time.monotonic() + 30
    while (told := context.follower.heat.told().get("gallery")) is None or told.state != state:
        assert time.monotonic() < limit, told
        time.sleep(0.02)


def told(client: TestClient) -> dict[tuple[str, str], float]:
    """Return the metrics of `gallery`, by name and state."""
    return {
        (one.name.removeprefix("raycluster_hot_"), one.labels.get("state", "")): one.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for one in family.samples
        if one.name.startswith("raycluster_hot_") and one.labels["dataset"] == "gallery"
    }


@pytest.fixture
def cold(lake) -> Iterator[TestClient]:
    """Answer through Lance's index."""
    context = Context.open(Settings(lake=lake.uri, hot=0))
    with TestClient(application(context)) as client:
        yield client
    context.close()


def test_answers_from_memory_are_lances_and_need_no_thread(context, client, cold, question, monkeypatch) -> None:
    wait_for(context, "ready")
    slow = cold.post(SEARCH, json=question).json()

    async def refuse(work, *arguments):
        raise AssertionError(f"{work} went to a thread")

    monkeypatch.setattr(search, "run_in_threadpool", refuse)
    quick = client.post(SEARCH, json=question).json()
    assert [{**hit, "score": 0} for hit in quick["hits"]] == [{**hit, "score": 0} for hit in slow["hits"]]
    assert [hit["score"] for hit in quick["hits"]] == pytest.approx([hit["score"] for hit in slow["hits"]], abs=1e-5)
    assert quick["version"] == slow["version"]


def test_those_who_watch_see_what_is_held(context, client) -> None:
    wait_for(context, "ready")
    figures = told(client)
    assert figures["state", "ready"] == 1
    assert figures["rows", ""] > 0
    assert figures["bytes", ""] > 0


def test_what_does_not_fit_is_answered_all_the_same(lake, question, cold) -> None:
    context = Context.open(Settings(lake=lake.uri, hot=1))
    with TestClient(application(context)) as client:
        wait_for(context, "too_large")
        found = client.post(SEARCH, json=question).json()
        assert found["hits"] == cold.post(SEARCH, json=question).json()["hits"]
        assert told(client) == {("state", "too_large"): 1, ("rows", ""): 0, ("bytes", ""): 0}
    context.close()


def test_a_size_that_is_none_is_refused_before_anything_starts(lake) -> None:
    said = CliRunner().invoke(serve, ["--lake", lake.uri, "--hot", "much"])
    assert said.exit_code == 2
    assert "--hot" in said.output
