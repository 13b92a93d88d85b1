"""A process that stays when its run ends keeps what it has loaded, for a while."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from raycluster.declare.workload import Workload
from raycluster.engine import pipeline
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.lake.lake import Lake

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(300)]


def write(corpus: Path, count: int = 15) -> None:
    for index in range(count):
        (corpus / f"t{index:03d}.txt").write_text(f"word{index} and some more of them, as in every sentence.\n")


def status(workload: Workload, folder: Path) -> str:
    lake = Lake(str(folder))
    return execute(prepare(workload, lake), lake).status


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


def test_a_process_that_stays_says_what_it_says_in_the_run_that_it_works_for(
    job: Any, corpus: Path, tmp_path: Path
) -> None:
    write(corpus)
    encode = f"[{{use: 'private_stages:Opened', file: '{tmp_path / 'notes'}'}}]"

    def said(name: str) -> dict[int, list[str]]:
        lake = Lake(str(tmp_path / name))
        run_id = execute(prepare(job(encode=encode).workload, lake), lake).run_id
        files = Path(ray._private.worker._global_node.get_logs_dir_path()).glob(f"raycluster-{run_id}-*.log")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        assert {line.get("run_id") for line in lines} == {run_id}
        return {pid: [one["message"] for one in lines if one["pid"] == pid] for pid in {one["pid"] for one in lines}}

    first, second = said("first"), said("second")
    stayed = {pid for pid in first.keys() & second if "worked" in first[pid] + second[pid]}
    assert stayed
    for pid in stayed:
        assert "worked" in first[pid]
        assert "worked" in second[pid]
        assert [sum("works in pool" in one for one in run[pid]) for run in (first, second)] == [1, 1]


def test_units_that_wait_start_no_processes_of_their_own(job: Any, corpus: Path, tmp_path: Path) -> None:
    write(corpus, 200)
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
