from __future__ import annotations

import json
import random
import threading
from collections import Counter
from datetime import timedelta

import lance
import pytest
from lance.commit import CommitConflictError

from raycluster.errors import CommitConflict, LakeError, TakenOver
from raycluster.lake import commit as protocol
from raycluster.lake import index, sql
from raycluster.lake.commit import Change, Landed, commit
from raycluster.lake.write import files
from raycluster.row import object_id


@pytest.fixture
def quick(monkeypatch):
    """Retry without pausing."""
    monkeypatch.setattr(protocol.time, "sleep", lambda seconds: None)


def owners(uris, version="1"):
    return [object_id(uri, version) for uri in uris]


def test_one_step_adds_and_replaces(anywhere):
    anywhere.put(["a", "b", "c"])
    before = anywhere.table.version()
    landed = anywhere.put(["b"], version="2", removed=owners(["b"]), base=before)
    assert landed == Landed(version=before + 1, added=2, removed=2)
    assert anywhere.ids() == sorted(anywhere.ids_of(["a", "c"]) + anywhere.ids_of(["b"], version="2"))
    assert anywhere.table.open(before).count_rows() == 6  # the reader of the old version still has all of it


def test_pruning_adds_nothing(anywhere):
    anywhere.put(["a", "b", "c"])
    landed = commit(anywhere.table, Change(run_id="r", workload="w", removed=owners(["a", "c", "never"])))
    assert (landed.added, landed.removed) == (0, 4)
    assert anywhere.ids() == anywhere.ids_of(["b"])


def test_a_fragment_that_loses_all_its_rows(anywhere):
    """Lance refuses a Merge with fewer fragments than before."""
    for uri in "abc":
        anywhere.put([uri])
    commit(anywhere.table, Change(run_id="r", workload="w", removed=owners("abc")))
    assert anywhere.ids() == []
    assert anywhere.table.open().get_fragments() == []
    anywhere.put(["d"])
    assert anywhere.ids() == anywhere.ids_of(["d"])


def test_nothing_to_do_makes_no_version(writer):
    landed = writer.put(["a"])
    for change in (Change(run_id="r", workload="w"), Change(run_id="r", workload="w", removed=owners(["zz"]))):
        assert commit(writer.table, change) == Landed(version=landed.version, added=0, removed=0)
    assert writer.table.version() == landed.version


def test_encoders_change_with_the_rows(writer):
    writer.table.create_or_check(writer.schema(), [{"use": "old"}])
    first = writer.put(["a"]).version
    change = Change(run_id="r", workload="w", fragments=writer.write(["b"]), encoders=[{"use": "new"}])
    second = commit(writer.table, change).version
    assert writer.table.encoders() == [{"use": "new"}]
    assert writer.table.encoders(first) == [{"use": "old"}]
    assert commit(writer.table, Change(run_id="r", workload="w", encoders=[{"use": "new"}])).version == second


def test_the_same_change_twice_is_done_once(anywhere):
    anywhere.put(["a"])
    fragments = anywhere.write(["a", "b"], version="2")
    change = Change(run_id="r", workload="w", fragments=fragments, removed=owners(["a"]))
    first = commit(anywhere.table, change)
    assert commit(anywhere.table, change) == first
    assert anywhere.ids() == anywhere.ids_of(["a", "b"], version="2")


def test_the_same_change_after_compaction_is_still_done_once(writer):
    writer.put(["a"])
    fragments = writer.write(["b"])
    change = Change(run_id="r", workload="w", fragments=fragments, base=writer.table.version())
    commit(writer.table, change)
    writer.table.open().optimize.compact_files()
    assert len(writer.table.open().get_fragments()) == 1
    commit(writer.table, change)
    assert writer.ids() == writer.ids_of(["a", "b"])


@pytest.mark.parametrize("lands", [True, False])
def test_an_unknown_outcome_is_looked_up(writer, monkeypatch, quick, lands):
    writer.put(["a"])
    fragments = writer.write(["b"])
    real, failures = protocol._Step.take, []

    def cut(self, dataset):
        if not failures:
            failures.append(True)
            if lands:
                real(self, dataset)
            raise OSError("connection reset by peer")
        return real(self, dataset)

    monkeypatch.setattr(protocol._Step, "take", cut)
    landed = commit(writer.table, Change(run_id="r", workload="w", fragments=fragments))
    assert (landed.added, landed.removed) == (2, 0)
    assert writer.ids() == writer.ids_of(["a", "b"])
    assert [one["added"] for one in writer.table.history() if one.get("run_id") == "r"] == [2]


