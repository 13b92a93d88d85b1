"""Readers follow `live`: it is at hand, warmed, and swapped within a moment of its moving; also back."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from raycluster.declare.workload import Index
from raycluster.errors import NotFound
from raycluster.lake import follow, query, store
from raycluster.lake.follow import Followed, Follower
from raycluster.lake.index import build
from raycluster.lake.lake import Lake
from raycluster.lake.rollback import roll_back


@pytest.fixture
def follower(place: Lake) -> Iterator[Follower]:
    one = Follower(place, every=0.05)
    one.start()
    yield one
    one.stop()


def soon(holds: Callable[[], bool]) -> bool:
    limit = time.monotonic() + 10
    while not holds() and time.monotonic() < limit:
        time.sleep(0.02)
    return holds()


def rows(follower: Follower) -> int:
    return follower.table("d").count_rows(version="live")


def test_the_live_version_is_at_hand(anywhere: Any, follower: Follower) -> None:
    anywhere.table.set_live(anywhere.put(["a", "b"]).version)
    table = follower.table("d")
    assert table.open("live") is table.open("live")
    assert follower.versions() == {"d": anywhere.table.live()}
    anywhere.put(["c"])  # committed, not live
    time.sleep(0.3)
    assert rows(follower) == 4
    assert follower.table("d").open("latest").count_rows() == 6


def test_it_is_swapped_when_live_moves_and_when_it_moves_back(anywhere: Any, follower: Follower, place: Lake) -> None:
    anywhere.table.set_live(anywhere.put(["a", "b"]).version)
    assert rows(follower) == 4
    before = follower.table("d").open("live")
    anywhere.table.set_live(anywhere.put(["c"]).version)
    assert soon(lambda: rows(follower) == 6)
    assert before.count_rows() == 4  # who has begun ends on what they began with
    roll_back(place, "d", to="previous", by="me", why="test")
    assert soon(lambda: rows(follower) == 4)


def test_indexes_are_warm_before_the_swap(writer: Any, lake: Lake) -> None:
    writer.put([f"o/{index}" for index in range(400)])
    build(writer.table, [Index(column="vector", kind="ivf_sq"), Index(column="text", kind="fts")])
    writer.table.set_live(writer.table.version())
    asked = [
        query.Question(vector=np.ones(writer.width), columns=("id",), k=3),
        query.Question(mode="text", text="cat", columns=("id",), k=3),
    ]

    def reads(dataset: Any) -> int:
        dataset.io_stats_incremental()  # what opening and warming read
        for question in asked:
            assert len(query.search(Followed("d", writer.table.uri, dataset), question).hits) == 3
        return int(dataset.io_stats_incremental().read_iops)

    warm = reads(Follower(lake).table("d").open("live"))
    store.session.cache_clear()
    cold = reads(writer.table.open("live", cached=True))
    assert warm < cold / 2


def test_nothing_is_followed_before_a_run_has_finished(writer: Any, lake: Lake) -> None:
    follower = Follower(lake)
    with pytest.raises(NotFound, match="unknown dataset"):
        follower.table("d")
    writer.put(["a"])
    with pytest.raises(NotFound, match="no live version yet"):
        follower.table("d").open("live")
    assert not follower.versions()
    writer.table.set_live(writer.table.version())
    assert follower.table("d").open("live").count_rows() == 2


def test_a_dataset_that_is_removed_is_let_go(writer: Any, lake: Lake) -> None:
    writer.table.set_live(writer.put(["a"]).version)
    follower = Follower(lake, every=0.05)
    follower.table("d")
    follower.start()
    shutil.rmtree(writer.table.uri)
    assert soon(lambda: not follower.versions())
    with pytest.raises(NotFound, match="unknown dataset"):
        follower.table("d")
    follower.stop()


def test_a_store_that_fails_for_a_while_leaves_readers_what_they_have(writer: Any, lake: Lake) -> None:
    writer.table.set_live(writer.put(["a"]).version)
    follower = Follower(lake, every=0.05)
    follower.table("d")
    follower.start()
    tag = f"{writer.table.uri}/_refs/tags/live.json"
    shutil.move(tag, f"{tag}.away")
    (open(tag, "w")).close()  # a tag that cannot be read
    time.sleep(0.3)
    assert rows(follower) == 2
    shutil.move(f"{tag}.away", tag)
    writer.table.set_live(writer.put(["b"]).version)
    assert soon(lambda: rows(follower) == 4)
    follower.stop()


def test_what_nobody_asks_for_is_let_go(writer: Any, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_IDLE_SECONDS", 0.2)
    writer.table.set_live(writer.put(["a"]).version)
    follower = Follower(lake, every=0.05)
    follower.start()
    follower.table("d")
    assert soon(lambda: not follower.versions())
    assert follower.table("d").open("live").count_rows() == 2
    follower.stop()


def test_many_at_once_open_it_once(writer: Any, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.table.set_live(writer.put(["a"]).version)
    follower, opened = Follower(lake), []
    warm = follow._warmed
    monkeypatch.setattr(follow, "_warmed", lambda dataset: opened.append(dataset) or warm(dataset))
    threads = [threading.Thread(target=follower.table, args=("d",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def test_names_that_are_no_dataset_s_are_not_kept(anywhere: Any, follower: Follower) -> None:
    anywhere.table.set_live(anywhere.put(["a"]).version)
    follower.table("d")
    for number in range(5):
        with pytest.raises(NotFound):
            follower.table(f"made-up-{number}")
    assert set(follower._asked) == {"d"}
