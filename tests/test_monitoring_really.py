"""A real cluster of two nodes with a run on it: its metrics, its trace and its log, as whoever is on call gets them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests
import yaml
from gallery import running
from heads import RAY, free_port, head
from otlp import plain, receiving
from test_monitoring import FOLDER, PANELS, RULES
from test_monitoring import plain as filled

from raycluster.lake.lake import Lake
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(PROMETHEUS is None, reason="needs Debian's package `prometheus`"),
]

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# Only nodes with a GPU tell it; it stands in Ray's own list of what a node tells.
OF_GPUS = {"ray_node_gpus_utilization"}
# Panels and sums that have something to show of this cluster.
FULL = {
    "An hour costs",
    "Budgets used",
    "CPU",
    "Disk",
    "Dollars an hour by team",
    "Dollars an hour by what for",
    "Memory",
    "Nodes by type",
    "Object store",
    "Requests",
    "Rows of datasets, as readers see them",
    "Running",
    "Since a run last ended so",
    "Time without an owner",
    "What waits, and why",
}
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: w, labels: {{team: vision}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{}}}}
  encode: [{{use: 'private_stages:Slow'}}]
  sink: {{dataset: d}}
"""
BUDGET = """
apiVersion: raycluster/v1
kind: Budget
metadata: {name: vision-year}
spec: {owner: {team: vision}, limit: 10, period: year}
"""


