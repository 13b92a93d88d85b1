"""Serves a lake in a process of its own, as `raycluster serve` does, with settings that its options do not reach.

    python tests/serving.py '{"lake": "...", "at_once": 1}'

prints where it answers, and serves until it is told to stop.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests


@dataclass
class Served:
    """A server and its processes."""

    url: str
    process: subprocess.Popen[str]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Return the processes of a deployment's replicas."""
        title = f"ray::ServeReplica:raycluster:{deployment}"
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if one.cmdline()[:1] and one.cmdline()[0].startswith(title):
                    found.append(one)
            except psutil.NoSuchProcess:
                continue
        return found

    def post(self, path: str, body: dict[str, Any], **more: Any) -> requests.Response:
        """Send JSON."""
        return requests.post(f"{self.url}{path}", json=body, timeout=60, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        """Ask."""
        return requests.get(f"{self.url}{path}", timeout=60, **more)


@contextmanager
def served(lake: str, *, environment: dict[str, str] | None = None, **settings: Any) -> Iterator[Served]:
    """Serve a lake, and end with all its processes."""
    command = [sys.executable, str(Path(__file__)), json.dumps({"lake": lake, **settings})]
    # HAProxy and Ray start more quickly where nothing else speaks to the terminal.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}, start_new_session=True
    )
    assert process.stdout
    url = process.stdout.readline().strip()
    try:
        assert url.startswith("http"), f"it did not start: {url}"
        yield Served(url, process)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(children, timeout=20)
        for child in alive:
            child.kill()
        process.stdout.close()


def main() -> None:
    from raycluster.serve.server import Server
    from raycluster.serve.settings import Settings

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Server(Settings.read(json.loads(sys.argv[1])), port=0) as server:
        print(server.url, flush=True)
        server.wait()


# Before the second time that a request is sent again, as in `client/wire.py`; the first is at once.
_PAUSE_SECONDS = 0.8


@dataclass
class Asked:
    """One answer under load."""

    at: float  # seconds since the load began
    seconds: float
    status: int  # 0: the connection failed
    version: int | None
    again: bool = False  # asked more than once


class Load:
    """Clients that ask without pause, each over one connection, until they are told to stop.

    What fails they ask again so many times, after pauses as `raycluster.client` makes them: HAProxy sends a request to
    a replica that has died until its checks have found that out, or Serve has said so.
    """

    def __init__(self, url: str, path: str, body: dict[str, Any], *, clients: int = 4, retries: int = 0) -> None:
        self.url, self.path, self.body, self.retries = url, path, body, retries
        self.asked: list[Asked] = []
        self._stop, self._began = threading.Event(), time.monotonic()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                for attempt in range(self.retries + 1):
                    time.sleep(_PAUSE_SECONDS if attempt > 1 else 0)
                    one = self._once(session)
                    one.again = attempt > 0
                    if one.status == 200:
                        break
                self.asked.append(one)

    def _once(self, session: requests.Session) -> Asked:
        begun = time.monotonic()
        status, version = 0, None
        try:
            answer = session.post(f"{self.url}{self.path}", json=self.body, timeout=60)
            status = answer.status_code
            version = answer.json().get("version") if status == 200 else None
        except requests.RequestException:  # as `raycluster.client` takes it: also an answer that breaks off
            pass
        return Asked(begun - self._began, time.monotonic() - begun, status, version)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


if __name__ == "__main__":
    main()
