"""A real cluster with a token, of two nodes one of which is wrong in every way; and addresses where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from heads import RAY, Head, free_port, head

from raycluster.cluster import doctor
from raycluster.cluster.doctor import Told
from raycluster.cluster.look import Site

_JOINS_SECONDS = 90.0


def joined(address: str, **site: object) -> list[Told]:
    return doctor.examine(Site(**{"lake": "/tmp/a-lake", "address": address, **site}), ["cluster"])


def test_an_address_where_nobody_listens(look) -> None:
    (found,) = look("cluster", address=f"127.0.0.1:{free_port()}")
    assert (found.level, "refused" in found.what, "ray up FILE" in found.fix) == ("problem", True, True)


def test_a_url_where_nobody_listens(look) -> None:
    (found,) = look("cluster", address=f"http://127.0.0.1:{free_port()}")
    assert (found.level, "ray dashboard FILE" in found.fix) == ("problem", True)


def test_no_cluster_is_named(look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (found,) = look("cluster")
    assert (found.level, "this machine" in found.what) == ("note", True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    """Start a head that hands out a GPU that is not there, and lets others reach its dashboard."""
    patient = {"RAY_health_check_failure_threshold": "100"}  # on a busy machine a head takes its own node for dead
    with head("--num-gpus=1", "--dashboard-host=0.0.0.0", cpus=1, environment=patient) as found:
        yield found


@pytest.fixture
def token(cluster: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this test's processes hold the cluster's token."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, cluster.environment[name])


@pytest.fixture(scope="module")
def stranger(cluster: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let a node join that has another raycluster."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "raycluster-0.0.9.dist-info").mkdir()
    said = "Metadata-Version: 2.1\nName: raycluster\nVersion: 0.0.9\n"
    (folder / "raycluster-0.0.9.dist-info" / "METADATA").write_text(said)
    path = os.pathsep.join((str(folder), os.environ["PYTHONPATH"]))
    command = [RAY, "start", "--block", f"--address=127.0.0.1:{cluster.port}", "--num-cpus=1", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(command, env={**cluster.environment, "PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    yield
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(60)
    for one in psutil.wait_procs(children, timeout=20)[1]:
        one.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_s_mistakes(cluster: Head, token: None) -> None:
    found = joined(f"127.0.0.1:{cluster.port}")
    told = {one.what: one for one in found}
    gpu = next(one for what, one in told.items() if "Ray hands out: 1" in what)
    assert (gpu.level, "sees 0" in gpu.what, gpu.where.startswith("node ")) == ("problem", True, True)
    public = next(one for what, one in told.items() if "others can reach Ray's dashboard" in what)
    assert public.level == "warning"  # the token keeps them out
    bill = next(one for what, one in told.items() if "nobody accounts" in what)
    assert (bill.level, "raycluster cluster account" in bill.fix) == ("warning", True)
    assert not [what for what in told if "clock" in what or "installed" in what]
    assert cluster.token not in str(found)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_api(cluster: Head, token: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [one.level for one in joined(cluster.dashboard)] == ["ok"]
    (tmp_path / "token").write_text("f" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (refused,) = joined(cluster.dashboard)
    assert (refused.level, "token" in refused.fix) == ("problem", True)
    assert "ffff" not in str(refused)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_wrong_token_is_told_as_one(cluster: Head, token: None, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("f" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    found = joined(f"127.0.0.1:{cluster.port}")
    assert (found[0].level, "token" in found[0].fix) == ("problem", True), found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_that_is_accounted_for(cluster: Head, token: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raycluster", "cluster", "account", "--lake", str(tmp_path)]
    subprocess.run([*command, "--address", f"127.0.0.1:{cluster.port}"], check=True, capture_output=True)
    told = {one.what: one for one in joined(f"127.0.0.1:{cluster.port}", lake=str(tmp_path))}
    assert told["an agent on every node accounts for it"].level == "ok"
    tender = next(one for what, one in told.items() if "a tender keeps agents" in what)
    assert (tender.level, tender.where) == ("ok", str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_with_other_versions(cluster: Head, token: None, stranger: None) -> None:
    until = time.monotonic() + _JOINS_SECONDS
    while not (other := [one for one in joined(f"127.0.0.1:{cluster.port}") if "0.0.9" in one.what]):
        assert time.monotonic() < until, "the node does not join"
    assert (other[0].level, other[0].what) == ("problem", "raycluster 0.0.9 is installed, here 0.1.0")
    assert "ray up FILE" in other[0].fix
