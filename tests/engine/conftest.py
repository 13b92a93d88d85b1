"""Workloads become jobs and units of work: what tests of single parts of the engine share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pytest
from survival import BRISK, Trial, World

from raycluster import stage
from raycluster.compare import TODO
from raycluster.declare.workload import Workload, parse_workload
from raycluster.engine.line import Job
from raycluster.engine.prepare import schema_of
from raycluster.lake.lake import Lake
from raycluster.lake.write import Sink
from raycluster.place import Cluster, place
from raycluster.row import object_id
from raycluster.units import Resources

MakeJob = Callable[..., Job]
MARKING = "[{use: 'private_stages:Marking', timeout: 2s}]"


def _workload(corpus: Path, decode: str, encode: str, check: str) -> Workload:
    return parse_workload(
        dedent(f"""
        apiVersion: raycluster/v1
        kind: Workload
        metadata: {{name: w, labels: {{team: t}}}}
        spec:
          source: {{files: {{paths: ["{corpus}"]}}}}
          decode: {decode}
          encode: {encode}
          check: {check}
          sink: {{dataset: d}}
        """)
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


@pytest.fixture
def job(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> MakeJob:
    """Make the job of a workload over `corpus`, for a cluster of four CPUs."""
    # A line arms its process, which may then be ended when a stage hangs: not this one.
    monkeypatch.setattr("raycluster.engine.line.arm_watch", lambda: None)

    def make(*, decode: str = "{text: {}}", encode: str = MARKING, check: str = "{}") -> Job:
        workload = _workload(corpus, decode, encode, check)
        pools, problems = place(workload, Cluster(nodes=(Resources(cpu=4, memory=8 << 30),)))
        assert not problems
        sink = Sink(uri="nowhere", schema=schema_of(workload))
        return Job(workload=workload, pools=pools, run_id="run-1", sink=sink)

    yield make
    assert not stage._Watch.armed


@pytest.fixture
def units() -> Callable[[Job], pa.Table]:
    """List what a job is to work on, in the order of the names."""

    def listed(job: Job) -> pa.Table:
        found = [one for batch in job.workload.source.objects() for one in batch.to_pylist()]
        return pa.Table.from_pylist(
            [{**one, "object_id": object_id(one["uri"], one["version"])} for one in found], TODO
        )

    return listed


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Start, once, a cluster that the drivers of all trials join: a Ray of their own costs each six seconds."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lance is not fork-safe")  # the fork executes another program at once
        for name, value in BRISK.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="session")
def world(address: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Build, once, what all trials begin with."""
    return World.build(tmp_path_factory.mktemp("world"), address)


@pytest.fixture
def trial(world: World, tmp_path: Path) -> Iterator[Trial]:
    """Begin a trial in a lake of its own, and end what it leaves behind."""
    begun = Trial.begin(world, tmp_path)
    yield begun
    begun.clean()


@pytest.fixture(scope="session")
def unproven(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave a lake, once, whose driver died when all was committed and nothing yet proven."""
    folder = tmp_path_factory.mktemp("unproven")
    trial = Trial.begin(world, folder)
    trial.die(trial.start(DRIVER_MOMENT="kill before raycluster.engine.tally:Tally.require_conservation 1"))
    assert trial.taken.exists()
    assert trial.kept() == trial.todo
    return folder / "lake"


@pytest.fixture
def finishing(world: World, unproven: Path, tmp_path: Path) -> Iterator[Trial]:
    """Begin a trial where all is committed and nothing proven: what dies next, dies while it finishes."""
    begun = Trial.begin(world, tmp_path, lake=unproven, joins=False)  # no work is left: no Ray is started
    yield begun
    begun.clean()


@pytest.fixture
def fresh(world: World, tmp_path: Path) -> Iterator[Trial]:
    """Begin a trial with no lake at all."""
    begun = Trial(world=world, folder=tmp_path, lake=Lake(str(tmp_path / "lake")), begins_empty=True)
    yield begun
    begun.clean()
