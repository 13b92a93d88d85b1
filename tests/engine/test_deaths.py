"""Drivers that die at any moment, and two at once: the next run goes on, and nobody can tell that anything happened."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from survival import OBJECTS, Reader, Trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# What the driver does to the lake in a run, in order. The first commit takes the fence, the others bring rows.
MOMENTS = {
    "the fence is taken": "after lance:LanceDataset.commit 1",
    "fragments written, not committed": "before lance:LanceDataset.commit 3",
    "a commit is in flight": "during lance:LanceDataset.commit 3",
    "rows committed, nobody told": "after lance:LanceDataset.commit 3",
    "bad rows recorded, good ones not committed": "after raycluster.lake.quarantine:Quarantine.add 3",
    "rows replaced, old bad ones still there": "before raycluster.lake.quarantine:Quarantine.remove 2",
}
LATE = {
    "all committed, not proven": "before raycluster.engine.tally:Tally.require_conservation 1",
    "proven, not indexed": "before raycluster.engine.run:build 1",
    "an index is being built": "during lance.dataset:DatasetOptimizer.optimize_indices 1",
    "half of the indexes built": "after lance.dataset:DatasetOptimizer.optimize_indices 2",
    "indexed, not live": "before lance.dataset:Tags.update 1",
    "live is being moved": "after lance.dataset:Tags.update 1",
    "live, the run's end not recorded": "before raycluster.engine.run:_Run._close 1",
    "the run's end is being recorded": "during raycluster.engine.run:_Run._close 1",
}


@pytest.mark.timeout(600)  # five runs, each of which may start a Ray of its own
@pytest.mark.parametrize("seed", range(2))
def test_drivers_killed_at_random_again_and_again_lose_and_double_nothing(trial: Trial, seed: int) -> None:
    chance, trial.joins = random.Random(seed), bool(seed)
    with Reader(trial) as reader:
        for death in range(4):
            kept, begun = trial.kept(), trial.worked_on()
            started, target = time.monotonic(), chance.randrange(1, 16)
            driver = trial.start()
            while (trial.worked_on() - begun).total() < target and driver.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 1))
            driver.kill()
            if not driver.wait():  # on a slow machine it may be done before it can die, though not at once
                assert death >= 2
                break
            trial.die(driver)
            if death:
                case = f"driver, at random ({seed}, {death})"
                worked = trial.report(case, kept, begun, seconds=time.monotonic() - started)
                assert not worked & trial.names(kept)
            assert trial.kept() >= kept
        trial.recover(f"driver, at random ({seed}, 4)")
    reader.require_nothing_wrong()


@pytest.mark.parametrize("case", MOMENTS)
def test_a_driver_killed_in_the_middle(trial: Trial, case: str) -> None:
    with Reader(trial) as reader:
        trial.die(trial.start(DRIVER_MOMENT=f"kill {MOMENTS[case]}"))
        assert trial.taken.exists()
        trial.recover(f"driver: {case}")
    reader.require_nothing_wrong()


@pytest.mark.parametrize("case", LATE)
def test_a_driver_killed_at_the_end_has_done_all_the_work(finishing: Trial, case: str) -> None:
    with Reader(finishing) as reader:
        finishing.die(finishing.start(DRIVER_MOMENT=f"kill {LATE[case]}"))
        assert finishing.taken.exists()
        assert finishing.recover(f"driver: {case}")["skipped"] == OBJECTS
    reader.require_nothing_wrong()


@pytest.mark.parametrize("moment", ["after raycluster.lake.store:create 1", "before raycluster.lake.runs:Runs.put 1"])
def test_a_driver_killed_while_it_creates_the_dataset(fresh: Trial, moment: str) -> None:
    fresh.die(fresh.start(DRIVER_MOMENT=f"kill {moment}"))
    assert fresh.taken.exists()
    assert fresh.lake.table("d").live() is None
    fresh.recover(f"driver: {moment}")


def test_two_drivers_at_once_leave_what_one_would(trial: Trial) -> None:
    trial.joins = False  # two CPUs of one cluster would let only one of them work
    with Reader(trial) as reader:
        drivers = [trial.start() for _ in range(2)]
        said = [trial.end(driver, number) for number, driver in enumerate(drivers)]
    assert sorted(one.get("status") or one["error"] for one in said) in (["TakenOver", "done"], ["done", "done"])
    reader.require_nothing_wrong()
    trial.require_undisturbed()
    assert trial.run()["skipped"] == OBJECTS


STOPS = ("before lance:LanceDataset.commit 3", "before raycluster.lake.quarantine:Quarantine.add 2")


@pytest.mark.parametrize("moment", STOPS)
def test_a_driver_that_comes_back_from_the_dead_commits_nothing_more(trial: Trial, moment: str) -> None:
    with Reader(trial) as reader:
        trial.joins = False  # it stands still, and would keep all CPUs of the cluster
        zombie = trial.start(DRIVER_MOMENT=f"stop {moment}")
        wait_until_stopped(zombie)
        trial.joins = True
        trial.run()
        version = trial.lake.table("d").version()
        os.kill(zombie.pid, signal.SIGCONT)
        said = trial.end(zombie, 0)
    assert (zombie.returncode, said.get("error")) == (1, "TakenOver"), said
    assert "commits nothing more" in said["message"]
    assert trial.lake.table("d").version() == version
    reader.require_nothing_wrong()
    trial.require_undisturbed()


def test_a_driver_that_comes_back_when_its_work_is_proven_ends_well(finishing: Trial) -> None:
    with Reader(finishing) as reader:
        zombie = finishing.start(DRIVER_MOMENT="stop before raycluster.engine.run:build 1")
        wait_until_stopped(zombie)
        assert finishing.run()["skipped"] == OBJECTS
        os.kill(zombie.pid, signal.SIGCONT)
        assert finishing.end(zombie, 0)["status"] == "done"
    reader.require_nothing_wrong()
    finishing.require_undisturbed()


def wait_until_stopped(driver: subprocess.Popen[bytes]) -> None:
    """Wait until a driver has come to its moment and stands still."""
    deadline = time.monotonic() + 120
    while "\nState:\tT" not in Path(f"/proc/{driver.pid}/status").read_text():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
