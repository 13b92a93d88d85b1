"""Runs that work at once get equal parts by team, a run uses nodes that come, and no object is lost or done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest
import reckoning
from heads import free_port, head
from ray.cluster_utils import Cluster
from survival import BRISK

from raycluster.account.owners import Owner
from raycluster.engine.share import divide, larger
from raycluster.lake.lake import Lake
from raycluster.place import Pool
from raycluster.units import Resources

# Nodes are forked, and execute another program at once.
pytestmark = pytest.mark.filterwarnings("ignore:lance is not fork-safe")

COMMAND = Path(sys.executable).with_name("raycluster")
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: {team}, labels: {{team: {team}}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{chunk: 200}}}}
  encode: [{{use: "private_stages:Clocked", folder: "{notes}", seconds: 0.5}}]
  sink: {{dataset: {team}}}
"""


def owner(team: str, run: str) -> Owner:
    return Owner(team=team, run_id=run)


def pool(size: int, **stage: object) -> Pool:
    made = SimpleNamespace(name="s", **stage)
    return Pool(stages=(made,), needs=Resources(cpu=1.0), actors=size)


@pytest.mark.parametrize("whole", [6, 7, 60])
@pytest.mark.parametrize("runs", [["a1"], ["a1", "b1"], ["a1", "a2", "b1"], ["a1", "a2", "a3", "b1"]])
def test_parts_are_equal_by_team_and_add_up(whole: int, runs: list[str]) -> None:
    owners = [owner(run[0], run) for run in runs]
    parts = {one.run_id: divide([pool(whole)], owners, one)[0].actors for one in owners}
    teams = Counter[str]()
    for run, part in parts.items():
        teams[run[0]] += part
    assert sum(parts.values()) == whole
    assert max(teams.values()) - min(teams.values()) <= 1
    assert min(teams.values()) >= whole // len(teams)
    of_a = [part for run, part in parts.items() if run[0] == "a"]
    assert max(of_a) - min(of_a) <= 1
    for order in permutations(owners):  # whoever is told of first
        assert {one.run_id: divide([pool(whole)], order, one)[0].actors for one in owners} == parts


def test_a_run_that_is_not_told_of_itself_counts_itself_and_gets_one_worker_at_least() -> None:
    assert divide([pool(4)], [], owner("a", "1"))[0].actors == 4
    crowd = [owner("b", str(number)) for number in range(9)]
    assert divide([pool(4)], crowd, owner("a", "1"))[0].actors == 2
    assert divide([pool(4)], crowd, crowd[-1])[0].actors == 1


@pytest.mark.parametrize(
    ("left", "expected"), [(0, 4), (290, 4), (301, 5), (600, 8), (3000, 40), (10**9, 100)], ids=str
)
def test_as_many_nodes_are_asked_for_as_what_is_left_is_worth(left: float, expected: int) -> None:
    (asked,) = larger([pool(4)], [pool(4)], [pool(100)], left_seconds=left)
    assert asked.actors == expected


def test_nodes_that_have_come_are_used_whatever_is_left() -> None:
    assert larger([pool(4)], [pool(12)], [pool(100)], left_seconds=10)[0].actors == 12


def test_what_is_declared_is_left_as_it_is() -> None:
    parts = divide([pool(3, actors=3), pool(4)], [owner("b", "2")], owner("a", "1"))
    assert [one.actors for one in parts] == [3, 2]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    for name, value in BRISK.items():
        monkeypatch.setenv(name, value)
    started = []

    def start(cpus: int) -> Cluster:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
        started.append(cluster)
        return cluster

    yield start
    for cluster in started:
        cluster.shutdown()


