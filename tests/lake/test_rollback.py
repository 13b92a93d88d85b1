"""Going back is complete, recorded, reversible, and never silently undone."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from raycluster.declare.workload import Index
from raycluster.errors import InvalidUse, LakeError, NotFound, RolledBack, TakenOver
from raycluster.lake.commit import Change, commit
from raycluster.lake.index import build
from raycluster.lake.rollback import publish, require_not_undone, roll_back
from raycluster.lake.runs import Run
from raycluster.row import object_id


class Team:
    """Runs of workloads on one dataset, as the engine does them, but for the work."""

    def __init__(self, lake, writer):
        self.lake, self.writer, self.table, self.runs = lake, writer(lake.table("d")), lake.table("d"), 0

    def begin(self, workload="w", declaration="d1"):
        self.runs += 1
        self.writer.write([])  # creates the dataset
        follows = self.table.last_runs().get(workload, {}).get("run_id")
        run = Run(
            run_id=f"run{self.runs}",
            workload=workload,
            dataset="d",
            status="running",
            started_at=datetime.now(UTC),
            summary={"declaration": declaration, "follows": follows},
        )
        declared = {"digest": declaration, "yaml": ""}
        commit(self.table, Change(run_id=run.run_id, workload=workload, fence="take", declaration=declared))
        self.lake.runs().put(run)
        return run

    def put(self, run, uris, **more):
        change = Change(
            run_id=run.run_id, workload=run.workload, fragments=self.writer.write(uris), fence="hold", **more
        )
        commit(self.table, change)

    def finish(self, run):
        commit(self.table, Change(run_id=run.run_id, workload=run.workload, fence="release"))
        indexed = build(self.table, [Index(column="text", kind="fts")])
        version = publish(self.lake, self.table, max(one.version for one in indexed))
        self.lake.runs().put(replace(run, status="done", finished_at=datetime.now(UTC), version=version))
        return version

    def run(self, uris, **options):
        run = self.begin(**options)
        self.put(run, uris)
        return self.finish(run)

    def uris(self, version=None):
        return sorted(set(self.table.open(version).to_table(columns=["uri"])["uri"].to_pylist()))

    def may(self, declaration="d1", workload="w"):
        require_not_undone(self.lake, "d", workload=workload, declaration=declaration)


@pytest.fixture
def team(place, writer_of):
    return Team(place, writer_of)


@pytest.fixture
def local(lake, writer_of):
    return Team(lake, writer_of)


def test_readers_and_the_next_run_go_back_and_return(team):
    first = team.run(["a", "b"])
    second = team.run(["c"])
    entry = roll_back(team.lake, "d", to=None, by="ann", why="c is wrong")
    assert (entry.version, entry.left, team.table.live()) == (first, second, first)
    assert team.uris("live") == team.uris() == ["a", "b"]
    assert entry.undone == {"w": "d1"}
    (written,) = team.lake.rollbacks().of("d")
    assert (written.by, written.why, written.restored) == ("ann", "c is wrong", team.table.version())
    back = roll_back(team.lake, "d", to=str(entry.left), by="bob")
    assert (back.version, team.table.live()) == (second, second)
    assert team.uris("live") == team.uris() == ["a", "b", "c"]


def test_the_next_run_builds_on_it_and_its_index_finds_all(team):
    team.run([f"a{index}" for index in range(40)])
    team.run(["b"])
    roll_back(team.lake, "d", to=None, by="ann")
    live = team.run(["c"], declaration="d2")
    assert team.table.live() == live
    assert team.uris() == sorted([*(f"a{index}" for index in range(40)), "c"])
    dataset = team.table.open()
    for uri in ("a7", "c"):
        assert dataset.count_rows(f"object_id = '{object_id(uri, '1')}'") == 2
    rows = dataset.to_table(columns=["id"], with_row_id=True)["_rowid"].to_pylist()
    assert len(set(rows)) == len(rows) == 82


def test_what_was_undone_is_refused_until_something_changes(local):
    local.run(["a"], declaration="d1")
    local.may("d2")
    local.run(["b"], declaration="d2")
    roll_back(local.lake, "d", to=None, by="ann", why="the model was wrong")
    with pytest.raises(RolledBack, match=r"rolled back by ann on .* \(the model was wrong\)") as refused:
        local.may("d2")
    assert "--redo" in refused.value.fix
    local.may("d1")
    local.may("d3")
    local.may("d2", workload="other")
    local.run(["b"], declaration="d2")  # as with --redo
    local.may("d2")


def test_the_same_declaration_is_refused_too(local):
    """A nightly run brought bad media: the night after, the same command must not bring them again."""
    local.run(["a"])
    local.run(["b"])
    roll_back(local.lake, "d", to=None, by="ann")
    with pytest.raises(RolledBack):
        local.may()
    roll_back(local.lake, "d", to=None, by="ann")
    local.may()


def test_a_running_run_loses_its_place(local):
    first = local.run(["a"])
    running = local.begin()
    local.put(running, ["b"])
    roll_back(local.lake, "d", to="live", by="ann", why="stop that")
    with pytest.raises(TakenOver, match="rolled back"):
        local.put(running, ["c"])
    with pytest.raises(TakenOver):
        local.finish(running)
    assert local.uris() == ["a"]
    assert local.table.live() == first
    ended = local.lake.runs().get(running.run_id)
    assert ended.status == "failed"
    assert "rolled back to version" in ended.summary["message"]


def test_a_run_that_ends_meanwhile_does_not_hide_the_rollback(local):
    first = local.run(["a"])
    run = local.begin()
    local.put(run, ["b"])
    commit(local.table, Change(run_id=run.run_id, workload="w", fence="release"))
    made = build(local.table, [])[-1].version
    roll_back(local.lake, "d", to="live", by="ann")
    assert publish(local.lake, local.table, made) == first
    assert local.uris("live") == ["a"]


def test_versions_have_many_names(local):
    first = local.run(["a"])
    noon = datetime.now(UTC)
    second = local.run(["b"])
    third = local.run(["c"])
    local.table.tag("good", second)
    for name, version in {str(first): first, "good": second, noon.isoformat(): first, "live": first}.items():
        assert roll_back(local.lake, "d", to=name, by="ann").version == version
    assert roll_back(local.lake, "d", to=str(third), by="ann").version == third
    with pytest.raises(NotFound, match="has no version 'bad'"):
        roll_back(local.lake, "d", to="bad", by="ann")
    with pytest.raises(NotFound, match="has no version 999"):
        roll_back(local.lake, "d", to="999", by="ann")
    with pytest.raises(NotFound, match="nothing of 'd' was live at"):
        roll_back(local.lake, "d", to=(noon - timedelta(days=1)).isoformat(), by="ann")
    with pytest.raises(NotFound, match="unknown dataset 'e'"):
        roll_back(local.lake, "e", to="1", by="ann")


def test_there_may_be_nothing_before(local):
    local.run(["a"])
    with pytest.raises(NotFound, match="one version only"):
        roll_back(local.lake, "d", to=None, by="ann")


def test_half_a_run_is_no_place_to_go(local):
    local.run(["a"])
    running = local.begin()
    local.put(running, ["b"])
    middle = local.table.version()
    local.finish(running)
    with pytest.raises(InvalidUse, match="in the middle of run"):
        roll_back(local.lake, "d", to=str(middle), by="ann")
    assert local.uris("live") == ["a", "b"]
    assert local.lake.rollbacks().of("d") == []


def test_a_death_in_between_is_seen_and_mended(local, monkeypatch):
    first = local.run(["a"])
    second = local.run(["b"])
    with monkeypatch.context() as patch:
        patch.setattr(type(local.table), "set_live", lambda *_: (_ for _ in ()).throw(LakeError("the store went away")))
        with pytest.raises(LakeError):
            roll_back(local.lake, "d", to=str(first), by="ann")
    assert local.table.live() == second
    with pytest.raises(RolledBack, match="not finished") as refused:
        local.may("other")
    assert refused.value.fix.endswith(f"rollback d --to {first}")
    roll_back(local.lake, "d", to=str(first), by="ann")
    local.may("other")
    assert local.table.live() == first


def test_rollbacks_and_commits_at_once_leave_a_whole_state(local):
    """Whatever the order, readers see one of the versions that were proven, and the next run builds on the same."""
    first = local.run(["a"])
    local.run(["b"])
    failures = []

    def run_on(seed):
        pause = random.Random(seed)
        try:
            for number in range(3):
                run = local.begin(workload=f"w{seed}")
                for piece in range(pause.randrange(1, 4)):
                    local.put(run, [f"w{seed}-{number}-{piece}"])
                local.finish(run)
        except TakenOver:
            pass
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=run_on, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    roll_back(local.lake, "d", to=str(first), by="ann")
    for thread in threads:
        thread.join()
    assert not failures
    assert local.table.open_runs("live") == {}
    assert set(local.uris("live")) <= set(local.uris())
    assert "b" not in local.uris()
