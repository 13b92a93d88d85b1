"""Served for real: HAProxy in front, replicas behind; versions move, replicas die and servers stop, all under load."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from serving import Load, Served, served

from raycluster.declare.workload import Index
from raycluster.encode._minilm import Minilm
from raycluster.lake.columns import dataset_schema
from raycluster.lake.commit import Change, commit
from raycluster.lake.index import build
from raycluster.lake.lake import Lake
from raycluster.lake.rollback import roll_back
from raycluster.lake.table import Table
from raycluster.row import object_id, row_id

pytestmark = pytest.mark.slow

SCHEMA = dataset_schema(pa.schema([]), 384)
SUBJECTS = ("the cat", "a lighthouse", "the baker", "an engine", "a violin", "the river", "snow", "the market")
VERBS = ("waits for", "remembers", "looks at", "is louder than", "lies beside", "follows", "needs", "hides from")
SEARCH = "/v1/datasets/texts/search"


SENTENCES = [f"{one} {verb} {other}" for one in SUBJECTS for verb in VERBS for other in SUBJECTS if one != other][:300]


@cache
def embedded() -> list[list[float]]:
    vectors: list[list[float]] = Minilm().embed(SENTENCES).tolist()
    return vectors


class Texts:
    """A dataset of embedded sentences, to which further ones can be added as a run does."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.runs = lake, 0
        self.table: Table = lake.table("texts")

    def add(self) -> int:
        """Add the sentences once more, index them, and let readers see them; return the version."""
        self.runs += 1
        owners = [object_id(f"file:///texts/{self.runs}/{index}", "1") for index in range(len(SENTENCES))]
        batch = pa.RecordBatch.from_pylist(
            [
                {
                    "id": row_id(owner, "text", 0),
                    "object_id": owner,
                    "uri": f"file:///texts/{self.runs}/{index}",
                    "sha256": "0" * 64,
                    "modality": "text",
                    "media_type": "text/plain",
                    "position": 0,
                    "text": text,
                    "vector": vector,
                    "ingested_at": datetime.now(UTC),
                    "provenance": {"run_id": f"r{self.runs}", "workload": "w", "stages": [], "models": []},
                }
                for index, (owner, text, vector) in enumerate(zip(owners, SENTENCES, embedded(), strict=True))
            ],
            SCHEMA,
        )
        sink = self.table.create_or_check(SCHEMA, encoders=[{"use": "minilm"}])
        commit(self.table, Change(run_id=f"r{self.runs}", workload="w", fragments=sink.write(iter([batch]))))
        build(self.table, [Index(column="vector", kind="ivf_sq"), Index(column="text", kind="fts")])
        return self.table.set_live(self.table.version())


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    made = Texts(Lake(str(tmp_path / "lake")))
    made.add()
    return made


