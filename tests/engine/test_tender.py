"""A real cluster with a tender: every second of every node has one line, whoever works on it, and whoever dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import reckoning
import requests
from fires import COMMAND, Fire, near, wait_until
from heads import free_port
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient
from reckoning import having, total, usage

from raycluster.account import owners
from raycluster.account.owners import Jobs, Owner
from raycluster.account.settle import settle
from raycluster.declare.prices import LOCAL
from raycluster.engine.agents import Agents, _ended
from raycluster.engine.cluster import connect
from raycluster.engine.tender import is_tended, tend
from raycluster.lake.lake import Lake

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:lance is not fork-safe"),  # the forks execute another program at once
]

EVER = datetime.fromtimestamp(0, UTC)
PRICES = """
apiVersion: raycluster/v1
kind: Prices
metadata: {name: dear, version: "1"}
spec: {currency: USD, cpu_hour: 1.0, gib_hour: 1.0}
"""
Spans = list[tuple[datetime, datetime]]

BURN = """
import ray, time
ray.init()

@ray.remote
def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

ray.get(burn.remote(0.5))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a cluster as `ray up` does, in a folder of its own: jobs look there for the cluster that they belong to."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # Ray's sockets want a short path
    ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
    os.environ["RAY_RUNTIME_ENV_HOOK"] = "raycluster.account.job.runtime_env"
    head = {"num_cpus": 2, "include_dashboard": True, "temp_dir": folder, **ports}
    started = Cluster(initialize_head=True, head_node_args=head)
    del os.environ["RAY_RUNTIME_ENV_HOOK"]
    (Path(folder) / "ray_current_cluster").write_text(started.address)  # as `ray start` does
    was_there = ray.is_initialized()  # the session's own, which other tests want afterwards
    ray.shutdown()
    ray.init(address=started.address, log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    if was_there:
        connect()


@pytest.fixture(scope="module")
def lake(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Account for the cluster from here on, as the verb does it."""
    lake = Lake(str(tmp_path_factory.mktemp("tended") / "lake"))
    said = account(cluster, lake)
    assert (said["lake"], said["nodes"], said["trouble"]) == (lake.uri, 1, "")
    assert account(cluster, lake)["since"] == said["since"]
    return lake


def account(cluster: Cluster, lake: Lake, *words: str) -> dict[str, Any]:
    said = raycluster("cluster", "account", "--lake", lake.uri, "--address", cluster.address, "--json", *words)
    found: dict[str, Any] = json.loads(said)
    return found


def raycluster(*words: str) -> str:
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, lake: Lake) -> JobSubmissionClient:
    client = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")

    def can_take_some() -> bool:
        try:
            return client.list_jobs() is not None
        except (RuntimeError, requests.RequestException):  # the dashboard is still starting
            return False

    wait_until(can_take_some)
    return client


def settled(lake: Lake, **wanted: Any) -> reckoning.Lines:
    settle(lake, LOCAL)
    return usage(lake, **wanted)


def has_told(cluster: Cluster, lake: Lake) -> bool:
    """Let every node that has an agent tell what it knows by now; tell whether each has one."""
    named = {one["name"] for one in ray.util.list_named_actors(all_namespaces=True)}
    agents = {f"agent-{node.node_id}" for node in (cluster.head_node, *cluster.worker_nodes)}
    ray.get([ray.get_actor(name, "raycluster").flush.remote() for name in agents & named])
    settle(lake, LOCAL)
    return agents <= named


def tender() -> int:
    """Return the pid of this cluster's tender."""
    found = [one.pid for one in psutil.Process().children(recursive=True) if one.cmdline()[:1] == ["ray::Tender"]]
    return found[0] if found else 0


def spans(lake: Lake, since: datetime, **wanted: Any) -> Spans:
    """Return the windows of a node that began after a moment."""
    return [span for span in reckoning.windows(settled(lake, **wanted)) if span[0] >= since]


def told_of(jobs: JobSubmissionClient, job: str) -> JobStatus:
    wait_until(lambda: jobs.get_job_status(job).is_terminal())
    return jobs.get_job_status(job)


def test_windows_come_without_any_run(cluster: Cluster, lake: Lake) -> None:
    since, node = datetime.now(UTC), cluster.head_node.node_id

    def whole() -> Spans:  # not those that a flush has cut
        return [span for span in spans(lake, since, node=node) if span[0].timestamp() % 10 == 0]

    wait_until(whole)
    assert {(end - start).total_seconds() for start, end in whole()} == {10.0}
    lines = [line for line in usage(lake, node=node) if line["started_at"] >= since]
    assert {line["kind"] for line in lines} <= {"idle", "system", "startup", "other", "unexplained"}
    assert {line["stage"] for line in having(lines, kind="system")} >= {"agent", "Tender", "raylet", "gcs_server"}
    assert total(having(lines, kind="idle")) > 0
    bill = json.loads(raycluster("costs", "--by", "kind", "--lake", lake.uri, "--json"))
    assert {line["kind"] for line in bill["lines"]} >= {"idle", "system"}
    reckoning.require_law(lake)


def test_a_submitted_job_is_billed_to_its_team(
    cluster: Cluster, lake: Lake, jobs: JobSubmissionClient, tmp_path: Path
) -> None:
    (tmp_path / "burn.py").write_text(BURN)
    command = f"{sys.executable} {tmp_path}/burn.py"
    job = jobs.submit_job(entrypoint=command, metadata={"team": "red", "project": "p", "mood": "good"})
    nobodys = jobs.submit_job(entrypoint=command, metadata={"project": "p"})
    assert told_of(jobs, job) == JobStatus.SUCCEEDED, jobs.get_job_logs(job)
    assert told_of(jobs, nobodys) == JobStatus.FAILED
    said = jobs.get_job_logs(nobodys)
    assert "this job names no team: nobody would pay for it" in said
    assert 'ray job submit --metadata-json \'{"team": "NAME"}\'' in said
    assert has_told(cluster, lake)
    mine = usage(lake, team="red")
    assert {(line["project"], line["run_id"]) for line in mine} == {("p", None)}
    assert total(having(mine, kind="task", stage="burn")) == near(0.5)
    assert total(having(mine, kind="driver")) > 0.3  # to import Ray is its work too
    assert total(having(mine, kind="startup")) > 0.1
    assert "JobSupervisor" in {line["stage"] for line in usage(lake, kind="system")}
    assert not [line for line in usage(lake, kind="task") if line["team"] is None]
    assert total(reckoning.costs(lake, team="red"), "nanousd") > 0
    reckoning.require_law(lake)


def test_the_tender_dies_while_nodes_come_and_go(cluster: Cluster, lake: Lake) -> None:
    first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    added = datetime.now(UTC)
    wait_until(lambda: has_told(cluster, lake))
    began = {node.node_id: spans(lake, EVER, node=node.node_id)[0][0] for node in (first, second)}
    assert all(start < added for start in began.values())  # what it cost to start them, too
    pid = tender()
    cluster.remove_node(first, allow_graceful=False)
    os.kill(pid, signal.SIGKILL)
    third = cluster.add_node(num_cpus=1)
    wait_until(lambda: has_told(cluster, lake))
    assert spans(lake, EVER, node=third.node_id)
    assert tender() not in (0, pid)
    wait_until(lambda: [line for line in settled(lake, node=first.node_id) if line["kind"] == "unattributed"])
    (lost,) = usage(lake, node=first.node_id, kind="unattributed")
    died = _ended()[first.node_id]
    assert abs(lost["ended_at"] - died) < timedelta(milliseconds=1)
    assert lost["node_cpus"] == 1.0
    Agents(lake, "another run", since=datetime.fromtimestamp(0, UTC)).look()  # it sees the loss, too
    assert len(having(settled(lake, node=first.node_id), kind="unattributed")) == 1
    for node in (first, second):
        mine = usage(lake, node=node.node_id)
        whole = (reckoning.windows(mine)[-1][1] - began[node.node_id]).total_seconds()
        assert total(having(mine, kind="idle"), "wall_seconds") == pytest.approx(whole, abs=1e-5)
    cluster.remove_node(second)
    cluster.remove_node(third)
    reckoning.require_law(lake)


def test_a_run_beside_the_tender_and_its_job_is_forgotten(cluster: Cluster, lake: Lake, tmp_path: Path) -> None:
    fire = Fire(folder=tmp_path, lake=lake, team="blue", stages=[{"use": "Burning", "milliseconds": 100}])
    fire.write(5)
    driver = fire.start(cluster.address)
    assert driver.wait(120) == 0, fire.said()
    ended = datetime.now(UTC)
    mine = usage(lake, team="blue", kind="task", stage="burning")
    assert total(mine) == near(0.5)
    summary = json.loads((tmp_path / "out").read_text())
    assert {line["run_id"] for line in mine} == {summary["run_id"]}
    assert summary["cost_usd"] > 0
    assert has_told(cluster, lake)  # it goes on without the run
    assert spans(lake, EVER, node=cluster.head_node.node_id)[-1][1] > ended
    reckoning.require_law(lake)
    known = Jobs()
    owners.begin(Owner(team="green"))
    assert {job.runs[-1][2].team for job in known.look().values()} == {"blue", "green"}
    assert owners.prune() == 0
    assert owners.prune(older=0.0) == 1
    assert {job.runs[-1][2].team for job in known.look().values()} == {"green"}
    owners.end(Owner(team="green"))


def test_other_prices_have_another_tender_which_goes_on_where_that_was(
    cluster: Cluster, lake: Lake, tmp_path: Path
) -> None:
    before, pid = account(cluster, lake), tender()
    (tmp_path / "prices.yaml").write_text(PRICES)
    after = account(cluster, lake, "--prices", str(tmp_path / "prices.yaml"))
    assert (before["prices"], after["prices"]) == (LOCAL.ref, "dear@1")
    assert (before["since"], before["lake"]) == (after["since"], after["lake"])
    assert tender() != pid
    assert is_tended(lake)
    assert not is_tended(Lake(str(tmp_path / "other")))
    assert tend(lake, LOCAL).prices == LOCAL
