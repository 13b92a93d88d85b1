import hashlib
import json
import os
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.declare.workload import Index
from raycluster.errors import InvalidUse, NotFound
from raycluster.lake import maintain as care
from raycluster.lake import store
from raycluster.lake.commit import Change, commit
from raycluster.lake.index import build
from raycluster.lake.lease import SKEW, lease, leases
from raycluster.lake.ledger import COSTS
from raycluster.lake.maintain import due, maintain
from raycluster.lake.runs import Run

SLOW_ON_S3 = pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
NOW = timedelta(0)
INDEXES = (
    Index(column="vector", kind="ivf_rq"),
    Index(column="text", kind="fts"),
    Index(column="modality", kind="bitmap"),
)


def fill(writer, parts, *, objects=100):
    for part in range(parts):
        landed = writer.put([f"u{part}/{index}" for index in range(objects)], seed=part)
    return landed.version


def owner(writer, uri):
    return writer.rows([uri])["object_id"][0].as_py()


def prove(writer):
    """Index and show, as a run does at its end."""
    return writer.table.set_live(max(one.version for one in build(writer.table, INDEXES)))


def fragments(writer):
    return len(writer.table.open().get_fragments())


def rows(writer):
    """Return everything but the pictures."""
    dataset = writer.table.open()
    columns = [name for name in dataset.schema.names if name != "thumbnail"]
    return dataset.to_table(columns=columns, with_row_id=True).sort_by("id")


def pictures(writer):
    dataset = writer.table.open()
    table = dataset.to_table(columns=["id"], with_row_id=True).sort_by("id")
    blobs = dataset.take_blobs("thumbnail", ids=table["_rowid"].to_pylist())
    return [None if one is None else hashlib.sha256(one.read()).hexdigest() for one in blobs]


def answers(writer):
    dataset = writer.table.open()
    near = {"column": "vector", "q": [1.0] * writer.width, "k": 20, "nprobes": 8, "refine_factor": 10}
    return (
        dataset.to_table(columns=["id"], nearest=near)["id"].to_pylist(),
        sorted(dataset.to_table(columns=["id"], full_text_query="piano")["id"].to_pylist()),
        dataset.count_rows("modality = 'audio'"),
        [dataset.count_rows(f"id = '{key}'") for key in writer.ids()[::29]],
    )


def versions(writer):
    return [entry["version"] for entry in writer.table.open().versions()]


def listing(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(Path(folder).rglob("*"))
    }


@SLOW_ON_S3
def test_everything_is_as_it_was_in_fewer_files(anywhere, place):
    fill(anywhere, 4)
    prove(anywhere)
    fill_more = anywhere.put(["v1", "v2"], removed=[owner(anywhere, f"u1/{index}") for index in range(40)])
    live = prove(anywhere)
    before = rows(anywhere), pictures(anywhere), answers(anywhere), anywhere.table.open().schema
    done = maintain(place, "d")
    assert (done.fragments_before, done.fragments_after, fragments(anywhere)) == (5, 1, 1)
    assert done.bytes_rewritten > 50_000
    assert done.skipped == []
    found = rows(anywhere), pictures(anywhere), answers(anywhere), anywhere.table.open().schema
    assert found[0].equals(before[0])
    assert found[1:3] == before[1:3]
    assert found[3].equals(before[3], check_metadata=True)
    assert done.live == anywhere.table.live() > live > fill_more.version
    assert fragments(anywhere) == len(anywhere.table.open("live").get_fragments())
    assert anywhere.table.open().get_fragments()[0].metadata.num_deletions == 0
    json.dumps(asdict(done))


def test_pictures_of_every_size_survive(writer, lake):
    """Lance keeps small blobs in the file, larger ones together in another, large ones one a file."""
    sink = writer.table.create_or_check(writer.schema())
    for part, size in enumerate((1_000, 100_000, 5_000_000)):
        batch = writer.rows([f"{part}/{index}" for index in range(3)])
        blobs = pa.array([os.urandom(size) if index % 2 else None for index in range(batch.num_rows)])
        batch = batch.set_column(batch.schema.get_field_index("thumbnail"), "thumbnail", blobs)
        commit(writer.table, Change(run_id="r", workload="w", fragments=sink.write(iter([batch]))))
    before = rows(writer), pictures(writer)
    assert len(set(before[1])) == 10  # nine pictures and none
    done = maintain(lake, "d", keep_age=NOW, keep_versions=1)
    assert (done.fragments_after, done.orphans.files) == (1, 0)
    assert pictures(writer) == before[1]
    assert rows(writer).equals(before[0])
    assert done.bytes_freed > 15_000_000