def soon(holds: Callable[[], bool], seconds: float = 30) -> bool:
    """Wait until something holds; asked again it may not, since two gateways take turns to answer."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def server(texts: Texts) -> Iterator[Served]:
    with served(texts.lake.uri) as running:
        yield running


def question(**more: Any) -> dict[str, Any]:
    return {"text": "somebody bakes bread", "k": 5, **more}


def test_versions_move_under_load_and_nobody_notices(texts: Texts, server: Served) -> None:
    first = server.post(SEARCH, question())
    assert first.status_code == 200, first.text
    assert "the baker" in first.json()["hits"][0]["text"]
    seen = [first.json()["version"]]
    with Load(server.url, SEARCH, question()) as load:
        for _ in range(4):
            live = texts.add()
            assert soon(lambda live=live: any(one.version == live for one in load.asked[-8:]))
            seen.append(live)
        roll_back(texts.lake, "texts", to=str(seen[1]), by="me", why="test")
        assert soon(lambda: load.asked[-1].version == seen[1], seconds=10)
    failed = [one for one in load.asked if one.status != 200]
    assert not failed, failed[:3]
    assert {one.version for one in load.asked} == set(seen)
    took = sorted(one.seconds for one in load.asked)
    print(
        f"{len(took)} requests over {len(seen)} versions and a rollback: p50 {took[len(took) // 2] * 1e3:.1f} ms, ",
        end="",
    )
    print(f"p99 {took[int(len(took) * 0.99)] * 1e3:.1f} ms, slowest {took[-1] * 1e3:.1f} ms")


def test_a_gateway_that_is_killed_loses_nothing_that_is_asked_again(texts: Texts) -> None:
    with served(texts.lake.uri, gateways=2) as server:
        assert len(server.replicas("gateway")) == 2
        assert server.post(SEARCH, question()).status_code == 200
        with Load(server.url, SEARCH, question(), retries=2) as load:
            for _ in range(2):
                enough = len(load.asked) + 50
                assert soon(lambda enough=enough: len(load.asked) > enough)
                dead = server.replicas("gateway")[0]
                dead.kill()
                assert soon(lambda dead=dead: len(server.replicas("gateway")) == 2 and not dead.is_running(), 60)
        assert {one.status for one in load.asked} == {200}
        print(f"{sum(one.again for one in load.asked)} of {len(load.asked)} were asked again")


def test_encoders_that_are_killed_are_asked_again(texts: Texts, server: Served) -> None:
    assert server.post(SEARCH, question()).status_code == 200
    server.replicas("encoders")[0].kill()
    answer = server.post(SEARCH, question(text="an engine in the snow"))
    assert answer.status_code == 200 or (answer.status_code == 503 and answer.headers["Retry-After"])
    assert soon(lambda: server.post(SEARCH, question(text="music is played")).status_code == 200)


def test_a_flood_is_turned_away_politely(texts: Texts) -> None:
    with served(texts.lake.uri, at_once=2, waiting=2) as server:
        assert server.post(SEARCH, question()).status_code == 200
        with Load(server.url, SEARCH, question(), clients=24) as load:
            assert soon(lambda: all(sum(one.status == status for one in load.asked) > 10 for status in (200, 429)))
            assert server.get("/healthz").status_code == 200
        assert {one.status for one in load.asked} == {200, 429}
        refused = next(iter(_refusals(server)))
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "busy"


def _refusals(server: Served) -> Iterator[requests.Response]:
    """Yield answers of 429, which several at once get."""
    answers: list[requests.Response] = []
    while not any(one.status_code == 429 for one in answers):
        asking = [threading.Thread(target=lambda: answers.append(server.post(SEARCH, question()))) for _ in range(24)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    yield from (one for one in answers if one.status_code == 429)


def test_the_metrics_of_every_gateway_are_on_one_page(texts: Texts) -> None:
    with served(texts.lake.uri, gateways=2) as server:

        def counted() -> dict[str, float]:
            """Return how many searches each gateway has answered, by whichever is asked."""
            page = server.get("/metrics").text
            lines = [one for one in page.splitlines() if one.startswith("raycluster_http_requests_total")]
            lines = [one for one in lines if 'group="search"' in one and 'status="200"' in one]
            return {one.split('replica="')[1].split('"')[0]: float(one.split()[-1]) for one in lines}

        with Load(server.url, SEARCH, question()) as load:  # from several clients, so that both have something to do
            assert soon(lambda: len(counted()) == 2, 60), counted()
        answered = sum(one.status == 200 for one in load.asked)
        assert soon(lambda: sum(counted().values()) == answered), (counted(), answered)
        assert len(server.get("/metrics").text.split("# TYPE raycluster_http_requests_total")) == 2


def test_what_is_being_answered_when_it_stops_is_answered(texts: Texts) -> None:
    for _ in range(5):
        texts.add()
    with served(texts.lake.uri) as server, ThreadPoolExecutor(1) as pool:
        rows = "/v1/data/texts?limit=10000"  # with vectors: seconds
        assert len(server.get(rows).json()["rows"]) == 1800
        begun = time.monotonic()
        asked = pool.submit(server.get, rows)
        time.sleep(0.3)
        assert not asked.done()
        server.process.send_signal(signal.SIGTERM)
        told = asked.result()
        print(f"answered {time.monotonic() - begun:.1f} s after it was asked, told to stop after 0.3 s")
        assert told.status_code == 200
        assert len(told.json()["rows"]) == 1800
        assert server.process.wait(90) == 0


def test_two_servers_share_a_machine(texts: Texts, server: Served) -> None:
    with served(texts.lake.uri) as other:
        assert other.url != server.url
        assert {one.post(SEARCH, question()).status_code for one in (server, other)} == {200}
    assert server.post(SEARCH, question()).status_code == 200


def test_without_haproxy_serves_own_proxy_answers(texts: Texts) -> None:
    environment = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
    with served(texts.lake.uri, environment=environment) as server:
        answer = server.post(SEARCH, question())
        assert answer.status_code == 200
        assert answer.json()["hits"]


def test_only_this_machine_can_reach_it(server: Served) -> None:
    port = int(server.url.rpartition(":")[2])
    addresses = {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        with pytest.raises(ConnectionRefusedError), socket.create_connection((address, port), timeout=2):
            pass
    assert server.get("/v1/datasets", headers={"Host": "evil.example"}).status_code == 403
