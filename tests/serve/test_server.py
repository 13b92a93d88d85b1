"""What a server refuses before anything starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raycluster.errors import InvalidUse
from raycluster.govern.gate import Rules
from raycluster.serve.server import Server
from raycluster.serve.settings import Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com", "192.0.2.1"])
def test_others_are_let_in_only_by_credentials(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidUse, match="nobody would be asked who they are") as refused:
        Server(Settings(lake=str(tmp_path)), host=host, port=0)
    assert refused.value.where == "--host"
    assert refused.value.exit_code == 2


def test_with_credentials_others_are_let_in(tmp_path: Path) -> None:
    (tmp_path / "tokens.yaml").write_text(f"tokens:\n- {{subject: ada, sha256: '{'0' * 64}'}}\n")
    rules = Rules(tokens=str(tmp_path / "tokens.yaml"))
    assert Server(Settings(lake=str(tmp_path), rules=rules), host="0.0.0.0", port=0).url.startswith("http://0.0.0.0:")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidUse, match=f"cannot listen on 127.0.0.1:{port}") as refused:
            Server(Settings(lake=str(tmp_path)), port=port)
    assert "--port" in refused.value.fix


def test_any_free_port_is_chosen(tmp_path: Path) -> None:
    ports = {Server(Settings(lake=str(tmp_path)), port=0).port for _ in range(3)}
    assert all(1024 < port < 65536 for port in ports)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (Rules(issuer="https://login.example.com"), "an issuer and an audience"),
        (Rules(policy="nowhere.rego"), "nowhere.rego"),
        (Rules(tokens="nowhere.yaml"), "nowhere.yaml"),
        (Rules(policy="p.rego", opa="http://127.0.0.1:8181"), "contradict each other"),
    ],
)
def test_rules_that_are_wrong_are_said_before_anything_starts(tmp_path: Path, rules: Rules, says: str) -> None:
    with pytest.raises(InvalidUse, match=says):
        Server(Settings(lake=str(tmp_path), rules=rules), port=0)


def test_a_cluster_that_is_not_there_is_said_and_no_other_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "raycluster",
        "serve",
        "--port",
        "0",
        "--lake",
        str(tmp_path),
        "--address",
        address,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"no Ray cluster at {address}")
    assert ended.stdout == ""
