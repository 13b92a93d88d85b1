import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.errors import NotFound, RayclusterError
from raycluster.lake import gc, lease, store
from raycluster.lake.commit import Change, commit
from raycluster.lake.gc import collect
from raycluster.lake.index import build
from raycluster.lake.lease import SKEW, leases, writing
from raycluster.lake.runs import Run


def begin(lake, run_id="run", workload="w", *, status="running", started_at=None):
    """Take the fence and enter the run, as the engine does."""
    commit(lake.table("d"), Change(run_id=run_id, workload=workload, fence="take"))
    started_at = started_at or datetime.now(UTC)
    run = Run(run_id=run_id, workload=workload, dataset="d", status=status, started_at=started_at)
    lake.runs().put(run)


def end(lake, run_id="run", workload="w"):
    commit(lake.table("d"), Change(run_id=run_id, workload=workload, fence="release"))


def files(writer):
    return set(store.modified(writer.table.uri))


def paths(fragments):
    return [f"data/{one['path']}" for text in fragments for one in json.loads(text)["files"]]


def age(writer, path, hours=5):
    then = time.time() - hours * 3600
    os.utime(Path(writer.table.uri) / path, (then, then))


def listing(folder):
    """Return every file's bytes, hashed, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(Path(folder).rglob("*"))
    }


def test_what_a_dead_worker_left_goes(anywhere, place):
    anywhere.put(["a"])
    before = files(anywhere)
    [orphan] = paths(anywhere.write(["b"]))
    done = collect(place, "d")
    assert (done.files, done.kept_files, done.reasons) == (1, 0, [])
    assert 10_000 < done.bytes < 100_000
    assert files(anywhere) == before
    assert orphan not in before
    assert anywhere.ids() == anywhere.ids_of(["a"])
    assert collect(place, "d").files == 0


def test_what_a_live_run_has_not_committed_yet_stays(anywhere, place):
    anywhere.put(["a"])
    begin(place)
    fragments = anywhere.write(["b", "c"])
    done = collect(place, "d")
    assert (done.files, done.kept_files) == (0, 1)
    assert "run run of 'w' is unfinished; it began at " in done.reasons[0]
    commit(anywhere.table, Change(run_id="run", workload="w", fragments=fragments, fence="hold"))
    assert anywhere.ids() == anywhere.ids_of(["a", "b", "c"])
    end(place)
    assert collect(place, "d").files == 0
    assert anywhere.ids() == anywhere.ids_of(["a", "b", "c"])


def test_older_orphans_go_beside_a_live_run(writer, lake):
    writer.put(["a"])
    [old] = paths(writer.write(["old"]))
    [recent] = paths(writer.write(["recent"]))
    age(writer, old, hours=SKEW.total_seconds() / 3600 + 0.1)
    age(writer, recent, hours=SKEW.total_seconds() / 3600 - 0.1)  # by a clock that is nearly an hour wrong
    begin(lake)
    [own] = paths(writer.write(["own"]))
    done = collect(lake, "d")
    assert (done.files, done.kept_files) == (1, 2)
    assert {old, recent, own} & files(writer) == {recent, own}


def test_on_a_store_the_age_is_that_of_its_own_clock(s3, writer_of, tmp_path):
    from raycluster.lake.lake import Lake

    lake = Lake(f"{s3}/{tmp_path.name}")
    writer = writer_of(lake.table("d"))
    writer.put(["a"])
    writer.write(["b"])
    begin(lake, started_at=datetime.now(UTC) + SKEW - timedelta(minutes=1))
    assert collect(lake, "d").kept_files == 1
    begin(lake, "later", started_at=datetime.now(UTC) + SKEW + timedelta(minutes=1))
    assert (collect(lake, "d").files, writer.ids()) == (1, writer.ids_of(["a"]))


def test_of_several_runs_the_earliest_counts(writer, lake):
    writer.put(["a"])
    begin(lake, "first", "one", started_at=datetime.now(UTC) - timedelta(hours=9))
    begin(lake, "second", "two")
    [own] = paths(writer.write(["b"]))
    age(writer, own, hours=8)
    assert collect(lake, "d").kept_files == 1
    end(lake, "first", "one")
    assert collect(lake, "d").files == 1


def test_a_run_that_nobody_knows_may_have_written_anything(writer, lake):
    """It took the fence and died, or has not entered itself yet."""
    writer.put(["a"])
    [old] = paths(writer.write(["b"]))
    age(writer, old, hours=1000)
    commit(writer.table, Change(run_id="ghost", workload="w", fence="take"))
    done = collect(lake, "d")
    assert (done.files, done.kept_files) == (0, 1)
    assert "nobody knows when" in done.reasons[0]


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_run_that_said_that_it_ended_holds_nothing_back(writer, lake, status):
    writer.put(["a"])
    begin(lake, status=status)
    writer.write(["b"])
    assert collect(lake, "d").files == 1


def test_who_lost_the_fence_holds_nothing_back(writer, lake):
    writer.put(["a"])
    begin(lake, "dead", started_at=datetime.now(UTC) - timedelta(days=1))
    [left] = paths(writer.write(["b"]))
    age(writer, left)
    assert collect(lake, "d").files == 0
    begin(lake, "next")
    assert collect(lake, "d").files == 1


def test_columns_that_the_next_run_takes_up_stay(writer, lake):
    """Those of a run that failed, and older than the run that goes on from them."""
    writer.put(["a"])
    begin(lake, status="failed")
    left = Path(writer.table.uri) / "data" / "fill-0123-4567.lance"
    left.write_bytes(b"a column")
    age(writer, "data/fill-0123-4567.lance", hours=100)
    done = collect(lake, "d")
    assert (done.files, done.kept_files, done.reasons) == (0, 1, ["the next run goes on from them"])
    begin(lake, "next")
    assert collect(lake, "d").files == 0
    end(lake, "next")
    assert collect(lake, "d").files == 1


def test_who_writes_outside_a_run_says_so(writer, lake, monkeypatch):
    writer.put(["a"])
    with writing(writer.table, "maintain"):
        writer.write(["b"])
        done = collect(lake, "d")
    assert (done.files, done.kept_files) == (0, 1)
    assert done.reasons[0].startswith("maintain is at work since")
    monkeypatch.setattr(lease, "_LONGEST_WRITE", -SKEW - timedelta(seconds=2))
    with writing(writer.table, "dead"):
        assert collect(lake, "d").files == 1


def test_an_index_that_is_being_built_stays(writer, lake, monkeypatch):
    """The run that builds it has given its fence back."""
    writer.put([f"u{index}" for index in range(50)])
    from raycluster.lake import index

    real = index._once

    def once(*what):
        done = real(*what)
        folder = Path(writer.table.uri) / "_indices" / "00000000-0000-4000-8000-000000000000"
        folder.mkdir(exist_ok=True)
        (folder / "page_data.lance").write_bytes(b"half of it")
        assert collect(lake, "d").files == 0
        return done

    monkeypatch.setattr(index, "_once", once)
    build(writer.table, ())
    assert (collect(lake, "d").files, leases(writer.table)) == (1, [])
    for key in writer.ids():
        assert writer.table.count_rows(filter=f"id = '{key}'") == 1


def test_pictures_beside_a_fragment_go_with_it(writer, lake):
    """Lance keeps blobs above 64 kB in files of their own."""
    writer.put(["a"])
    before = files(writer)
    rows = writer.rows(["b"])
    pictures = pa.array([os.urandom(100_000)] * rows.num_rows)
    rows = rows.set_column(rows.schema.get_field_index("thumbnail"), "thumbnail", pictures)
    writer.table.create_or_check(writer.schema()).write(iter([rows]))
    beside = [path for path in files(writer) - before if path.endswith(".blob")]
    assert beside
    done = collect(lake, "d")
    assert done.files == len(beside) + 1
    assert done.bytes > 200_000
    assert files(writer) == before


DYING = """
import os, sys
import pyarrow as pa
from lance.fragment import write_fragments
def batches(schema):
    column = pa.array([os.urandom(100_000)] * 100)
    for index in range(10**6):
        yield pa.record_batch([column], schema=schema)
        if index == 10:
            print("writing", flush=True)