def until(seen: Any, seconds: float = 60.0) -> Any:
    """Return what `seen` returns, once that is something."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "it was not seen"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Two nodes whose calls are traced, and a run on both that somebody with a trace of their own has started."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "corpus").mkdir()
    for number in range(12):
        (folder / f"corpus/{number}.txt").write_text(f"word{number} and more")
    (folder / "w.yaml").write_text(WORKLOAD.format(corpus=folder / "corpus"))
    ports = {name: str(free_port()) for name in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")}
    with receiving() as receiver:
        own = {**ports, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        words = [f"--metrics-export-port={free_port()}", "--tracing-startup-hook=raycluster.account.tracing:setup"]
        with head(*words, cpus=1, environment=own) as first:
            environment = {**first.environment, **own, "TRACEPARENT": f"00-{TRACE}-{ABOVE}-01"}
            second = joined(first.port, environment, folder / "second.log")
            try:
                until(lambda: any(one.startswith("127.0.0.2:") for one in targets(first.folder)), 200)
                words = ["run", str(folder / "w.yaml"), "--lake", str(folder / "lake"), "--json"]
                command = [sys.executable, "-m", "raycluster", *words, "--address", f"127.0.0.1:{first.port}"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
                assert done.returncode == 0, done.stdout + done.stderr
                summary = json.loads(done.stdout)
                lake = Lake(str(folder / "lake"))
                yield SimpleNamespace(
                    head=first, second=second, receiver=receiver, summary=summary, lake=lake, folder=folder
                )
            finally:
                ended(second)


def joined(port: int, environment: dict[str, str], said: Path) -> subprocess.Popen[bytes]:
    words = ["--block", "--num-cpus=1", "--node-ip-address=127.0.0.2", "--disable-usage-stats"]
    words += [f"--metrics-export-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    command = [RAY, "start", f"--address=127.0.0.1:{port}", *words]
    with said.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def ended(node: subprocess.Popen[bytes]) -> None:
    if node.poll() is not None:
        return
    processes = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
    for one in processes:
        one.kill()
    node.wait(20)


def targets(folder: Path) -> list[str]:
    """Return whom the head tells Prometheus to ask."""
    return json.loads((folder / "prom_metrics_service_discovery.json").read_text())[0]["targets"]


@pytest.fixture(scope="module")
def server(world: SimpleNamespace) -> Iterator[str]:
    """Serve the run's lake; return where."""
    (world.folder / "budget.yaml").write_text(BUDGET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLUSTER_BUDGETS", str(world.folder / "budget.yaml"))
        with running(application(Context.open(Settings(lake=world.lake.uri)))) as address:
            requests.get(f"{address}/v1/datasets", timeout=10)
            yield address


@pytest.fixture(scope="module")
def prometheus(world: SimpleNamespace, server: str) -> Iterator[Any]:
    """Start Prometheus by the file of workloads/monitoring; return how to ask it."""
    settings = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(FOLDER / name) for name in settings["rule_files"]]
    of_server, of_ray = settings["scrape_configs"]
    of_server["static_configs"][0]["targets"] = [server.removeprefix("http://")]
    of_ray["file_sd_configs"][0] = {"files": [str(world.head.folder / "prom_metrics_service_discovery.json")]}
    (world.folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    place = f"127.0.0.1:{free_port()}"
    words = [f"--storage.tsdb.path={world.folder / 'tsdb'}", f"--web.listen-address={place}"]
    command = [str(PROMETHEUS), f"--config.file={world.folder / 'prometheus.yaml'}", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield lambda expr: asked(place, expr)
    process.terminate()
    process.wait(20)


def asked(place: str, expr: str) -> list[dict[str, Any]]:
    try:
        answer = requests.get(f"http://{place}/api/v1/query", params={"query": expr}, timeout=5)
    except requests.ConnectionError:
        return []  # it is not up yet
    if answer.status_code == 503:
        return []
    assert answer.ok, f"{expr}: {answer.text}"
    return answer.json()["data"]["result"]


def test_every_metric_of_rules_and_panels_is_told_by_a_real_cluster(prometheus: Any, server: str) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    until(lambda: prometheus("team:raycluster_hour_cost_usd:sum") and prometheus("autoscaler_active_nodes"), 90)
    until(lambda: len(prometheus("ray_raycluster_agent_unsent_windows")) == 2)
    exprs = [rule["expr"] for rule in RULES] + [one["expr"] for panel in PANELS for one in panel.get("targets", [])]
    names = set(re.findall(r"(?<![\w:])(?:ray|raycluster|autoscaler)_\w+(?!:)\b", " ".join(exprs)))
    assert len(names) > 35
    there = {one["metric"]["__name__"] for one in prometheus('{__name__=~".+"}')}
    # A server also tells of what there is none of now: live runs, searches.
    text = requests.get(f"{server}/metrics", timeout=10).text
    there |= {
        line.split()[2] + end for line in text.splitlines() if line.startswith("# TYPE") for end in ("", "_bucket")
    }
    assert names - OF_GPUS - there == set()
    assert {name.removeprefix("ray_") for name in OF_GPUS} <= set(METRICS_GAUGES)
    assert {rule["record"] for rule in RULES if "record" in rule} <= there


@pytest.mark.parametrize("title", sorted(FULL))
def test_panels_show_something_of_it(prometheus: Any, title: str) -> None:
    (panel,) = [one for one in PANELS if one["title"] == title]
    until(lambda: prometheus(filled(panel["targets"][0]["expr"])))


def test_a_node_without_an_agent_would_be_seen(prometheus: Any) -> None:
    (rule,) = [one for one in RULES if one.get("alert") == "AgentIsMissing"]
    until(lambda: prometheus("ray_raycluster_agent_unsent_windows"))
    assert prometheus(rule["expr"]) == []
    without = rule["expr"].replace("ray_raycluster_agent_unsent_windows", "nothing")
    assert len(prometheus(without)) == 2


def test_the_run_is_one_trace_from_who_started_it_to_tasks_on_both_nodes(world: SimpleNamespace) -> None:
    (root,) = until(lambda: world.receiver.named("raycluster.run"))
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, ABOVE)
    assert plain(root.attributes)["raycluster.run.id"] == world.summary["run_id"]
    assert plain(root.attributes)["raycluster.team"] == "vision"
    units = until(lambda: world.receiver.named("pool 1"))
    assert {one.parent_span_id for one in units} == {root.span_id}
    calls = [one for one in world.receiver.spans if one.name.endswith(".submit ray.remote")]  # by Ray Data's own thread
    assert calls
    done = [one for one in world.receiver.spans if one.name.endswith("__init__ ray.remote_worker")]
    workers = [one for one in done if "MapWorker" in one.name]
    assert {one.trace_id for one in [*units, *calls, *workers]} == {root.trace_id}
    asked = {one.span_id: one for one in world.receiver.spans}
    assert all(asked[one.parent_span_id].name.endswith("ray.remote") for one in workers)
    assert len({plain(one.attributes)["ray.node_id"] for one in workers}) == 2


def test_its_log_comes_from_both_nodes_by_the_dashboards_address(world: SimpleNamespace) -> None:
    command = [sys.executable, "-m", "raycluster", "logs", world.summary["run_id"], "--json"]
    environment = {**os.environ, **world.head.environment}
    for address in (world.head.dashboard, f"127.0.0.1:{world.head.port}"):
        done = subprocess.run([*command, "--address", address], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        lines = found["lines"]
        assert (lines[0]["message"][:6], lines[-1]["message"][:5]) == ("begins", "done:")
        assert len({line["node"] for line in lines if line["message"].startswith("works in pool")}) == 2
        assert len({json.dumps(line) for line in lines}) == len(lines)
        assert {line["trace_id"] for line in lines if "trace_id" in line} <= {TRACE}
        assert found["silent_nodes"] == []
    stranger = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(world.folder / "none")}
    done = subprocess.run([*command, "--address", world.head.dashboard], env=stranger, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, "no_logs")


def test_a_node_that_is_gone_is_named_and_the_others_are_heard(world: SimpleNamespace) -> None:
    ended(world.second)
    command = [sys.executable, "-m", "raycluster", "logs", world.summary["run_id"], "--json"]
    command += ["--address", world.head.dashboard]
    done = subprocess.run(command, env={**os.environ, **world.head.environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    (gone,) = found["silent_nodes"]
    assert found["lines"]
    assert gone not in {line["node"] for line in found["lines"]}
