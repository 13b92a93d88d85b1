"""Runs that work at once get equal parts by team, a run uses nodes that come, and no object is lost or done again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.cluster_utils import Cluster
from survival import BRISK

from raycluster.account.owners import Owner
from raycluster.engine.share import divide
from raycluster.lake.lake import Lake
from raycluster.place import Pool
from raycluster.units import Resources

COMMAND = Path(sys.executable).with_name("raycluster")
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: {team}, labels: {{team: {team}}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{chunk: 200}}}}
  encode: [{{use: "private_stages:Clocked", folder: "{notes}"}}]
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
    """Runs of teams over texts that take a second each, and when they were worked on."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

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
            return subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=err, text=True)

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
@pytest.mark.timeout(300)
def test_two_teams_at_once_get_half_each_and_all_once_they_are_alone(
    tmp_path: Path, nodes: Callable[..., Cluster]
) -> None:
    runs = Runs(tmp_path, nodes(4).address)
    first = runs.start("apes", 200)
    runs.wait("apes", 8)
    second = runs.start("bees", 30)
    begun = runs.wait("bees", 4)  # of four texts at once at most two are bees'
    runs.end(second, "bees", 30)
    ended = runs.moments("bees")[-1][0]
    runs.end(first, "apes", 200)
    apes, bees = runs.moments("apes"), runs.moments("bees")
    assert len(workers(apes, 0, bees[0][0] - 8)) == 4
    assert len(workers(bees, begun, ended)) == 2
    assert len(workers(apes, begun + 3, ended)) == 2
    assert len(workers(apes, apes[-1][0] - 5, apes[-1][0])) == 4
    print(f"\nSHARE | waited {bees[0][0] - begun:.1f}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_comes_is_used(tmp_path: Path, nodes: Callable[..., Cluster]) -> None:
    cluster = nodes(2)
    runs = Runs(tmp_path, cluster.address)
    run = runs.start("apes", 160)
    runs.wait("apes", 4)
    cluster.add_node(num_cpus=2)
    came = time.time()
    runs.end(run, "apes", 160)
    found = runs.moments("apes")
    nodes_used = {worker.partition("-")[0] for _, worker in found}
    assert len(nodes_used) == 2
    first = {worker.partition("-")[0] for at, worker in found if at < came}
    used = next(at for at, worker in found if worker.partition("-")[0] not in first)
    print(f"\nSHARE | a node is used {used - came:.1f} s after it came")
    assert len(workers(found, found[-1][0] - 5, found[-1][0])) == 4