schema = pa.schema([("x", pa.binary())])
write_fragments(pa.RecordBatchReader.from_batches(schema, batches(schema)), sys.argv[1], mode="overwrite")
"""


def test_half_a_file_of_a_killed_writer_goes(writer, lake):
    writer.put(["a"])
    before = files(writer)
    with subprocess.Popen([sys.executable, "-c", DYING, writer.table.uri], stdout=subprocess.PIPE) as process:
        said = process.stdout.readline()
        process.kill()
    assert said == b"writing\n"
    half = files(writer) - before
    assert half
    done = collect(lake, "d")
    assert (done.files, files(writer)) == (len(half), before)
    assert done.bytes > 1_000_000


def test_deleted_rows_and_old_versions_are_not_orphans(writer, lake):
    for uri in ("a", "b", "c"):
        writer.put([uri])
    version = writer.put(["a"], version="2", removed=[writer.rows(["a"])["object_id"][0].as_py()]).version
    build(writer.table, ())
    before = files(writer)
    assert collect(lake, "d").files == 0
    assert files(writer) == before
    assert [writer.table.count_rows(version=one) for one in (2, 3, 4, version)] == [2, 4, 6, 6]


def test_dry_run_changes_nothing(writer, lake):
    writer.put(["a"])
    [orphan] = paths(writer.write(["b"]))
    lease.lease(writer.table, 2, holder="gone", seconds=-SKEW.total_seconds() - 5)
    begin(lake, status="failed")
    before = listing(lake.uri)
    said = collect(lake, "d", dry_run=True)
    assert listing(lake.uri) == before
    size = (Path(writer.table.uri) / orphan).stat().st_size
    assert (said.dry_run, said.files, said.bytes, said.leases) == (True, 1, size, 1)
    done = collect(lake, "d")
    assert (done.dry_run, done.files, done.bytes, done.leases) == (False, 1, size, 1)
    assert leases(writer.table) == []


def test_a_lease_that_holds_stays(writer, lake):
    writer.put(["a"])
    held = lease.lease(writer.table, 2, holder="r", seconds=60)
    assert collect(lake, "d").leases == 0
    assert [one.tag for one in leases(writer.table)] == [held.tag]


def test_a_file_that_disappears_meanwhile(writer, lake, monkeypatch):
    writer.put(["a"])
    [first] = paths(writer.write(["b"]))
    writer.write(["c"])
    real = gc._unnamed

    def unnamed(table):
        found = real(table)
        (Path(table.uri) / first).unlink()  # another gc was faster
        return found

    monkeypatch.setattr(gc, "_unnamed", unnamed)
    assert collect(lake, "d").files == 1


@pytest.mark.parametrize("moment", ["after the list", "after the question who writes"])
def test_a_run_that_begins_meanwhile(writer, lake, monkeypatch, moment):
    writer.put(["a"])
    writer.write(["orphan"])
    started = []

    def start():
        if not started:
            begin(lake)
            started.append(writer.write(["b"]))

    real_modified, real_writers = store.modified, gc._writers

    def modified(uri):
        found = real_modified(uri)
        if moment == "after the list":
            start()
        return found

    def writers(*where):
        found = list(real_writers(*where))
        start()
        return found

    monkeypatch.setattr(store, "modified", modified)
    monkeypatch.setattr(gc, "_writers", writers)
    collect(lake, "d")
    commit(writer.table, Change(run_id="run", workload="w", fragments=started[0], fence="hold"))
    assert writer.ids() == writer.ids_of(["a", "b"])


def test_no_such_dataset(writer, lake):
    writer.put(["a"])
    with pytest.raises(NotFound, match="'dd'"):
        collect(lake, "dd")


def test_runs_come_and_go_while_gc_goes_round(writer, lake):
    """Many short runs, each with its fence, and gc all the time: nothing that was committed is ever missing."""
    writer.put(["a"])
    over, faults, rounds = threading.Event(), [], []

    def collecting():
        while not over.is_set():
            try:
                rounds.append(collect(lake, "d").files)
            except (RayclusterError, OSError, ValueError) as error:
                faults.append(error)

    thread = threading.Thread(target=collecting)
    thread.start()
    try:
        for number in range(25):
            run_id = f"run{number}"
            begin(lake, run_id)
            fragments = writer.write([f"u{number}"])
            writer.write([f"lost{number}"])  # by a worker that dies
            time.sleep(0.005)
            commit(writer.table, Change(run_id=run_id, workload="w", fragments=fragments, fence="hold"))
            end(lake, run_id)
    finally:
        over.set()
        thread.join()
    assert not faults
    expected = writer.ids_of(["a", *(f"u{number}" for number in range(25))])
    assert writer.ids() == expected
    assert len(writer.table.open().to_table()) == len(expected)  # every file of every column is there
    assert sum(rounds) + collect(lake, "d").files == 25  # each once
