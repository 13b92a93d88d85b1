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

from raycluster.engine import worker
from raycluster.engine.line import Job
from raycluster.engine.prepare import schema_of
from raycluster.engine.progress import Progress
from raycluster.lake.lake import Lake


@pytest.mark.usefixtures("cluster")
def test_what_nobody_wants_for_a_while_is_let_go(
    job: Any, units: Callable[[Job], pa.Table], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.hook, "install", lambda: None)  # this process is none of Ray's workers
    (corpus / "a.txt").write_text("good words\n")
    made = job()
    made = replace(made, sink=Lake(str(tmp_path)).table("d").create_or_check(schema_of(made.workload), []))
    progress: Any = ray.remote(num_cpus=0)(Progress).remote()

    def work() -> worker.Worker | None:
        (message,) = worker.work(units(made), run_id="run-1", job=cloudpickle.dumps(made), progress=progress)
        assert message.num_rows == 1
        return worker._Here.worker

    kept = work()
    assert kept is not None
    assert work() is kept
    monkeypatch.setattr(worker, "_KEPT_SECONDS", 0.05)
    work()
    until = time.monotonic() + 30
    while worker._Here.worker is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert worker._Here.worker is None
    ray.kill(progress)
