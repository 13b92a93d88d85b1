"""The real application over a small real lake, and servers that answer what a test tells them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gallery import Piece, Raw, Told, corpus, declare, put, rows_of, running, save

import raycluster
from raycluster.client import Client
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run
from raycluster.row import object_id
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application


@pytest.fixture
def running_on() -> Any:
    """How to run an application."""
    return running


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAYCLUSTER_URL", "RAYCLUSTER_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of one dataset, which a workload has declared, two bad objects and one run."""
    lake, objects = Lake(str(tmp_path / "lake")), corpus()
    version = put(lake, "gallery", rows_of(save(tmp_path / "corpus", objects), objects))
    secret = {"secret.txt": Raw(b"the vault is open", "text", "text/plain", (Piece("the vault is open"),))}
    put(lake, "other", rows_of(save(tmp_path / "vault", secret), secret))
    declare(lake)
    bad = {"modality": None, "position": 0, "stage": "decode"}
    for code in ("corrupt", "unsupported"):
        uri = f"file:///broken/{code}"
        row = {**bad, "object_id": object_id(uri, "1"), "uri": uri, "code": code, "message": f"it is {code}"}
        lake.quarantine("gallery").add([row], run_id="run1", workload="w")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run(run_id="run1", workload="w", dataset="gallery", status="done", started_at=at, finished_at=at)
    lake.runs().put(Run(**{**run.__dict__, "version": version, "summary": {"rows": 15}}))
    return lake


@dataclass
class Noted:
    """Takes what has landed, and says that it runs."""

    lake: Lake
    taken: list[str] = field(default_factory=list)

    async def submit(self, dataset: str, batch: str) -> str:
        self.taken.append(batch)
        run = Run(run_id=f"of-{batch}", workload="w", dataset=dataset, status="running", started_at=datetime.now(UTC))
        self.lake.runs().put(run)
        return run.run_id


@pytest.fixture
def noted(lake: Lake) -> Noted:
    return Noted(lake)


@pytest.fixture
def context(lake: Lake, noted: Noted, tmp_path: Path) -> Iterator[Context]:
    sources = (str(tmp_path / "corpus"),)
    opened = Context.open(Settings(lake=lake.uri, sources=sources, most_upload=4_000_000), intake=noted)
    yield opened
    opened.close()


@pytest.fixture
def url(context: Context) -> Iterator[str]:
    with running(application(context)) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with raycluster.connect(url) as found:
        yield found


@pytest.fixture
def told(context: Context) -> Told:
    """Lets ann read `gallery`, and nobody else anything."""
    from raycluster.lake.access import EVERYTHING

    context.gate = Told(allowed={"ann": {"gallery": EVERYTHING}})
    return context.gate


@dataclass
class Scripted:
    """An application that answers one thing after another, the last one for good, and notes what it is asked."""

    answers: list[tuple[int, dict[str, str], Any]]
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["method"], scope["path"], headers, body))
        status, extra, said = self.answers[min(len(self.asked), len(self.answers)) - 1]
        raw = said if isinstance(said, bytes) else json.dumps(said).encode()
        lines = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": raw})


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """Return an application that answers `(status, headers, body)` one after the other."""
    open_ones = []

    def make(*answers: tuple[int, dict[str, str], Any]) -> Scripted:
        found = Scripted([*answers])
        context = running(found)
        found.url = context.__enter__()
        open_ones.append(context)
        return found

    yield make
    for one in open_ones:
        one.__exit__(None, None, None)


@dataclass
class Rude:
    """A server that says `bytes` to whoever connects, and hangs up or falls silent."""

    said: bytes
    hangs_up: bool = True

    def __post_init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.met: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self.socket.accept()
            except OSError:
                return
            self.met.append(one)
            one.recv(65536)
            one.sendall(self.said)
            if self.hangs_up:
                one.close()

    def close(self) -> None:
        for one in (self.socket, *self.met):
            one.close()


@pytest.fixture
def rude() -> Iterator[Callable[..., Rude]]:
    made = []

    def make(said: bytes = b"", *, hangs_up: bool = True) -> Rude:
        made.append(Rude(said, hangs_up))
        return made[-1]

    yield make
    for one in made:
        one.close()