def test_an_unknown_outcome_of_a_step_without_rows_is_looked_up(writer, monkeypatch, quick):
    writer.put(["a"])
    commit(writer.table, Change(run_id="r", workload="w", fence="take"))
    real, failures = protocol._Step.take, []

    def cut(self, dataset):
        if not failures:
            failures.append(True)
            real(self, dataset)
            raise OSError("connection reset by peer")
        return real(self, dataset)

    before = writer.table.version()
    monkeypatch.setattr(protocol._Step, "take", cut)
    commit(writer.table, Change(run_id="r", workload="w", fence="release"))  # not: taken over by nobody
    assert writer.table.open_runs() == {}
    assert writer.table.version() == before + 1


def test_an_unknown_outcome_that_was_compacted_away(writer, monkeypatch, quick):
    writer.put(["a"])
    fragments = writer.write(["b"])
    real, failures = protocol._Step.take, []

    def cut(self, dataset):
        if not failures:
            failures.append(True)
            real(self, dataset).optimize.compact_files()
            raise OSError("timed out")
        return real(self, dataset)

    monkeypatch.setattr(protocol._Step, "take", cut)
    commit(writer.table, Change(run_id="r", workload="w", fragments=fragments))
    assert writer.ids() == writer.ids_of(["a", "b"])


def test_a_store_that_stays_away(writer, monkeypatch, quick):
    writer.put(["a"])
    before = writer.table.version()
    fragments = writer.write(["b"])

    def down(self, dataset):
        raise OSError("503 slow down, /rust/lance/src/x.rs:1:2")

    with monkeypatch.context() as patch:
        patch.setattr(protocol._Step, "take", down)
        with pytest.raises(LakeError, match=r"cannot commit to .*: 503 slow down\n"):
            commit(writer.table, Change(run_id="r", workload="w", fragments=fragments))
    assert writer.table.version() == before
    commit(writer.table, Change(run_id="r", workload="w", fragments=fragments))
    assert writer.ids() == writer.ids_of(["a", "b"])


def test_always_too_late(writer, monkeypatch, quick):
    writer.put(["a"])

    def late(self, dataset):
        raise CommitConflictError("preempted")

    monkeypatch.setattr(protocol._Step, "take", late)
    with pytest.raises(CommitConflict, match="16 times in a row") as caught:
        commit(writer.table, Change(run_id="r", workload="w", fragments=writer.write(["b"])))
    assert caught.value.retryable


def test_a_stale_step_is_refused(anywhere):
    anywhere.put(["a"])
    table = anywhere.table
    stale = table.open()
    fragments = [lance.FragmentMetadata.from_json(text) for text in anywhere.write(["b"])]
    step = protocol._Step.prepare(table, stale, Change(run_id="r", workload="w", fragments=[]), fragments)
    anywhere.put(["c"])
    with pytest.raises(CommitConflictError):
        step.take(stale)
    assert anywhere.ids() == anywhere.ids_of(["a", "c"])


def together(*works):
    errors = []

    def guarded(work):
        try:
            work()
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []


def test_committers_at_once_lose_nothing(writer):
    writer.table.create_or_check(writer.schema())

    def driver(number):
        for turn in range(10):
            fragments = writer.write([f"{number}/{turn}"])
            commit(writer.table, Change(run_id=str(number), workload="w", fragments=fragments))

    together(*(lambda number=number: driver(number) for number in range(4)))
    found = Counter(writer.table.open().to_table(columns=["uri"])["uri"].to_pylist())
    assert found == {f"{number}/{turn}": 2 for number in range(4) for turn in range(10)}


