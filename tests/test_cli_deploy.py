"""`raycluster deploy`: what it prints, what it refuses, and a real cluster that serves afterwards."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import requests
import yaml
from click.testing import CliRunner
from gallery import corpus, put, rows_of, save

from raycluster import cli
from raycluster.lake.lake import Lake

REMOTE = ("--lake", "s3://bucket/lake", "--issuer", "https://login.example", "--audience", "media")
RAY = Path(sys.executable).with_name("ray")


class Said(NamedTuple):
    code: int
    out: str
    err: str


def call(*words: object) -> Said:
    answer = CliRunner().invoke(cli.main, ["deploy", *map(str, words)])
    return Said(answer.exit_code, answer.stdout, answer.stderr)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_serve_config_is_printed():
    said = call(*REMOTE, "--source", "s3://bucket/a/", "--source", "s3://bucket/b/", "--port", 9000)
    assert (said.code, said.err) == (0, "")
    config = yaml.safe_load(said.out)
    assert config["http_options"] == {"host": "0.0.0.0", "port": 9000}
    (application,) = config["applications"]
    assert application["args"] == {
        "lake": "s3://bucket/lake",
        "rules": {"issuer": "https://login.example", "audience": "media"},
        "sources": ["s3://bucket/a/", "s3://bucket/b/"],
    }


def test_files_are_named_by_their_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--tokens", "tokens.yaml", "--jwks", "https://x/keys", "--opa", "http://opa", "--source", "photos/"]
    said = call("--lake", "s3://b/lake", *words)
    (application,) = yaml.safe_load(said.out)["applications"]
    assert application["args"]["sources"] == [str(tmp_path / "photos")]
    assert application["args"]["rules"] == {
        "tokens": str(tmp_path / "tokens.yaml"),
        "jwks": "https://x/keys",
        "opa": "http://opa",
    }


def test_a_folder_is_warned_of(tmp_path):
    said = call("--lake", tmp_path, "--host", "127.0.0.1")
    assert said.code == 0
    assert f"{tmp_path} is a folder: every node has to have it at this path" in said.err.replace("\n", "")
    assert yaml.safe_load(said.out)["applications"][0]["args"]["lake"] == str(tmp_path)


def test_a_manifest_is_printed():
    said = call(*REMOTE, "--kuberay", "--image", "registry.example/raycluster:1")
    assert (said.code, said.err) == (0, "")
    manifest = yaml.safe_load(said.out)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["image"] == "registry.example/raycluster:1"


@pytest.mark.parametrize(
    ("words", "wrong", "fix"),
    [
        (("--lake", "s3://bucket/lake"), "--host: 0.0.0.0 can be reached by others", "configure --issuer"),
        ((*REMOTE, "--source", "s3://bucket/../x"), "--source: 's3://bucket/../x' cannot be taken", "plainly"),
        (("--lake", "/data", "--tokens", "x", "--kuberay"), "--lake: /data is a folder", "an object store"),
        ((*REMOTE, "--tokens", "/no/such", "--kuberay"), "--tokens: /no/such is not there", "to the pods"),
        ((*REMOTE, "--kuberay", "--address", "http://x"), "--address: --kuberay prints", "leave one"),
        ((*REMOTE, "--address", "ray://head:10001"), "--address: 'ray://head:10001' is no address", "http://HEAD:8265"),
    ],
)
def test_wrong_use_is_refused(words, wrong, fix):
    said = call(*words)
    assert (said.code, said.out) == (2, "")
    assert wrong in said.err
    assert fix in said.err


def test_nobody_there():
    said = call(*REMOTE, "--address", f"http://127.0.0.1:{free_port()}")
    assert (said.code, said.out) == (1, "")
    assert "the dashboard does not answer" in said.err
    assert "check --address" in said.err


@dataclass
class Cluster:
    """A Ray cluster of this machine, with a dashboard."""

    dashboard: str
    folder: Path
    process: subprocess.Popen[bytes]

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.dashboard}/api/version", timeout=5).ok
        except requests.RequestException:
            return False

    def status(self) -> dict[str, str]:
        found = requests.get(f"{self.dashboard}/api/serve/applications/", timeout=10).json()["applications"]
        return {name: one["status"] for name, one in found.items()}

    def deploy(self, *words: object, wait: int = 120) -> Said:
        command = [sys.executable, "-m", "raycluster", "deploy", "--address", self.dashboard, "--wait", str(wait)]
        done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=wait + 60)
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def there() -> Iterator[Cluster]:
    """Start a cluster with room for what a deployment asks for, and end exactly its processes.

    Without --block, `ray start` leaves daemons that only `ray stop` finds, which would stop others' too.
    """
    port, dashboard = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="rd-", dir="/tmp")  # Ray's sockets want a short path
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={port}", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += ["--disable-usage-stats"]
    command += [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = Cluster(f"http://127.0.0.1:{dashboard}", Path(folder), process)
        until = time.monotonic() + 90
        while not found.answers():
            assert process.poll() is None, "Ray did not start"
            assert time.monotonic() < until, "the dashboard does not answer"
            time.sleep(0.5)
        yield found
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=20)
        for one in alive:
            one.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    put(lake, "gallery", rows_of(save(tmp_path / "corpus", corpus()), corpus()))
    return lake


@pytest.mark.slow
@pytest.mark.timeout(600)  # four deployments, each of which starts workers that import everything
def test_a_cluster_serves_it(there, lake, tmp_path):
    port = free_port()
    said = there.deploy("--lake", lake.uri, "--host", "127.0.0.1", "--port", port)
    assert (said.code, said.out) == (0, ""), said.err
    assert f"every node with a replica answers at 127.0.0.1:{port}" in said.err.replace("\n", " ")
    url = f"http://127.0.0.1:{port}"
    (found,) = requests.get(f"{url}/v1/datasets", timeout=30).json()["datasets"]
    assert (found["name"], found["rows"]) == ("gallery", 15)

    metered = [*there.folder.glob("session_2*/raycluster/tapes/*")]
    assert len(metered) >= 3, "a tape for the worker of each replica"

    # What others have deployed by a config stays.
    other = {"name": "other", "route_prefix": "/other", "import_path": "deployed_other:app"}
    place = f"{there.dashboard}/api/serve/applications/"
    mine = requests.get(place, timeout=10).json()["applications"]["raycluster"]["deployed_app_config"]
    body = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [mine, other]}
    requests.put(place, json=body, timeout=60).raise_for_status()
    until = time.monotonic() + 60
    while there.status() != {"raycluster": "RUNNING", "other": "RUNNING"} and time.monotonic() < until:
        time.sleep(0.5)

    # Again, with a mistake: it says why, and does not take the old one for the new one.
    said = there.deploy("--lake", lake.uri, "--port", port, "--tokens", tmp_path / "nothing.yaml")
    assert said.code == 1
    assert "the application is " in said.err
    assert "nothing.yaml" in said.err.replace("\n", "")
    assert there.status()["other"] == "RUNNING"

    said = there.deploy("--lake", lake.uri, "--host", "127.0.0.1", "--port", port)
    assert said.code == 0, said.err
    assert there.status() == {"raycluster": "RUNNING", "other": "RUNNING"}
    body = json.loads(requests.get(f"{url}/v1/data/gallery?limit=1", timeout=30).text)
    assert len(body["rows"]) == 1