def test_the_second_time_there_is_nothing_to_do(writer, lake):
    fill(writer, 3)
    prove(writer)
    maintain(lake, "d", keep_age=NOW, keep_versions=1)
    before = listing(writer.table.uri)
    done = maintain(lake, "d", keep_age=NOW, keep_versions=1)
    assert (done.bytes_rewritten, done.versions_removed, done.bytes_freed, done.skipped) == (0, 0, 0, [])
    assert {one.state for one in done.indexes} == {"current"}
    after = listing(writer.table.uri)
    assert after == before


def test_large_fragments_are_not_written_again(writer, lake, monkeypatch):
    fill(writer, 3, objects=600)
    size = care._size(writer.table.open().get_fragments()[0].metadata)
    monkeypatch.setattr(care, "MAX_FILE_BYTES", int(size * 1.5))
    first = [one.metadata.files[0].path for one in writer.table.open().get_fragments()]
    for part in range(3):
        writer.put([f"small{part}"])
    done = maintain(lake, "d")
    assert (done.fragments_before, done.fragments_after) == (6, 4)
    assert done.bytes_rewritten < size
    left = writer.table.open().get_fragments()
    assert [one.metadata.files[0].path for one in left][:3] == first
    ids = [one.fragment_id for one in left]
    writer.put(["another"])
    assert maintain(lake, "d").fragments_after == 4  # the small one again, and never a large one with it
    assert [one.fragment_id for one in writer.table.open().get_fragments()][:3] == ids[:3]


