"""Addresses become connected clusters, or one line that says what to do; this process stays as it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from raycluster.account.hook import VARIABLE
from raycluster.engine.cluster import AUTOSCALER, NoCluster, _largest, connect, describe, here, joins_cluster
from raycluster.errors import RayclusterError
from raycluster.units import Resources


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, timeout=120)


def test_this_machine_is_described_without_ray() -> None:
    done = run("""
        import sys
        from raycluster.engine.cluster import here, joins_cluster
        print(here().cpu, len(here().nodes), here().nodes[0].memory > 0, "ray.data" in sys.modules)
    """)
    assert done.stdout == f"{len(os.sched_getaffinity(0))} 1 True False\n", done.stderr


def test_an_address_joins_and_nothing_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not joins_cluster(None)
    assert not joins_cluster("")
    assert joins_cluster("10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert joins_cluster(None)


def test_nobody_there_is_one_line_that_says_what_to_do() -> None:
    done = run("""
        from raycluster.engine.cluster import NoCluster, connect
        try:
            connect("127.0.0.1:1")
        except NoCluster as error:
            print(error.code, error.exit_code, error.retryable)
            print(error)
    """)
    lines = done.stdout.splitlines()
    assert lines[0] == "no_cluster 1 True", done.stderr
    assert lines[1].startswith("no Ray cluster at 127.0.0.1:1: ")
    assert lines[-1].startswith("  fix: start it with `ray up cluster.yaml`; one that runs wants its token")
    assert "Traceback" not in done.stderr
    assert issubclass(NoCluster, RayclusterError)


def test_a_connected_cluster_is_this_machine(cluster: object) -> None:
    assert describe() == connect()  # joins what is there
    assert describe().cpu == here().cpu
    assert describe().nodes[0].memory > 0


@pytest.mark.usefixtures("cluster")
def test_workers_of_a_ray_that_is_started_here_have_meters_without_a_runtime_environment() -> None:
    """Which would start each of them twice."""
    import ray

    @ray.remote
    def facts() -> tuple[bool, dict[str, str]]:
        from raycluster.account import meter

        return meter.here() is not None, dict(ray.get_runtime_context().runtime_env)

    assert ray.get(facts.remote()) == (True, {})
    assert VARIABLE not in os.environ  # nor do the programs that this process starts have it


@pytest.mark.usefixtures("cluster")
def test_ray_does_not_take_signals_or_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    import ray

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # ray.init puts its own there
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    @ray.remote(max_retries=0)
    def die() -> None:
        print("out of a worker")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(die.remote())
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == ""


FILE = """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0, memory: 5}, max_workers: 9}
  cpu: {resources: {CPU: 8}, max_workers: 2}
  gpu: {resources: {CPU: 4, GPU: 1}, max_workers: 7}
  untold: {resources: {}, max_workers: 4}
"""


def test_the_nodes_that_an_autoscaler_may_have_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "autoscaler.yaml"
    monkeypatch.setenv(AUTOSCALER, str(file))
    assert _largest() == ()  # this is not the head
    file.write_text(FILE)
    one_gpu = [Resources(cpu=0, memory=5), Resources(cpu=8), Resources(cpu=8), Resources(cpu=4, gpu=1)]
    assert list(_largest()) == one_gpu
    file.write_text(FILE.replace("max_workers: 3", "max_workers: 4"))
    os.utime(file, ns=(1, 1))
    assert list(_largest()) == [*one_gpu, Resources(cpu=4, gpu=1)]  # `ray up` has changed it
    monkeypatch.delenv(AUTOSCALER)
    assert _largest() == ()