@pytest.mark.parametrize("base", ["start", None])
def test_drivers_with_the_same_work_leave_it_done_once(writer, base):
    """Both decided on an empty table that everything is new; they commit the same objects in different portions."""
    writer.table.create_or_check(writer.schema())
    start = writer.table.version()
    uris = [f"u{index}" for index in range(24)]

    def driver(number):
        mine = list(uris)
        random.Random(number).shuffle(mine)
        at = start if base == "start" else None
        for place in range(0, len(mine), 6):
            fragments = writer.write(mine[place : place + 6])
            change = Change(run_id=str(number), workload="w", fragments=fragments, base=at)
            landed = commit(writer.table, change)
            assert landed.added == 12

    together(*(lambda number=number: driver(number) for number in range(3)))
    found = Counter(writer.table.open().to_table(columns=["uri"])["uri"].to_pylist())
    assert found == dict.fromkeys(uris, 2)
    ids = writer.table.open().to_table(columns=["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids))


def test_of_two_generations_of_an_object_one_stays(writer):
    writer.put(["a", "b"])
    base = writer.table.version()
    writer.put(["a"], version="2", removed=owners(["a"]), base=base)  # another driver, which saw a later state
    writer.put(["a"], version="3", removed=owners(["a"]), base=base)
    assert writer.ids() == sorted(writer.ids_of(["b"]) + writer.ids_of(["a"], version="3"))


def test_others_are_not_looked_at_when_there_are_none(writer, monkeypatch):
    """The run's own index and commits must not cost a scan of the table at every commit."""
    base = writer.put(["a"]).version
    monkeypatch.setattr(protocol, "_uris", lambda *_: pytest.fail("the table was scanned"))
    writer.put(["b"], base=base)
    base = writer.table.version()
    index.build(writer.table, ())
    writer.put(["c"], base=base)


def test_what_others_bring_elsewhere_is_looked_at_once(writer, monkeypatch):
    """Drivers of other places, and a compaction of the run's own rows, must not cost every commit a scan."""
    base = writer.put(["m0"]).version
    own, spans = set(), {}

    def bring(*uris, version="1"):
        fragments = writer.write(uris, version=version)
        commit(writer.table, Change(run_id="r", workload="w", fragments=fragments, base=base, own=own, spans=spans))
        own.update(name for one in fragments for name in files(one))

    writer.put(["x1", "x2"])  # another driver
    bring("a1")
    assert list(spans.values()) == [("x1", "x2")]
    with monkeypatch.context() as patched:
        patched.setattr(lance.LanceDataset, "scanner", lambda *_, **__: pytest.fail("it was looked at again"))
        bring("a2", "a3")
    bring("b1", "x2", version="2")
    expected = [*writer.ids_of(["m0", "x1", "a1", "a2", "a3"]), *writer.ids_of(["b1", "x2"], version="2")]
    assert writer.ids() == sorted(expected)


def test_a_base_that_was_removed_means_look_at_everything(writer):
    base = writer.put(["a"]).version
    writer.put(["b"])
    writer.table.open().cleanup_old_versions(older_than=timedelta(0), delete_unverified=False)
    writer.put(["a", "c"], base=base)
    assert writer.ids() == sorted(writer.ids_of(["b"]) + writer.ids_of(["a", "c"]))


def test_an_indexed_row_is_found_after_fragments_came_and_went(writer):
    """A fragment number used twice would be believed indexed, and its rows not found."""
    writer.put(["a"])
    writer.put(["b"])
    index.build(writer.table, ())
    commit(writer.table, Change(run_id="r", workload="w", removed=owners(["b"])))
    writer.put(["c"])
    for uri in "ac":
        for key in writer.ids_of([uri]):
            assert writer.table.count_rows(filter=f"id = '{key}'") == 1
            assert writer.table.open().to_table(columns=["uri"], filter=f"id = '{key}'")["uri"].to_pylist() == [uri]


def test_many_removals_are_split_into_small_filters(writer, monkeypatch):
    uris = [f"u{index}" for index in range(250)]
    writer.put(uris, pieces=1)
    monkeypatch.setattr(sql, "_VALUES_A_FILTER", 60)
    change = Change(run_id="r", workload="w", removed=owners(uris[:249]))
    assert commit(writer.table, change).removed == 249
    assert writer.ids() == writer.rows(uris, pieces=1).slice(249)["id"].to_pylist()


def test_ids_with_quotes_are_only_ids(writer):
    writer.put(["a"])
    commit(writer.table, Change(run_id="r", workload="w", removed=["' OR '1'='1", "x'"]))
    assert writer.ids() == writer.ids_of(["a"])


def test_columns_dropped_by_others_do_not_shift_the_rest(writer):
    """Metadata must travel without renumbering the columns."""
    writer.put(["a"])
    sink = writer.table.create_or_check(writer.schema())
    writer.table.open().drop_columns(["media_type"])
    change = Change(run_id="r", workload="w", fragments=sink.write(iter([writer.rows(["b"])])))
    commit(writer.table, change)
    rows = writer.table.open().to_table(columns=["uri", "modality", "position"]).to_pylist()
    assert rows == writer.rows(["a", "b"]).select(["uri", "modality", "position"]).to_pylist()


def test_the_note_of_a_commit_survives_compaction_and_indexing(writer):
    writer.put(["a"])
    writer.put(["b"])
    writer.table.open().optimize.compact_files()
    index.build(writer.table, ())
    note = json.loads(writer.table.open().schema.metadata[b"raycluster:commit"])
    assert (note["run_id"], note["workload"], note["added"]) == ("run2", "w", 2)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_steps_keeps_table_and_model_equal(writer, seed):
    """Commit, replace, prune, compact and index in random order, against a dictionary."""
    rng = random.Random(seed)
    model: dict[str, int] = {}
    writer.table.create_or_check(writer.schema())
    for turn in range(30):
        step = rng.choice(["put", "put", "change", "prune", "compact", "index"])
        base = writer.table.version()
        if step == "put":
            uris = [f"{turn}/{index}" for index in range(rng.randint(1, 8))]
            model |= dict.fromkeys(uris, 1)
            writer.put(uris, base=base)
        elif step == "change" and model:
            uri = rng.choice(sorted(model))
            model[uri] += 1
            writer.put([uri], version=str(model[uri]), removed=owners([uri], str(model[uri] - 1)), base=base)
        elif step == "prune" and model:
            gone = rng.sample(sorted(model), rng.randint(1, len(model)))
            removed = [object_id(uri, str(model.pop(uri))) for uri in gone]
            commit(writer.table, Change(run_id="r", workload="w", removed=removed, base=base))
        elif step == "compact":
            writer.table.open().optimize.compact_files()
        elif step == "index":
            index.build(writer.table, ())
        dataset = writer.table.open()
        found = dataset.to_table(columns=["object_id"])["object_id"].to_pylist()
        assert Counter(found) == {object_id(uri, str(version)): 2 for uri, version in model.items()}
        for uri in rng.sample(sorted(model), min(3, len(model))):
            assert dataset.count_rows(f"object_id = '{object_id(uri, str(model[uri]))}'") == 2


def test_a_base_before_the_dataset_existed(writer):
    assert writer.table.version() == 0
    writer.put(["a", "b"])
    writer.put(["b", "c"], base=0)
    assert writer.ids() == writer.ids_of(["a", "b", "c"])


def test_a_run_that_was_taken_over_commits_nothing_more(anywhere):
    anywhere.put(["a"])
    for run in ("zombie", "successor"):
        commit(anywhere.table, Change(run_id=run, workload="w", fence="take"))
    before = anywhere.ids()
    late = Change(run_id="zombie", workload="w", fragments=anywhere.write(["b"]), fence="hold")
    with pytest.raises(TakenOver, match="run zombie of 'w' has been taken over by run successor"):
        commit(anywhere.table, late)
    assert anywhere.ids() == before
    landed = commit(anywhere.table, Change(run_id="successor", workload="w", fragments=late.fragments, fence="hold"))
    assert landed.added == 2


def test_workloads_of_one_dataset_do_not_take_each_other_over(writer):
    writer.put(["a"])
    for workload in ("photos", "films"):
        commit(writer.table, Change(run_id=f"run-of-{workload}", workload=workload, fence="take"))
    for number, workload in enumerate(("photos", "films")):
        fragments = writer.write([f"{workload}{number}"])
        commit(writer.table, Change(run_id=f"run-of-{workload}", workload=workload, fragments=fragments, fence="hold"))
    assert writer.ids() == sorted(writer.ids_of(["a"]) + writer.ids_of(["photos0", "films1"]))


def test_a_step_that_landed_before_the_takeover_counts(writer):
    writer.put(["a"])
    commit(writer.table, Change(run_id="first", workload="w", fence="take"))
    change = Change(run_id="first", workload="w", fragments=writer.write(["b"]), fence="hold")
    commit(writer.table, change)
    commit(writer.table, Change(run_id="second", workload="w", fence="take"))
    assert commit(writer.table, change).added == 2  # asked again, for the answer was lost
    assert writer.ids() == sorted(writer.ids_of(["a", "b"]))
