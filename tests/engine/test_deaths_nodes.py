"""Nodes that die under a run: it goes on where there is room, and waits where there is none."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from ray.cluster_utils import Cluster
from survival import Reader, Trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore:lance is not fork-safe"
    ),  # nodes are forked, and execute another program at once
]

HEAVY = '[{use: "private_stages:Noted", needs: {cpu: 2}}]'  # two CPUs of one node a worker
Nodes = Callable[..., Cluster]


@pytest.fixture
def nodes(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Start a cluster of several nodes on this machine: the head, then nodes of so many CPUs."""
    for name, value in trial.notes().items():  # what nodes are told, their workers know
        monkeypatch.setenv(name, value)
    started = []

    def start(head: int, *others: int) -> Cluster:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
        started.append(cluster)
        for cpus in others:
            cluster.add_node(num_cpus=cpus)
        cluster.wait_for_nodes()
        trial.joins, trial.environment["RAY_ADDRESS"] = False, cluster.address
        return cluster

    yield start
    for cluster in started:
        cluster.shutdown()


def kill(node: object) -> None:
    """End a node as a power cut does: its raylet is gone, and its workers with it."""
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)


def wait_for_work(trial: Trial, driver: object, objects: int) -> None:
    """Wait until so many objects have been begun."""
    while len(trial.worked_on()) < objects:
        assert driver.poll() is None, trial.end(driver)
        time.sleep(0.05)


def test_a_run_goes_on_without_a_node(trial: Trial, nodes: Nodes) -> None:
    cluster = nodes(1, 1, 1)
    with Reader(trial) as reader:
        driver = trial.start()
        wait_for_work(trial, driver, 10)
        kill(next(iter(cluster.worker_nodes)))
        died, begun = time.monotonic(), trial.worked_on()
        assert trial.end(driver)["status"] == "done"
    again = sum(1 for name, count in trial.worked_on().items() if count > 1)
    seconds = time.monotonic() - died
    print(f"\nDEATH | node, of three | the run goes on | {again} of {len(begun)} begun objects twice | {seconds:.1f} s")
    assert again < len(begun)
    reader.require_nothing_wrong()
    trial.require_undisturbed()


def test_a_run_waits_for_room_and_says_what_is_missing_when_it_is_run_again(trial: Trial, nodes: Nodes) -> None:
    trial.encode = HEAVY
    cluster = nodes(1, 2)
    with Reader(trial) as reader:
        driver = trial.start()
        wait_for_work(trial, driver, 10)
        kill(next(iter(cluster.worker_nodes)))
        time.sleep(20)  # a node's death is noticed after up to 15 s
        assert driver.poll() is None
        driver.kill()
        driver.wait()
        kept = trial.kept()
        refused = trial.end(trial.start())
        assert refused["error"] == "Unplaceable"
        assert "2 CPU" in refused["message"]
        assert trial.kept() == kept
        cluster.add_node(num_cpus=2)
        trial.recover("the only node with room, then the driver")
    reader.require_nothing_wrong()
