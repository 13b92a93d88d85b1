"""A real head of a Ray cluster for the tests of one file: own ports, own folder, own token; ended by its pids."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

RAY = Path(sys.executable).with_name("ray")
_STARTS_SECONDS = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A cluster of this machine, with a dashboard that wants its token."""

    dashboard: str
    port: int  # of Ray itself: further nodes join at 127.0.0.1:PORT
    folder: Path
    token: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of somebody who may use the cluster."""
        return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    def answers(self) -> bool:
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            return requests.get(f"{self.dashboard}/api/jobs/", headers=headers, timeout=5).ok
        except requests.RequestException:
            return False


@contextmanager
def head(*words: str, cpus: int = 2, port: int = 0, environment: Mapping[str, str] | None = None) -> Iterator[Head]:
    """Start a head, with further words of `ray start` and variables of its environment; end exactly its processes.

    Without --block, `ray start` leaves daemons that only `ray stop` finds, which would stop others' too.
    """
    port, dashboard = port or free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))  # Ray's sockets want a short path
    token = secrets.token_hex(32)
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    command = [RAY, "start", "--head", "--block", f"--num-cpus={cpus}", f"--port={port}", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += ["--disable-usage-stats", "--include-dashboard=true", *words]
    command += [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
    own = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), **(environment or {})}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, env=own, stdout=said, stderr=subprocess.STDOUT)
    try:
        found = Head(f"http://127.0.0.1:{dashboard}", port, folder, token, process)
        until = time.monotonic() + _STARTS_SECONDS
        while not found.answers():
            assert process.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < until, "the dashboard does not answer"
            time.sleep(0.3)
        yield found
    finally:  # at once: asked to end, Ray takes half a minute
        everybody = [psutil.Process(process.pid)] if process.poll() is None else []
        everybody += [child for one in everybody for child in one.children(recursive=True)]
        for one in everybody:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(10)
        psutil.wait_procs(everybody, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)
