"""Workers that die at any moment: the run itself goes on to a good end, and only what they were at is done again."""

import os
import signal
import time
from pathlib import Path

import pytest
from survival import PIECES, Reader, Trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHARD = 3  # objects: 44 in 16 shards
MOMENTS = {
    "in decode": "before raycluster.decode.text:Text._pieces 5",
    "in encode": "during raycluster.encode:Encode._attempt 2",
    "before the first byte of a fragment": "before raycluster.lake.write:conform 2",
    "while Lance writes a fragment": "during raycluster.lake.write:write_fragments 2",
    "fragment written, the driver not told": "after raycluster.lake.write:Sink.write 2",
    "the driver told, the task not ended": "after raycluster.engine.worker:Worker.__call__ 2",
}
APART = '[{use: "private_stages:Noted", actors: 1, needs: {cpu: 0}}]'  # in a pool of its own: rows travel


def require_survival(trial: Trial, case: str, *, most: int) -> None:
    """Run once, in which somebody dies, and see that hardly anything was done twice."""
    started = time.monotonic()
    with Reader(trial) as reader:
        summary = trial.run()
    seconds = time.monotonic() - started
    twice = [name for name, count in trial.worked_on().items() if count > 1]
    print(f"\nDEATH | {case} | the run goes on | {len(twice)} of {len(trial.todo)} objects twice | {seconds:.1f} s")
    reader.require_nothing_wrong()
    trial.require_undisturbed()
    assert summary["objects"] == summary["skipped"] + len(trial.todo)
    assert len(twice) <= most


@pytest.mark.parametrize("case", MOMENTS)
def test_a_worker_killed(trial: Trial, case: str) -> None:
    trial.environment["WORKER_MOMENT"] = f"kill {MOMENTS[case]}"
    require_survival(trial, f"worker: {case}", most=SHARD)
    assert trial.taken.exists()


@pytest.mark.parametrize("number", [1, 6])
def test_a_worker_killed_where_rows_travel(trial: Trial, number: int) -> None:
    trial.encode = APART
    trial.environment["WORKER_MOMENT"] = f"kill after raycluster.engine.worker:Worker.__call__ {number}"
    require_survival(trial, f"worker of two pools, after unit {number}", most=2 * SHARD)
    assert trial.taken.exists()


def test_the_progress_actor_killed(trial: Trial) -> None:
    trial.environment["WORKER_MOMENT"] = "kill before raycluster.engine.progress:Progress.started 6"
    require_survival(trial, "progress actor", most=0)
    assert trial.taken.exists()


def test_both_workers_killed_from_outside(trial: Trial) -> None:
    trial.joins = False
    with Reader(trial) as reader:
        driver = trial.start()
        killed: list[int] = []
        while len(trial.worked_on()) < 10 or len(killed) < 2:  # the second may start seconds after the first
            assert driver.poll() is None
            time.sleep(0.02)
            killed = [pid for pid in trial.left() if b"MapBatches(work)" in command(pid)]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert trial.end(driver)["status"] == "done"
    assert len(killed) == 2
    twice = sum(1 for count in trial.worked_on().values() if count > 1)
    print(f"\nDEATH | both workers, from outside | the run goes on | {twice} of {len(trial.todo)} objects twice |")
    assert twice <= 2 * SHARD
    reader.require_nothing_wrong()
    trial.require_undisturbed()
    assert sum(trial.worked_on().values()) >= len(trial.todo) > PIECES


def test_a_shard_that_is_worked_on_twice_is_never_committed_twice(trial: Trial) -> None:
    with Reader(trial) as reader:
        said = trial.end(trial.start(SHARD_TWICE="1"))
        assert said.get("error") == "RunFailed", said
        assert "came out twice" in said["message"]
        trial.recover("a shard worked on twice")
    reader.require_nothing_wrong()


def command(pid: int) -> bytes:
    """Return what a process says it is; nothing of one that has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