@pytest.mark.parametrize("tasks", [1, 2, 16])
def test_several_tasks_of_one_plan_all_land(writer, lake, monkeypatch, tasks):
    fill(writer, 9)
    prove(writer)
    before = rows(writer), answers(writer)
    monkeypatch.setattr(care, "MAX_FILE_BYTES", 3 * care._size(writer.table.open().get_fragments()[0].metadata))
    monkeypatch.setattr(care, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(care, "_TASKS_A_COMMIT", tasks)
    done = maintain(lake, "d")
    assert (done.fragments_before, done.skipped) == (9, [])
    assert 3 <= done.fragments_after == fragments(writer) <= 5
    assert (rows(writer), answers(writer)) == before
    assert maintain(lake, "d").bytes_rewritten == 0


def test_a_large_fragment_with_many_deleted_rows_is(writer, lake, monkeypatch):
    fill(writer, 2, objects=600)
    monkeypatch.setattr(care, "MAX_FILE_BYTES", care._size(writer.table.open().get_fragments()[0].metadata))
    gone = [owner(writer, f"u0/{index}") for index in range(100)]
    commit(writer.table, Change(run_id="r", workload="w", removed=gone))
    before = rows(writer)
    maintain(lake, "d")
    assert [one.metadata.num_deletions for one in writer.table.open().get_fragments()] == [0, 0]
    assert rows(writer).equals(before)


def test_others_commit_while_it_is_written(writer, lake, monkeypatch):
    """A gigabyte takes longer to write than the pause between two commits of a run."""
    fill(writer, 4)
    prove(writer)
    real, late = care._offer, []

    def offer(*what):
        if not late:
            late.append(writer.put(["late"], base=writer.table.version()))
        return real(*what)

    monkeypatch.setattr(care, "_offer", offer)
    done = maintain(lake, "d")
    assert (done.skipped[1:], fragments(writer)) == ([], 2)
    assert done.skipped[0].startswith("`live` stays at")  # the late rows were not proven
    expected = writer.ids_of([f"u{part}/{index}" for part in range(4) for index in range(100)])
    assert writer.ids() == sorted([*expected, *writer.ids_of(["late"])])
    assert writer.table.count_rows(filter=f"id = '{expected[7]}'") == 1


def test_an_index_that_is_built_while_it_is_written_finds_every_row(writer, lake, monkeypatch):
    fill(writer, 3)
    commit(writer.table, Change(run_id="run", workload="w", fence="take"))  # so that maintain does not index first
    real, expected = care._offer, []

    def offer(*what):
        build(writer.table, INDEXES)
        expected.append((rows(writer), answers(writer)))
        return real(*what)

    monkeypatch.setattr(care, "_offer", offer)
    done = maintain(lake, "d")
    assert "or their indexes meanwhile" in done.skipped[0]
    monkeypatch.undo()
    commit(writer.table, Change(run_id="run", workload="w", fence="release"))
    maintain(lake, "d")
    assert expected == [(rows(writer), answers(writer))]
    [left] = writer.table.open().get_fragments()
    for one in writer.table.open().describe_indices():
        assert [set(segment.fragment_ids) for segment in one.segments] == [{left.fragment_id}], one.name


def test_rows_deleted_while_it_is_written_stay_deleted(writer, lake, monkeypatch):
    fill(writer, 3)
    real = care._offer

    def offer(*what):
        commit(writer.table, Change(run_id="r", workload="w", removed=[owner(writer, "u1/7")]))
        return real(*what)

    monkeypatch.setattr(care, "_offer", offer)
    done = maintain(lake, "d", keep_age=NOW, keep_versions=1)
    assert done.skipped == ["3 fragments were not joined: others changed the fragments or their indexes meanwhile"]
    assert (done.fragments_after, fragments(writer)) == (3, 3)
    assert (writer.table.count_rows(), done.orphans.files) == (598, 1)  # what was written for nothing is gone
    monkeypatch.undo()
    assert maintain(lake, "d").fragments_after == 1
    assert writer.table.count_rows() == len(set(writer.ids())) == 598


def test_one_task_of_several_is_in_vain(writer, lake, monkeypatch):
    fill(writer, 9)
    monkeypatch.setattr(care, "MAX_FILE_BYTES", 3 * care._size(writer.table.open().get_fragments()[0].metadata))
    monkeypatch.setattr(care, "_FEWEST_ROWS", 1)
    real = care._offer

    def offer(*what):
        commit(writer.table, Change(run_id="r", workload="w", removed=[owner(writer, "u1/7")]))
        return real(*what)

    monkeypatch.setattr(care, "_offer", offer)
    done = maintain(lake, "d")
    assert done.skipped == ["3 fragments were not joined: others changed the fragments or their indexes meanwhile"]
    assert (fragments(writer), done.fragments_after) == (5, 5)
    assert writer.table.count_rows() == len(set(writer.ids())) == 1798


def test_always_too_late(writer, lake, monkeypatch):
    fill(writer, 3)
    monkeypatch.setattr(care.time, "sleep", lambda seconds: None)
    real, number = care.Compaction.commit, iter(range(1000))

    class Late:
        plan = care.Compaction.plan

        @staticmethod
        def commit(dataset, rewrites):
            writer.put([f"late{next(number)}"])
            return real(dataset, rewrites)

    monkeypatch.setattr(care, "Compaction", Late)
    done = maintain(lake, "d")
    assert done.skipped == ["3 fragments were not joined: others committed first, every time"]
    assert writer.table.count_rows() == len(set(writer.ids())) == 600 + 2 * care._ATTEMPTS


def test_a_run_beside_it_loses_nothing(writer, lake):
    """A run commits as fast as it can, compaction and gc go round and round."""
    fill(writer, 3)
    commit(writer.table, Change(run_id="run", workload="w", fence="take"))
    lake.runs().put(Run(run_id="run", workload="w", dataset="d", status="running", started_at=datetime.now(UTC)))
    base, faults, rounds, over = writer.table.version(), [], [], threading.Event()

    def caring():
        while not over.is_set():
            try:
                rounds.append(maintain(lake, "d", keep_age=NOW, keep_versions=3))
            except Exception as error:  # noqa: BLE001  # whatever it is, the test is to fail
                faults.append(error)

    thread = threading.Thread(target=caring)
    thread.start()
    own, put = set(), []

    def numbers():
        """Commit as fast as can be, then at a pace at which compaction wins on any machine, until it has."""
        yield from range(60)
        deadline, number = time.monotonic() + 60, 60
        while sum(one.bytes_rewritten > 0 for one in rounds) <= 3 and time.monotonic() < deadline:
            time.sleep(0.5)
            yield number
            number += 1

    try:
        for number in numbers():
            written = writer.write([f"new{number}"], seed=number)
            removed = [owner(writer, f"u1/{number}")] if number % 6 == 0 and number < 60 else []
            put.append(f"new{number}")
            change = Change(
                run_id="run", workload="w", fragments=written, removed=removed, base=base, fence="hold", own=own
            )
            commit(writer.table, change)
            own |= {file["path"] for text in written for file in json.loads(text)["files"]}
    finally:
        over.set()
        thread.join()
    assert faults == []
    kept = [f"u{part}/{index}" for part in range(3) for index in range(100) if part != 1 or index % 6 or index > 59]
    expected = sorted([*writer.ids_of(kept), *writer.ids_of(put)])
    assert writer.ids() == expected
    assert sum(one.bytes_rewritten > 0 for one in rounds) > 3, "compaction never won"
    assert sum(one.versions_removed for one in rounds) == 0  # a commit may still ask for the version that it made
    commit(writer.table, Change(run_id="run", workload="w", fence="release"))
    prove(writer)
    maintain(lake, "d", keep_age=NOW, keep_versions=1)
    assert (writer.ids(), fragments(writer), len(versions(writer))) == (expected, 1, 1)
    assert answers(writer)[3] == [1] * len(expected[::29])


def test_unproven_rows_are_compacted_but_not_shown(writer, lake):
    fill(writer, 3)
    live = prove(writer)
    commit(writer.table, Change(run_id="dead", workload="w", fence="take", fragments=writer.write(["x"])))
    done = maintain(lake, "d")
    assert (done.live, writer.table.live(), done.indexes) == (live, live, [])
    assert done.skipped == [f"`live` stays at {live}: a run is unfinished"]
    assert (done.fragments_after, writer.table.count_rows(version="live")) == (2, 600)  # indexed, and not yet


def test_live_that_went_back_stays_there(writer, lake):
    first = fill(writer, 2)
    writer.table.set_live(first)
    writer.put(["bad"])
    prove(writer)
    writer.table.set_live(first, "back")
    done = maintain(lake, "d")
    assert (done.live, writer.table.count_rows(version="live")) == (first, 400)
    assert done.skipped == [f"`live` stays at {first}: later versions hold other rows"]


def test_nothing_is_shown_that_never_was(writer, lake):
    fill(writer, 2)
    assert maintain(lake, "d").live is None
    assert writer.table.tags() == {}


def test_previous_still_names_what_readers_saw_before(writer, lake):
    fill(writer, 2)
    first = prove(writer)
    writer.put(["more"])
    prove(writer)
    maintain(lake, "d")
    assert writer.table.tags()["previous"] == first


def test_indexes_that_lag_are_brought_up(writer, lake):
    fill(writer, 2, objects=300)
    build(writer.table, INDEXES)
    writer.put(["x", "y"])
    done = maintain(lake, "d")
    kinds = {one.kind: one.rows for one in done.indexes if one.column in ("modality", "text", "vector")}
    assert set(kinds) == {"bitmap", "fts", "ivf_rq"}
    covered = {one.name: one.segments for one in writer.table.open().describe_indices()}
    everything = {one.fragment_id for one in writer.table.open().get_fragments()}
    for name, segments in covered.items():
        assert set().union(*(one.fragment_ids for one in segments)) == everything, name


def test_columns_that_are_being_computed_are_left_alone(writer, lake):
    fill(writer, 3)
    commit(writer.table, Change(run_id="run", workload="w", fence="take"))
    part = Path(writer.table.uri) / "data" / "fill-0123-4567.lance"
    part.write_bytes(b"a column")
    long_ago = datetime.now(UTC).timestamp() - 30 * 86400
    os.utime(part, (long_ago, long_ago))
    count = len(versions(writer))
    done = maintain(lake, "d", keep_age=NOW, keep_versions=1)
    assert (done.fragments_before, done.fragments_after, done.versions_removed) == (3, 3, 0)
    assert "columns are being computed" in done.skipped[0]
    assert part.exists()
    assert len(versions(writer)) == count


@pytest.mark.parametrize("keep", [{"keep_versions": 3}, {"keep_versions": 1, "keep_age": timedelta(days=1)}])
def test_versions_that_are_kept(writer, lake, keep):
    latest = fill(writer, 6, objects=2)
    done = maintain(lake, "d", **{"keep_age": NOW, **keep})
    assert writer.table.count_rows() == 24
    if "keep_age" in keep:
        assert (done.versions_removed, versions(writer)[:latest]) == (0, list(range(1, latest + 1)))
    else:
        assert len(versions(writer)) == 3
        assert done.versions_removed > 3
        assert done.bytes_freed > 10_000


@SLOW_ON_S3
def test_versions_with_a_name_or_a_reader_stay(anywhere, place):
    fill(anywhere, 6, objects=2)
    anywhere.table.tag("release-1", 3)
    anywhere.table.set_live(4)
    lease(anywhere.table, 5, holder="reader", seconds=60)
    lease(anywhere.table, 6, holder="gone", seconds=-SKEW.total_seconds() - 5)
    done = maintain(place, "d", keep_age=NOW, keep_versions=1)
    assert versions(anywhere)[:-1] == [3, 4, 5]
    assert [anywhere.table.count_rows(version=one) for one in ("release-1", "live", 5)] == [8, 12, 16]
    assert done.orphans.leases == 1
    assert [one.holder for one in leases(anywhere.table)] == ["reader"]


def test_dry_run_changes_nothing(writer, lake):
    fill(writer, 4)
    prove(writer)
    writer.write(["orphan"])
    lake.quarantine("d").add([bad("q")], run_id="r", workload="w")
    before = listing(lake.uri)
    said = maintain(lake, "d", keep_age=NOW, keep_versions=1, dry_run=True)
    assert listing(lake.uri) == before
    assert (said.fragments_before, said.fragments_after, said.orphans.files) == (4, 1, 1)
    assert said.versions_removed > 4
    done = maintain(lake, "d", keep_age=NOW, keep_versions=1)
    assert (done.fragments_after, done.orphans.bytes) == (1, said.orphans.bytes)
    assert done.bytes_freed >= said.bytes_freed > 0


def bad(uri):
    return {
        "object_id": uri, "uri": uri, "modality": "image", "position": 0, "stage": "decode", "code": "corrupt",
        "message": "?", "settled_by": None,
    }  # fmt: skip


def test_the_lists_beside_it_are_kept_short(writer, lake, monkeypatch):
    monkeypatch.setattr(care, "_LIST_AGE", NOW)
    writer.put(["a"])
    for number in range(12):
        lake.quarantine("d").add([bad(f"q{number % 6}")], run_id=f"r{number}", workload="w")
        run = Run(run_id=f"r{number}", workload="w", dataset="d", status="done", started_at=datetime.now(UTC))
        lake.runs().put(run)
    before = lake.quarantine("d").rows(), lake.runs().recent()
    done = maintain(lake, "d")
    for uri in (lake.quarantine("d").uri, lake.runs().uri):
        dataset = store.open_dataset(uri)
        assert (len(dataset.get_fragments()), len(dataset.versions())) == (1, 3)
    assert (lake.quarantine("d").rows(), lake.runs().recent()) == before
    assert [one["attempts"] for one in lake.quarantine("d").rows()] == [2] * 6
    assert done.bytes_freed > 20_000
    lake.quarantine("d").add([bad("q1")], run_id="again", workload="w")  # keys are still keys
    assert len(lake.quarantine("d").rows()) == 6


def test_the_ledger_is_kept_short_while_others_add_to_it(lake, monkeypatch):
    monkeypatch.setattr(care, "_MANY", 4)
    monkeypatch.setattr(care, "_LIST_AGE", timedelta(0))
    ledger = lake.ledger()
    assert care.tend_ledger(lake) == 0  # nothing was ever written

    def put(name, amount):
        ledger.put_costs(pa.Table.from_pylist([{"id": name, "nanousd": amount}], COSTS))

    for number in range(3):
        put(f"line{number}", number)
    assert care.tend_ledger(lake) == 0
    put("line0", 100)
    over = threading.Event()

    def add():
        for number in range(10):
            put(f"more{number}", 1)
        over.set()

    other = threading.Thread(target=add)
    other.start()
    while not over.is_set():
        care.tend_ledger(lake)
    other.join()
    assert care.tend_ledger(lake) >= 0
    rows = [row for batch in ledger.costs() for row in batch.to_pylist()]
    assert sorted((row["id"], row["nanousd"]) for row in rows) == sorted(
        [("line0", 100), ("line1", 1), ("line2", 2), *((f"more{number}", 1) for number in range(10))]
    )
    costs = store.open_dataset(ledger.uris[1])
    assert len(costs.get_fragments()) < 4 + 10
    assert len(costs.versions()) < 15  # one for each put, without


def test_due_when_small_fragments_are_many(writer, lake, monkeypatch):
    monkeypatch.setattr(care, "_MANY", 4)
    fill(writer, 3, objects=2)
    assert not due(writer.table)
    writer.put(["x"])
    assert due(writer.table)
    maintain(lake, "d")
    assert not due(writer.table)


@pytest.mark.parametrize("wrong", [{"keep_versions": 0}, {"keep_age": timedelta(seconds=-1)}])
def test_what_cannot_be_kept(writer, lake, wrong):
    writer.put(["a"])
    with pytest.raises(InvalidUse, match="cannot keep"):
        maintain(lake, "d", **wrong)


def test_no_such_dataset(writer, lake):
    writer.put(["a"])
    with pytest.raises(NotFound, match="'e'"):
        maintain(lake, "e")
