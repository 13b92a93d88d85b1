"""What is said of a lake: runs, quarantine, versions, recall; looked up seldom, and whatever state the lake is in."""

from __future__ import annotations

import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raycluster.errors import LakeError
from raycluster.lake.commit import Change, commit
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run
from raycluster.serve import figures
from raycluster.serve.figures import Figures


def told(source):
    """Return all figures: name without prefix and labels' values in their order -> value."""
    return {
        (one.name.removeprefix("raycluster_"), *one.labels.values()): one.value
        for family in source.collect()
        for one in family.samples
    }


@pytest.fixture
def source(lake, context):
    return Figures(lake, context.follower)


@pytest.fixture
def eager(monkeypatch):
    """Look each time, and wait for it."""
    monkeypatch.setattr(figures, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(figures, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(figures, "_PATIENCE_SECONDS", 30.0)


def test_datasets_versions_and_quarantine(lake, context, eager):
    source = Figures(lake, context.follower)
    live = lake.table("gallery").live()
    found = told(source)
    assert found["lake_up",] == 1
    assert (found["dataset_live_version", "gallery"], found["dataset_rows", "gallery"]) == (live, 15)
    assert (found["quarantined_rows", "gallery", "corrupt"], found["dataset_rows", "other"]) == (1, 1)
    assert ("search_version", "gallery") not in found  # nobody has asked for it here
    context.follower.table("gallery")
    assert told(source)["search_version", "gallery"] == live
    assert ("search_version", "other") not in told(source)


def test_rows_that_no_index_covers(lake, context, eager):
    source = Figures(lake, context.follower)
    table = lake.table("gallery")
    assert not any(key[0] == "search_unindexed_rows" for key in told(source))
    table.open().create_scalar_index("text", "INVERTED", name="text_fts")
    table.set_live(table.version())
    assert told(source)["search_unindexed_rows", "gallery", "text_fts"] == 0
    again = table.open().to_table(columns=None, filter="modality = 'image'").drop_columns(["thumbnail"])
    assert again.num_rows == 7
    batch = again.append_column("thumbnail", again["text"].cast("binary")).combine_chunks().to_batches()[0]
    fragments = table.create_or_check(table.schema()).write(iter([batch.select(table.schema().names)]))
    landed = commit(table, Change(run_id="run2", workload="w", fragments=fragments))
    table.set_live(landed.version)
    assert told(source)["search_unindexed_rows", "gallery", "text_fts"] == 7


def test_runs_live_stale_and_past(lake, context, eager):
    source = Figures(lake, context.follower)
    now = datetime.now(UTC)

    def enter(run_id, ago, **more):
        known = {"workload": "w", "dataset": "gallery", "status": "running", "started_at": now - timedelta(seconds=ago)}
        lake.runs().put(Run(run_id=run_id, **(known | more)))

    enter("a", 5)
    enter("b", 500)
    enter("c", 500)
    enter("d", 500, status="failed", finished_at=now)
    lake.progress().put("a", {"rows": 100, "left_seconds": 12.5, "cost_usd": None})
    lake.progress().put("b", {"rows": 50, "left_seconds": None, "cost_usd": 0.25})
    found = told(source)
    assert {status: found["runs", status] for status in ("running", "stale", "done", "failed", "stopped")} == {
        "running": 3,
        "stale": 1,
        "done": 1,
        "failed": 1,
        "stopped": 0,
    }
    assert found["run_rows", "w", "gallery"] == 150
    assert found["run_left_seconds", "w", "gallery"] == 12.5
    assert found["run_cost_usd", "w", "gallery"] == 0.25
    ended = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert found["run_ended_timestamp_seconds", "w", "gallery", "done"] == ended
    assert found["run_ended_timestamp_seconds", "w", "gallery", "failed"] == pytest.approx(now.timestamp(), abs=1)


def test_what_is_gone_is_no_longer_told(lake, context, eager):
    source = Figures(lake, context.follower)
    assert ("dataset_rows", "other") in told(source)
    shutil.rmtree(lake.table("other").uri)
    assert ("dataset_rows", "other") not in told(source)


def test_a_dataset_that_cannot_be_read_hides_no_other(lake, context, eager, caplog):
    for file in Path(lake.table("other").uri).rglob("*.manifest"):
        file.write_bytes(b"nonsense")
    found = told(Figures(lake, context.follower))
    assert (found["dataset_up", "other"], found["dataset_up", "gallery"]) == (0, 1)
    assert found["lake_up",] == 1
    assert found["dataset_rows", "gallery"] == 15
    assert "other" in caplog.text


def test_a_lake_that_fails_leaves_the_last_figures_and_says_so(lake, context, eager, monkeypatch):
    source = Figures(lake, context.follower)
    before = told(source)

    def fail(*_):
        raise LakeError("the store is away")

    monkeypatch.setattr(Lake, "datasets", fail)
    found = told(source)
    assert found["lake_up",] == 0
    assert found["dataset_rows", "gallery"] == before["dataset_rows", "gallery"]


def test_a_lake_that_hangs_holds_up_no_scrape(lake, context, monkeypatch):
    let = threading.Event()
    monkeypatch.setattr(Lake, "datasets", lambda self: let.wait(30) and [])
    monkeypatch.setattr(figures, "_PATIENCE_SECONDS", 0.1)
    source = Figures(lake, context.follower)
    started = time.monotonic()
    assert told(source)["lake_up",] == 0
    assert told(source)["lake_up",] == 0
    assert time.monotonic() - started < 5
    let.set()


def test_figures_are_at_hand_while_newer_ones_are_looked_up(lake, context, monkeypatch):
    monkeypatch.setattr(figures, "_LOOK_SECONDS", 0.0)
    source = Figures(lake, context.follower)
    told(source)
    let = threading.Event()
    monkeypatch.setattr(source.look, "work", lambda: let.wait(30))
    started = time.monotonic()
    found = told(source)
    assert time.monotonic() - started < 1  # it waits for nothing
    assert (found["lake_up",], found["dataset_rows", "gallery"]) == (1, 15)
    let.set()


def test_looks_are_seldom_however_often_it_is_asked(source, monkeypatch):
    looks = []
    look = source.look.work
    monkeypatch.setattr(source.look, "work", lambda: (looks.append(1), look()))
    for _ in range(20):
        told(source)
    assert len(looks) == 1


def test_recall_is_probed_beside_the_scrapes(source, context):
    told(source)  # nothing is in use yet
    context.follower.table("gallery")
    context.follower.table("other")
    told(source)
    assert source.probe.nudge(30)
    found = told(source)
    assert found["search_recall", "gallery"] == 1.0  # 12 vectors, and no index
    assert ("search_recall", "other") not in found  # one row has no ten neighbours


def test_a_follower_that_fell_asleep_shows(source, context):
    assert told(source)["follower_seconds",] < 30
    context.follower.looked -= 1000
    assert told(source)["follower_seconds",] >= 1000
