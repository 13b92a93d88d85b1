"""What lies in memory says what Lance says, of every version; filters and masks hold."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from raycluster.errors import LakeError
from raycluster.lake import heat, hot, pile, query
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.follow import Follower
from raycluster.lake.heat import Heat
from raycluster.lake.hot import Base, Unfit, build, refreshed
from raycluster.lake.lake import Lake
from raycluster.lake.query import Question, search
from raycluster.lake.rollback import roll_back
from raycluster.lake.table import Table

COLUMNS = ("id", "uri", "text", "position")


def unit(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(16)


def soon(holds: Callable[[], Any], seconds: float = 20) -> Any:
    limit = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < limit:
        time.sleep(0.02)
    return found


def same(one: Table, two: Table, access: Access = EVERYTHING, **more: Any) -> list[dict[str, Any]]:
    """Check that two ways to search find the same, row by row; return it."""
    asked = {"vector": unit(1), "k": 20, "columns": COLUMNS, **more}
    found, wanted = (search(table, Question(**asked), access=access) for table in (one, two))
    assert found.next == wanted.next
    scores = [[hit.pop("score") for hit in told.hits] for told in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    for hit in (*found.hits, *wanted.hits):
        hit.get("why", {}).get("vector", {}).pop("score", None)
    assert found.hits == wanted.hits
    return found.hits


@pytest.fixture(scope="module")
def two(filled: Table, held: Any) -> tuple[Table, Table]:
    """A dataset of 1,200 rows, held in memory and not."""
    return held(filled), filled


def test_it_is_asked_and_lance_is_not(two: tuple[Table, Table], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance.LanceDataset, "scanner", None)
    assert len(search(two[0], Question(vector=unit(1), k=20, columns=COLUMNS)).hits) == 20
    with pytest.raises(TypeError):
        search(two[1], Question(vector=unit(1)))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"k": 1},
        {"k": 1500},
        {"offset": 37, "k": 7},
        {"filter": "modality = 'image'"},
        {"filter": "position = 0 AND text LIKE '%cat%'", "offset": 5},
        {"filter": "text = 'nothing of that'"},
        {"group": "object", "k": 50},
        {"columns": (*COLUMNS, "media_type", "vector")},
        {"mode": "hybrid", "text": "cat dog"},
        {"explain": True, "highlight": True, "text": "cat"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "access",
    [
        EVERYTHING,
        Access(filters=("modality <> 'audio'",)),
        Access(masks={"uri": "'hidden'"}),
        Access(filters=("position = 1",), masks={"media_type": "NULL", "start_seconds": "0.5"}),
    ],
    ids=str,
)
def test_answers_are_those_of_lance(two: tuple[Table, Table], more: dict[str, Any], access: Access) -> None:
    hits = same(*two, access, **more)
    if "uri" in access.masks:
        assert {hit["uri"] for hit in hits} <= {"hidden"}


def test_a_graph_finds_what_brute_force_finds(filled: Table, held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pile, "GRAPH_ROWS", 100)
    monkeypatch.setattr(pile, "_BREADTHS", (128,))
    monkeypatch.setattr(hot, "GRAPH_ROWS", 100)
    monkeypatch.setattr(pile, "_GRAPH_COST", 0.1)  # else it is cheaper to look at all of so few
    table = held(filled)
    graph = table.hot("live")["vector"].base.pile
    assert graph.breadth == 128
    wanted, found = 0, 0
    for where in (None, "modality <> 'image'", "position = 0"):
        for seed in range(20):
            asked = Question(vector=unit(seed), columns=("id",), filter=where)
            hits = [{hit["id"] for hit in search(one, asked).hits} for one in (table, filled)]
            wanted, found = wanted + len(hits[1]), found + len(hits[0] & hits[1])
    assert found / wanted > 0.98


def test_equal_vectors_stand_in_the_order_of_their_rows(writer: Any, held: Any) -> None:
    for round_ in range(3):
        landed = writer.put([f"o/{round_}/{one}" for one in range(40)], seed=5)  # the same vectors each time
    writer.table.set_live(landed.version)
    table, seen = held(writer.table), []
    for offset in range(0, 60, 6):
        seen += [hit["id"] for hit in same(table, writer.table, k=6, offset=offset)]
    assert len(set(seen)) == 60


class Living:
    """A dataset that changes, and one process that follows it."""

    def __init__(self, writer: Any, lake: Lake, folder: Path) -> None:
        self.writer, self.table = writer, writer.table
        self.heat = Heat(folder, 1 << 30)
        self.follower = Follower(lake, every=0.05, heat=self.heat)

    def live(self, version: int | None = None) -> Any:
        """Show readers a version; return its index in memory."""
        self.table.set_live(version or self.table.version(), move="back")
        live = self.table.live()
        assert soon(lambda: self.follower.versions().get("d") == live and self.follower.table("d").hot("live"))
        return self.follower.table("d").hot("live")["vector"]

    def agree(self) -> None:
        for more in ({}, {"filter": "position = 1", "offset": 3}, {"k": 5000}):
            same(self.follower.table("d"), self.table, **more)


@pytest.fixture
def living(writer: Any, lake: Lake, tmp_path: Path) -> Any:
    for part in range(3):
        landed = writer.put([f"p/{part}/{one}" for one in range(200)], seed=part)
    one = Living(writer, lake, tmp_path / "hot")
    writer.table.set_live(landed.version)
    one.follower.start()
    one.follower.table("d")
    one.live()
    yield one
    one.follower.stop()


def test_rows_that_come_go_and_change_are_followed(living: Any) -> None:
    base = living.live().base
    living.agree()
    first = living.table.live()
    living.writer.put([f"new/{one}" for one in range(30)], seed=9)
    assert len(living.live().tail.ids) > 20
    living.agree()
    living.table.open().delete("uri LIKE 'p/1/1%'")
    held = living.live()
    assert held.alive is not None
    living.agree()
    gone = living.table.open().to_table(columns=["object_id"], limit=10)["object_id"].to_pylist()
    living.writer.put(["p/0/0", "p/0/1"], removed=gone, version="2", seed=77)
    assert living.live().base is base
    living.agree()
    roll_back(living.follower.lake, "d", to=str(first), by="me", why="test")
    living.live(first)
    living.agree()


def test_a_compaction_and_a_new_column_change_no_row(living: Any) -> None:
    base = living.live().base
    living.table.open().delete("uri LIKE 'p/2/19%'")
    living.table.open().optimize.compact_files(target_rows_per_fragment=100_000)
    held = living.live()
    assert len(living.table.open().get_fragments()) == 1
    assert held.base is base
    assert not len(held.tail.ids)
    living.agree()
    living.table.open().add_columns({"label": "concat('label of ', uri)"})
    held = living.live()
    assert soon(lambda: "label" in living.follower.table("d").hot("live").get("vector", held).names)
    living.agree()
    hits = search(living.follower.table("d"), Question(vector=unit(1), columns=("uri",), shown=("label",))).hits
    assert all(hit["label"] == f"label of {hit['uri']}" for hit in hits)


def test_vectors_that_are_made_anew_are_seen(living: Any) -> None:
    living.table.open().update({"text": "'rewritten'"}, where="uri LIKE 'p/0/%'")
    living.live()
    living.agree()
    ids = living.table.open().to_table(columns=["id", "vector"]).filter(pa.compute.field("vector").is_valid())
    turned = pa.FixedSizeListArray.from_arrays(pa.array(-ids["vector"].combine_chunks().flatten().to_numpy()), 16)
    living.table.open().merge_insert("id").when_matched_update_all().execute(
        pa.table({"id": ids["id"], "vector": turned})
    )
    living.live()
    living.agree()


def test_what_has_changed_much_gets_a_new_base_while_searches_go_on(
    living: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "FEW", 0)
    base, failed, stop = living.live().base, [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            hits = search(living.follower.table("d"), Question(vector=unit(2), k=10, columns=("id",))).hits
            if len({hit["id"] for hit in hits}) != 10:
                failed.append(hits)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for part in range(4):
        living.writer.put([f"more/{part}/{one}" for one in range(100)], seed=20 + part)
        living.live()
        living.agree()
    assert soon(lambda: living.live().base is not base)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def test_what_a_filter_chose_is_remembered_unless_it_looks_at_the_clock(two: tuple[Table, Table]) -> None:
    held = two[0].hot("live")["vector"]
    scans: list[int] = []

    def scan() -> Any:
        scans.append(1)
        return held.base.pile.ids[:10]

    for where in ("a = 1", "a = 1", "b < NOW()", "b < NOW()"):
        assert held.among(where, scan)[0].places == 10
    assert len(scans) == 3


def test_what_it_remembers_is_bounded(two: tuple[Table, Table], monkeypatch: pytest.MonkeyPatch) -> None:
    held = two[0].hot("live")["vector"]
    monkeypatch.setattr(hot, "_REMEMBERED", 10_000)
    for number in range(50):
        held.among(f"c = {number}", lambda: held.base.pile.ids[:100])
    assert not held.remembers("c = 0")
    assert held.remembers("c = 49")
    assert len(held._chosen) < 20


def test_a_filter_of_the_policy_that_fails_shows_nothing(two: tuple[Table, Table]) -> None:
    for table in two:
        with pytest.raises(LakeError, match="cannot be applied"):
            search(table, Question(vector=unit(1)), access=Access(filters=("no_such_column = 1",)))


def test_only_the_live_version_is_in_memory(two: tuple[Table, Table]) -> None:
    assert not two[0].hot(1)
    assert not two[0].hot("latest")
    assert not two[1].hot("live")
    assert search(two[0], Question(vector=unit(1), version=two[1].live())).hits


def waits(lake: Lake, folder: Path, limit: int) -> tuple[Follower, Heat]:
    warm = Heat(folder, limit)
    follower = Follower(lake, heat=warm)
    follower.start()
    follower.table("d")
    return follower, warm


def test_what_does_not_fit_goes_to_lance_and_says_so(
    writer: Any, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer.table.set_live(writer.put([f"o/{one}" for one in range(50)]).version)
    caplog.set_level(logging.WARNING)
    follower, warm = waits(lake, tmp_path, 1000)
    assert soon(lambda: warm.told().get("d", heat.Told(state="none")).state == "too_large")
    assert "1000" in caplog.text
    assert not follower.table("d").hot("live")
    same(follower.table("d"), writer.table)
    follower.stop()


def test_nothing_is_held_where_none_is_wanted_or_faiss_is_missing(
    writer: Any, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer.table.set_live(writer.put(["a", "b"]).version)
    for limit in (0, 1 << 30):
        monkeypatch.setattr(heat.importlib.util, "find_spec", lambda name: None)
        follower, warm = waits(lake, tmp_path, limit)
        time.sleep(0.1)
        assert not warm.told()
        assert not follower.table("d").hot("live")
        assert search(follower.table("d"), Question(vector=unit(1))).hits
        follower.stop()
    assert "pip install faiss-cpu" in caplog.text


def test_a_dataset_without_vectors_has_none(writer: Any, tmp_path: Path) -> None:
    rows = writer.rows(["a", "b"])
    at = rows.schema.get_field_index("vector")
    rows = rows.set_column(at, "vector", pa.nulls(len(rows), rows.schema.field(at).type))
    lance.write_dataset(pa.table(rows), str(tmp_path / "d.lance"), enable_stable_row_ids=True)
    with pytest.raises(Unfit, match="no row has a vector"):
        build(lance.dataset(str(tmp_path / "d.lance")), "vector", ["id"], tmp_path, lambda: None)


def test_vectors_that_point_nowhere_are_left_out(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    vectors[3], vectors[5], vectors[7] = 0, np.nan, np.inf
    vectors[8] *= 1e-30
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    dataset = lance.write_dataset(
        pa.table({"id": [str(one) for one in range(10)], "vector": column}), tmp_path / "d", enable_stable_row_ids=True
    )
    build(dataset, "vector", ["id"], tmp_path, lambda: None)
    held = refreshed(Base.open(tmp_path), dataset, "vector", most_stale=0)
    assert held is not None
    assert sorted(held.base.pile.ids.tolist()) == [0, 1, 2, 4, 6, 8, 9]
    assert held.nearest(vectors[8] / np.linalg.norm(vectors[8].astype(np.float64)), 1, None)[0][0] == 8


def test_more_rows_may_be_new_than_old(writer: Any, tmp_path: Path) -> None:
    writer.put(["a"])
    build(writer.table.open(), "vector", COLUMNS, tmp_path, lambda: None)
    writer.put([f"o/{one}" for one in range(20)])
    held = refreshed(Base.open(tmp_path), writer.table.open(), "vector", most_stale=0)
    assert held is not None
    assert len(held.tail.ids) > 3 * len(held.base.pile.ids)
    near = held.nearest(unit(1).astype(np.float32), 1000, None)
    rows = writer.table.open().to_table(["id"], "vector IS NOT NULL", with_row_id=True).to_pylist()
    told = held.told([one.seat for one in near], ["id"])
    assert [{**its, hot.ROW: one.row} for one, its in sorted(zip(near, told, strict=True))] == rows


def test_a_graph_that_does_not_find_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "GRAPH_ROWS", 100)
    monkeypatch.setattr(hot, "calibrated", lambda index: None)
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).random(800, np.float32)), 4)
    table = pa.table({"id": [str(one) for one in range(200)], "vector": column})
    dataset = lance.write_dataset(table, tmp_path / "d", enable_stable_row_ids=True)
    with pytest.raises(Unfit, match="does not find"):
        build(dataset, "vector", ["id"], tmp_path, lambda: None)


def test_two_processes_share_one_base(writer: Any, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.table.set_live(writer.put([f"o/{one}" for one in range(100)]).version)
    folder = tmp_path / "hot"
    first, _ = waits(lake, folder, 1 << 30)
    assert soon(lambda: first.table("d").hot("live"))
    monkeypatch.setattr(heat, "build", None)  # the second finds what the first has built
    second, _ = waits(lake, folder, 1 << 30)
    assert soon(lambda: second.table("d").hot("live"))
    same(second.table("d"), writer.table)
    (place,) = folder.glob("*")
    assert place.stat().st_mode & 0o777 == 0o700
    monkeypatch.undo()
    for one in place.glob("v*/ids.npy"):  # half removed: it is built anew
        one.unlink()
    third, _ = waits(lake, folder, 1 << 30)
    assert soon(lambda: third.table("d").hot("live"))
    assert len(list(place.glob("v*"))) == 1
    same(first.table("d"), writer.table)  # which has mapped what is no longer there
    for one in (first, second, third):
        one.stop()


def test_files_that_nobody_has_opened_for_long_go(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    os.utime(tmp_path / "old", (0, 0))
    (tmp_path / "new").mkdir()
    warm = Heat(tmp_path, 1)
    warm.start()
    assert soon(lambda: not (tmp_path / "old").exists())
    assert (tmp_path / "new").exists()
    warm.stop()


def test_a_build_ends_when_the_process_does(living: Any, tmp_path: Path) -> None:
    living.heat.stop()
    with pytest.raises(heat._Stopped):
        build(living.table.open(), "vector", ["id"], tmp_path, living.heat._goes_on)


def test_a_dataset_that_is_let_go_leaves_no_memory_in_use(living: Any) -> None:
    assert living.heat.told()["d"].rows > 800
    assert query.at_hand(living.follower.table("d"), Question(vector=unit(1)))
    living.follower._let_go("d")
    assert not living.heat.told()
