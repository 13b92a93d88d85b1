"""A process that stays when its run ends keeps what it has loaded, for a while."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray import cloudpickle

from raycluster.declare.workload import Workload
from raycluster.engine import pipeline, worker
from raycluster.engine.line import Job
from raycluster.engine.prepare import prepare, schema_of
from raycluster.engine.progress import Progress
from raycluster.engine.run import execute
from raycluster.errors import NotFound
from raycluster.lake.lake import Lake

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(300)]


def write(corpus: Path) -> None:
    for index in range(15):
        (corpus / f"t{index:02d}.txt").write_text(f"word{index} and some more of them, as in every sentence.\n")


def status(workload: Workload, folder: Path) -> str:
    lake = Lake(str(folder))
    return execute(prepare(workload, lake), lake).status


def test_what_nobody_wants_for_a_while_is_let_go(
    job: Any, units: Callable[[Job], pa.Table], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.hook, "install", lambda: None)  # this process is none of Ray's workers
    (corpus / "a.txt").write_text("good words\n")
    made = job()
    broken = made  # its sink is nowhere
    made = replace(made, sink=Lake(str(tmp_path)).table("d").create_or_check(schema_of(made.workload), []))
    progress: Any = ray.remote(num_cpus=0)(Progress).remote()

    def work() -> worker.Worker | None:
        (message,) = worker.work(units(made), run_id="run-1", job=cloudpickle.dumps(made), progress=progress)
        assert message.num_rows == 1
        return worker._Here.worker

    def require_let_go() -> None:
        until = time.monotonic() + 30
        while worker._Here.worker is not None and time.monotonic() < until:
            time.sleep(0.02)
        assert worker._Here.worker is None

    kept = work()
    assert kept is not None
    assert work() is kept
    monkeypatch.setattr(worker, "_KEPT_SECONDS", 0.05)
    work()
    require_let_go()
    with pytest.raises(NotFound):
        list(worker.work(units(broken), run_id="run-2", job=cloudpickle.dumps(broken), progress=progress))
    require_let_go()
    ray.kill(progress)


def test_what_a_run_has_loaded_is_there_for_the_next_one_of_its_program(job: Any, corpus: Path, tmp_path: Path) -> None:
    write(corpus)

    def noted(name: str, number: int) -> tuple[list[str], set[str]]:
        notes = tmp_path / "notes"
        notes.write_text("")
        encode = f"[{{use: 'private_stages:Opened', file: '{notes}', number: {number}}}]"
        assert status(job(encode=encode).workload, tmp_path / name) == "done"
        told = [line.split() for line in notes.read_text().splitlines()]
        return [pid for what, pid in told if what == "opened"], {pid for what, pid in told if what == "worked"}

    opened, worked = noted("first", 1)
    again, still = noted("second", 1)
    assert set(opened) == worked
    assert len(opened) == len(worked)  # once a worker
    assert worked & still
    assert set(again) == still - worked
    other, last = noted("third", 2)  # declared otherwise
    assert last & (worked | still)
    assert set(other) == last


def test_units_that_wait_start_no_processes_of_their_own(job: Any, corpus: Path, tmp_path: Path) -> None:
    for index in range(200):
        (corpus / f"t{index:03d}.txt").write_text("Some words, as in every sentence.\n")
    notes = tmp_path / "notes"
    encode = f"[{{use: 'private_stages:Opened', file: '{notes}'}}]"
    assert status(job(encode=encode).workload, tmp_path / "lake") == "done"
    worked = [line.split()[1] for line in notes.read_text().splitlines() if line.startswith("worked")]
    assert len(worked) >= 8  # units
    assert len(set(worked)) <= ray.cluster_resources()["CPU"]


def test_a_run_beside_another_of_its_program_has_processes_of_its_own(job: Any, corpus: Path, tmp_path: Path) -> None:
    write(corpus)
    notes = tmp_path / "notes"
    encode = f"[{{use: 'private_stages:Opened', file: '{notes}'}}]"
    with pipeline._staying:  # the other's
        assert status(job(encode=encode).workload, tmp_path / "lake") == "done"
    pids = {line.split()[1] for line in notes.read_text().splitlines()}
    until = time.monotonic() + 30
    while (left := [pid for pid in pids if Path("/proc", pid).exists()]) and time.monotonic() < until:
        time.sleep(0.05)
    assert pids
    assert not left
