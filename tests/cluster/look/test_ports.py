"""Ports that are held: by whom, and for whom to reach."""

import os
import socket
import subprocess
import sys

import pytest

from raycluster.cluster.look import Site, ports

SITE = Site(lake="x")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Give a free port, and let it be one that matters: the real ones may be somebody else's here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    monkeypatch.setattr(ports, "_PORTS", {number: "raycluster serve"})
    monkeypatch.setattr(ports, "_ELSEWHERE", {number: "serve on another one"})
    monkeypatch.setattr(ports, "_SERVE", number)
    return number


def test_a_port_that_is_free(port: int) -> None:
    (found,) = ports.look(SITE)
    assert (found.level, str(port) in found.what) == ("ok", True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_held_and_by_whom(port: int, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        holder = socket.create_server((host, port), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with holder:
        (found,) = ports.look(SITE)
    assert (found.level, f"(pid {os.getpid()})" in found.what) == ("warning", True)
    assert "serve on another one" in found.fix


def test_ray_itself_may_hold_it(port: int) -> None:
    program = f"""
import socket, sys
open('/proc/self/comm', 'w').write('raylet')
with socket.create_server(('127.0.0.1', {port})):
    print(flush=True); sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        (found,) = ports.look(SITE)
        holder.stdin.close()
    assert (found.level, "a Ray runs here" in found.what) == ("note", True)


@pytest.mark.parametrize(
    ("host", "mode", "level"), [("0.0.0.0", "disabled", "problem"), ("0.0.0.0", "token", "warning")]
)
def test_a_dashboard_that_others_can_reach(port: int, monkeypatch, host: str, mode: str, level: str) -> None:
    monkeypatch.setattr(ports, "_DASHBOARD", port)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with socket.create_server((host, port)):
        found = list(ports.look(SITE))
    assert [one.level for one in found if "others can reach" in one.what] == [level]
    with socket.create_server(("127.0.0.1", port)):
        assert not [one for one in ports.look(SITE) if "others can reach" in one.what]
