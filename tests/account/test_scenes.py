"""What the ledger says of jobs as users write them, with nothing of raycluster in them: Ray Data, Serve, Train.

The work burns what it says; what Ray itself adds to it (imports, blocks, requests) is billed to the same owner, so an
amount is held between the burn and the burn with some room for that.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import furnaces
import pytest
import ray
from fires import told

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

Page = Any  # conftest.Page
Lines = list[dict[str, Any]]


def cpu(lines: Lines, word: str = "", **wanted: Any) -> float:
    """Return the CPU-seconds of lines whose stage has a word in it."""
    found = [line for line in lines if word in (line["stage"] or "")]
    return sum(line["cpu_seconds"] for line in found if all(line[name] == value for name, value in wanted.items()))


def require_owned(lines: Lines, page: Page) -> None:
    """Prove that what processes of jobs did has this owner, from when the page was open."""
    opened = min(line["ended_at"] for line in lines)
    strays = [line for line in lines if line["run_id"] != page.owner.run_id and line["started_at"] >= opened]
    assert not [line for line in strays if line["kind"] in ("task", "driver") and line["cpu_seconds"]]
    assert {line["team"] for line in lines if line["kind"] in ("system", "idle", "other")} <= {None}


def test_a_ray_data_job(page: Page, tmp_path: Path) -> None:
    heated = ray.data.range(400, override_num_blocks=4).map_batches(furnaces.heat, batch_size=None)
    forged = heated.map_batches(furnaces.Forge, batch_size=None, concurrency=1, num_cpus=0.5)  # apart from the tasks
    forged.sort("id").write_parquet(str(tmp_path / "out"))
    lines = page.usage().to_pylist()
    heat, forge = (cpu(lines, f"MapBatches({name})", kind="task", outcome="ok") for name in ("heat", "Forge"))
    assert 0.97 * 4 * furnaces.BATCH <= told("Ray Data, tasks", 4 * furnaces.BATCH, heat) <= 4 * furnaces.BATCH + 1
    assert 0.97 * 8 * furnaces.BATCH <= told("Ray Data, actors", 8 * furnaces.BATCH, forge) <= 8 * furnaces.BATCH + 1
    require_owned(lines, page)
    mine = {line["kind"] for line in lines if line["run_id"] == page.owner.run_id and line["cpu_seconds"] > 0}
    assert mine >= {"task", "background", "startup", "driver"}
    stages = " ".join(line["stage"] or "" for line in lines if line["kind"] == "task")
    assert "Sort" in stages
    assert "Write" in stages


@pytest.fixture
def port() -> Iterator[int]:
    """Start Serve at a free port, and end it."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    yield number
    serve.shutdown()


def ask(port: int, seconds: float) -> str:
    with urlopen(f"http://127.0.0.1:{port}/?seconds={seconds}", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("kind", [furnaces.Kiln, furnaces.Oven])
def test_requests_to_serve(page: Page, port: int, kind: type) -> None:
    """Serve runs a deployment's code in a thread of its own, beside the one in which Ray's calls are awaited.

    A request that is alone in its replica is billed to its call, `ServeReplica:APP:NAME.handle_request_...`. Of
    requests that overlap nobody can tell which one the code works for: their time is `background` of the replica,
    whose stage is the deployment's name.
    """
    from ray import serve

    name = kind.__name__
    serve.run(serve.deployment(kind, ray_actor_options={"num_cpus": 0.1}).bind(), name=name)
    ask(port, 0.01)
    before = page.usage().to_pylist()
    for _ in range(6):
        assert ask(port, 0.2) == "done"
    between = page.usage().to_pylist()
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: ask(port, 0.2), range(6))) == {"done"}
    after = page.usage().to_pylist()
    apart = cpu(between, name) - cpu(before, name)
    together = cpu(after, name) - cpu(between, name)
    assert 1.2 <= told(f"Serve, {name}, one request after the other", 1.2, apart) <= 1.6
    assert 1.2 <= told(f"Serve, {name}, three at once", 1.2, together) <= 1.6
    kinds = {line["kind"] for line in after if name in (line["stage"] or "") and line["cpu_seconds"] > 0.1}
    assert kinds <= {"task", "background"}
    assert cpu(after, name, team="t") == cpu(after, name)
    require_owned(after, page)


def test_training(page: Page, tmp_path: Path) -> None:
    """Train runs the function in a thread of its worker: `background` of it, and calls that ask how it is."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    DataParallelTrainer(
        furnaces.train,
        train_loop_config={"seconds": 1.6, "steps": 4, "told": str(tmp_path / "told")},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(tmp_path)),
    ).fit()
    lines = page.usage().to_pylist()
    began, ended = map(float, (tmp_path / "told").read_text().split())
    assert ended - began >= 1.6
    # Of the process's whole time a part was its start-up, before it was this worker.
    assert ended - began <= told("Train, one worker", ended - began, cpu(lines, "TrainWorker")) <= ended + 0.3
    require_owned(lines, page)


if __name__ == "__main__":
    sys.exit(pytest.main(["-s", "-m", "slow", __file__]))