class Runs:
    """Runs of teams over texts that take half a second each, and when they were worked on."""

    def __init__(self, folder: Path, address: str, **environment: str) -> None:
        self.folder, self.address, self.environment = folder, address, {**os.environ, **environment}

    def start(self, team: str, texts: int) -> subprocess.Popen[str]:
        corpus, notes = self.folder / team / "corpus", self.folder / team / "notes"
        corpus.mkdir(parents=True)
        notes.mkdir()
        for number in range(texts):
            (corpus / f"{number}.txt").write_text(f"{team}{number} and some more words, as in every sentence.\n")
        file = self.folder / f"{team}.yaml"
        file.write_text(WORKLOAD.format(team=team, corpus=corpus, notes=notes))
        command = [str(COMMAND), "run", str(file), "--lake", str(self.folder / "lake"), "--address", self.address]
        with (self.folder / f"{team}.err").open("w") as err:
            return subprocess.Popen(
                [*command, "--json"], env=self.environment, stdout=subprocess.PIPE, stderr=err, text=True
            )

    def end(self, run: subprocess.Popen[str], team: str, texts: int) -> None:
        out, _ = run.communicate(timeout=200)
        said = json.loads(out)
        assert (said.get("status"), said.get("rows")) == ("done", texts), said
        rows = Lake(str(self.folder / "lake")).table(team).open("live").to_table(columns=["mark"])["mark"].to_pylist()
        assert sorted(rows) == sorted(f"{team}{number}" for number in range(texts))
        assert len(self.moments(team)) == texts  # nothing was done twice

    def moments(self, team: str) -> list[tuple[float, str]]:
        """Return when each text was done, and by which worker on which node."""
        return sorted(
            (float(line), file.name)
            for file in (self.folder / team / "notes").iterdir()
            for line in file.read_text().split()
        )

    def wait(self, team: str, texts: int) -> float:
        until = time.monotonic() + 100
        while len(self.moments(team)) < texts:
            assert time.monotonic() < until, (self.folder / f"{team}.err").read_text()
            time.sleep(0.2)
        return time.time()


def workers(moments: list[tuple[float, str]], since: float, until: float) -> set[str]:
    return {worker for at, worker in moments if since < at < until}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_two_teams_at_once_get_half_each_and_all_once_they_are_alone(
    tmp_path: Path, nodes: Callable[..., Cluster]
) -> None:
    runs = Runs(tmp_path, nodes(4).address)
    first = runs.start("apes", 240)
    runs.wait("apes", 8)
    second = runs.start("bees", 40)
    runs.wait("bees", 4)
    runs.end(second, "bees", 40)
    runs.end(first, "apes", 240)
    apes, bees = runs.moments("apes"), runs.moments("bees")
    began, ended = bees[0][0], bees[-1][0]
    assert len(workers(apes, 0, began - 8)) == 4
    assert len(workers(bees, 0, ended + 1)) == 2
    assert len(workers(apes, began + 3, ended)) == 2
    assert len(workers(apes, ended, apes[-1][0] + 1) - workers(apes, 0, ended)) == 4  # in new pools, of its old size
    bill = reckoning.costs(Lake(str(tmp_path / "lake")))
    assert {line["team"] for line in bill if line["stage"] == "private_stages"} == {"apes", "bees"}
    reckoning.require_law(Lake(str(tmp_path / "lake")))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_node_that_comes_is_used(tmp_path: Path, nodes: Callable[..., Cluster]) -> None:
    cluster = nodes(2)
    runs = Runs(tmp_path, cluster.address)
    run = runs.start("apes", 200)
    runs.wait("apes", 4)
    node, came = cluster.add_node(num_cpus=2), time.time()
    runs.end(run, "apes", 200)
    found = runs.moments("apes")
    used = next(at for at, worker in found if worker.startswith(node.node_id))
    print(f"\nSHARE | a node is used {used - came:.1f} s after it came")
    assert len(workers(found, used - 0.6, found[-1][0] + 1)) == 4


AUTOSCALER = """
cluster_name: w
max_workers: 2
idle_timeout_minutes: 1
upscaling_speed: 1.0
provider: {{type: fake_multinode, gcs_address: "{address}"}}
auth: {{}}
docker: {{}}
file_mounts: {{}}
cluster_synced_files: []
file_mounts_sync_continuously: false
rsync_exclude: []
rsync_filter: []
initialization_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands: []
worker_start_ray_commands: []
head_node_type: ray.head.default
available_node_types:
  ray.head.default: {{resources: {{CPU: 0}}, node_config: {{}}, max_workers: 0}}
  worker: {{resources: {{CPU: 1}}, node_config: {{}}, min_workers: 0, max_workers: 2}}
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_run_brings_an_autoscaler_to_start_the_node_that_it_needs(tmp_path: Path) -> None:
    """Ray's own autoscaler, whose nodes are processes of this machine; at first there is none that may work."""
    file = tmp_path / "autoscaler.yaml"
    port = free_port()
    address = f"127.0.0.1:{port}"
    file.write_text(AUTOSCALER.format(address=address))
    settings = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0", **BRISK}
    with head(f"--autoscaling-config={file}", cpus=0, port=port, environment=settings) as found:
        without = Runs(tmp_path / "without", address, **found.environment)
        out, _ = without.start("apes", 4).communicate(timeout=100)
        assert "no node of this cluster has that" in out
        runs = Runs(tmp_path, address, **found.environment, RAYCLUSTER_AUTOSCALER=str(file))
        runs.end(runs.start("apes", 12), "apes", 12)
