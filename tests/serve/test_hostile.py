"""What is sent to do harm is refused in seconds and costs little memory; a real server, in a process of its own.

Elsewhere: too large and too slow bodies (test_admission.py), names that lead out (test_ingest.py, test_sources.py),
filters that are more than conditions (tests/lake/test_expression.py), forged tokens (tests/govern/test_jwt.py).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import compress
from pathlib import Path

import pytest
from gallery import corpus, picture, put, rows_of, save
from starlette.testclient import TestClient

from raycluster.lake.lake import Lake

SERVER = """
import sys, uvicorn
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

class Idle:
    async def submit(self, dataset, batch):
        return "run1"

web = application(Context.open(Settings(lake=sys.argv[1], timeout=30), intake=Idle()))
server = uvicorn.Server(uvicorn.Config(web, port=0, log_level="critical"))
started = server.startup

async def startup(*more, **named):
    await started(*more, **named)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)

server.startup = startup
server.run()
"""
MOST_MIB = 300  # that the server may grow by
MOST_SECONDS = 10.0  # for an answer; a busy machine takes a while for 100,000 parts
JSON = "Content-Type: application/json"
SEARCH = "POST /v1/datasets/gallery/search"


@dataclass
class Server:
    """A server of one lake, in a process of its own."""

    port: int
    process: int

    def send(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Send bytes as they are; return the answer's status and all of it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=3 * MOST_SECONDS) as client:
            answer = b""
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read all
                client.sendall(head + b"\r\n\r\n" + body)
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(1 << 16):
                    answer += piece
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        assert status, answer[:200]
        return int(status[1]), answer

    def ask(self, target: str, *headers: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return the answer's status and all of it."""
        said = [f"{target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        if body:
            said.append(f"Content-Length: {len(body)}")
        return self.send("\r\n".join(said).encode("latin-1"), body)

    def peak(self, *, anew: bool = False) -> float:
        """Return the most MiB of memory that it has had, since it was asked for `anew`."""
        if anew:
            Path(f"/proc/{self.process}/clear_refs").write_text("5")
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process}/status").read_text())
        assert found
        return int(found[1]) / 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that is warm: what it imports and caches at the first search counts for nobody."""
    folder, objects = tmp_path_factory.mktemp("hostile"), corpus()
    lake = Lake(str(folder / "lake"))
    put(lake, "gallery", rows_of(save(folder / "corpus", objects), objects))
    with subprocess.Popen([sys.executable, "-c", SERVER, lake.uri], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = Server(int(process.stdout.readline()), process.pid)
            assert found.ask(SEARCH, JSON, body=b'{"text": "boat", "mode": "text"}')[0] == 200
            refused = {"image": b64encode(picture("red")).decode()}  # nothing embeds it, but it is decoded first
            assert found.ask(SEARCH, JSON, body=json.dumps(refused).encode())[0] == 400
            yield found
        finally:
            process.kill()


def bomb(side: int = 60_000) -> bytes:
    """Return a PNG of 100 kB that says it has 3,600 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(100 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# What is sent: the request's target, more headers, its body; and how it may be answered.
Sent = tuple[str, tuple[str, ...], bytes]


def form(parts: int) -> Sent:
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\na\r\n'
    return "POST /v1/data/gallery", ("Content-Type: multipart/form-data; boundary=x",), part * parts + b"--x--\r\n"


def asked(body: bytes, *headers: str, target: str = SEARCH) -> Sent:
    return target, (JSON, *headers), body


def gzipped(body: bytes) -> Sent:
    return asked(compress(body), "Content-Encoding: gzip")


DEEP = 100_000
MANY = 10_000
BODIES: dict[str, tuple[Sent, set[int]]] = {
    "a picture of 3,600 million pixels": (asked(json.dumps({"image": b64encode(bomb()).decode()}).encode()), {400}),
    "a picture of 100 million pixels": (
        asked(json.dumps({"image": b64encode(bomb(10_000)).decode()}).encode()),
        {400},
    ),
    "a gzip of 100 MB": (gzipped(b'{"text": "' + b"a" * (100 << 20) + b'"}'), {400, 415}),
    "a gzip of a right question": (gzipped(b'{"text": "boat", "mode": "text"}'), {400, 415}),
    "lists, deep": (asked(b"[" * DEEP + b"]" * DEEP), {400}),
    "lists in a field, deep": (asked(b'{"vector": ' + b"[" * DEEP + b"]" * DEEP + b"}"), {400}),
    "objects, deep": (asked(b'{"a":' * DEEP + b"1" + b"}" * DEEP), {400}),
    "objects to add, deep": (asked(b'{"a":' * DEEP + b"1" + b"}" * DEEP, target="POST /v1/data/gallery"), {400}),
    "a number of 1 MB": (asked(b'{"text": "a", "k": ' + b"9" * (1 << 20) + b"}"), {400}),
    "a float of 1 MB": (asked(b'{"vector": [0.' + b"9" * (1 << 20) + b"]}"), {400}),
    "a million numbers": (asked(b'{"vector": [' + b"1," * 1_000_000 + b"1]}"), {400}),
    "a million keys": (asked(b"{" + b",".join(b'"%d":0' % at for at in range(1_000_000)) + b"}"), {400}),
    "a million ids to delete": (
        asked(b'{"ids": [' + b'"a",' * 1_000_000 + b'"a"]}', target="DELETE /v1/data/gallery"),
        {400},
    ),
    "100,000 parts": (form(100_000), {413}),
    "a boundary of 10 kB": (
        ("POST /v1/data/gallery", ("Content-Type: multipart/form-data; boundary=" + "x" * 10_000,), b"--x--"),
        {400},
    ),
    "no UTF-8 in JSON": (asked(b'{"text": "\xff\xfe", "mode": "text"}'), {400}),
    "UTF-16": (asked('{"text": "boat", "mode": "text"}'.encode("utf-16")), {200, 400}),
    "nothing where JSON is due": (asked(b"\x00" * 1000), {400}),
    "a type that is none": (("POST /v1/data/gallery", ("Content-Type: " + "a/" * 1000,), b"x"), {400}),
}
HEADS: dict[str, tuple[Sent, set[int]]] = {
    "a header of 1 MB": (("GET /v1/datasets", ("X-A: " + "a" * (1 << 20),), b""), {200, 400, 431}),
    "10,000 headers": (("GET /v1/datasets", tuple(f"X-{at}: a" for at in range(MANY)), b""), {200, 400, 431}),
    "10,000 parameters": (("GET /v1/runs?" + "&".join(f"a{at}=1" for at in range(MANY)), (), b""), {400, 414}),
    "one parameter 10,000 times": (("GET /v1/costs?" + "&".join(["only=a"] * MANY), (), b""), {400, 414}),
    "a target of 1 MB": (("GET /v1/datasets/" + "a" * (1 << 20), (), b""), {400, 404, 414}),
    "no UTF-8 in a path": (("GET /v1/datasets/%ff%fe", (), b""), {400, 404}),
    "zero in a path": (("GET /v1/datasets/a%00b", (), b""), {400, 404}),
    "folders in a path": (("GET /v1/datasets/..%2f..%2f..%2fetc%2fpasswd", (), b""), {404}),
    "folders of Windows": (("GET /v1/quarantine/..%5c..%5cother", (), b""), {400, 404}),
    "a run out of its folder": (("GET /v1/runs/..%2f..%2fother", (), b""), {404}),
    "half a character in a filter": (("GET /v1/data/gallery?filter=%ed%a0%80", (), b""), {400}),
    "zero in a filter": (("GET /v1/data/gallery?filter=text%20=%20'%00'", (), b""), {200, 400}),
    "no UTF-8 in a header": (("GET /v1/data/gallery", ("Accept: \xff\xfe", "Authorization: Bearer \xff"), b""), {200}),
    "an odd key": (("POST /v1/data/gallery", ("Idempotency-Key: \xff", JSON), b'{"objects": [{"text": "a"}]}'), {400}),
    "TRACE": (("TRACE /v1/datasets", (), b""), {405}),
    "PATCH": (("PATCH /v1/data/gallery", (JSON,), b"{}"), {405}),
    "CONNECT": (("CONNECT localhost:22", (), b""), {400, 404, 405}),
    "a method that is none": (("A" * 5000 + " /v1/datasets", (), b""), {400, 404, 405}),
    "a method in another's clothes": (("GET /v1/data/gallery", ("X-HTTP-Method-Override: DELETE",), b""), {200}),
    "no such protocol": (("GET /v1/datasets", ("Upgrade: websocket", "Connection: Upgrade"), b""), {200, 400}),
}


def hold(server: Server, sent: Sent, statuses: set[int]) -> bytes:
    """Send it; demand an answer of one of the statuses, soon, of a server that stays slim and goes on."""
    before, since = server.peak(anew=True), time.monotonic()
    status, answer = server.ask(sent[0], *sent[1], body=sent[2])
    assert status in statuses, answer[-500:]
    assert time.monotonic() - since < MOST_SECONDS
    assert server.peak() - before < MOST_MIB
    assert server.ask("GET /healthz")[0] == 200
    return answer


@pytest.mark.parametrize("what", BODIES)
def test_bodies(server: Server, what: str) -> None:
    answer = hold(server, *BODIES[what])
    assert not what.startswith("a picture") or b"(too_large)" in answer


@pytest.mark.parametrize("what", HEADS)
def test_heads(server: Server, what: str) -> None:
    hold(server, *HEADS[what])


def test_ranges_by_the_thousand(server: Server) -> None:
    _, page = server.ask("GET /v1/data/gallery?filter=modality%20=%20'image'&limit=1&columns=id")
    found = re.search(rb'"id": ?"(\w+)"', page)
    assert found, page
    media = f"GET /v1/datasets/gallery/rows/{found[1].decode()}/media"
    ranges = ",".join(f"{at}-{at}" for at in range(MANY))
    whole = server.ask(media)[1].rpartition(b"\r\n\r\n")[2]
    assert hold(server, (media, (f"Range: bytes={ranges}",), b""), {200}).endswith(whole)


def test_who_never_ends_a_request_holds_nobody_up(server: Server) -> None:
    """No bound of ours: a head that drips is not a request yet, has no place in the queue, and costs a socket.

    A server for others ends it in its proxy (`timeout http-request` of HAProxy). Bodies have a bound (test_admission).
    """
    before = server.peak(anew=True)
    with contextlib.ExitStack() as clients:
        for _ in range(400):  # more than may work and wait
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"GET /v1/datasets HTTP/1.1\r\nHost: localhost\r\nX-Slow: a")
        for _ in range(5):
            since = time.monotonic()
            assert server.ask("GET /v1/datasets")[0] == 200
            assert time.monotonic() - since < MOST_SECONDS
        assert server.peak() - before < MOST_MIB


INJECTED = [
    "true; DROP TABLE gallery",
    "id IN (SELECT id FROM other)",
    "true) OR (1 = 1",
    "1 = 1 --",
    "true /* */",
    "id = '' UNION SELECT * FROM other",
    "read_text('/etc/passwd') IS NOT NULL",
    "random() > 0.5",
    "_rowid > 0",
    "text = $$a$$",
    "text = E'\\x41'",
    "@@version = 1",
]


@pytest.mark.parametrize("injected", INJECTED)
def test_a_filter_is_a_condition_wherever_it_is_taken(client: TestClient, lake: Lake, injected: str) -> None:
    for answer in (
        client.post("/v1/datasets/gallery/search", json={"text": "boat", "mode": "text", "filter": injected}),
        client.post("/v1/search", json={"text": "a", "mode": "text", "datasets": ["gallery"], "filter": injected}),
        client.get("/v1/datasets/gallery/facets", params={"filter": injected}),
        client.get("/v1/data/gallery", params={"filter": injected}),
        client.request("DELETE", "/v1/data/gallery", json={"filter": injected}),
    ):
        assert (answer.status_code, answer.json()["error"].get("field")) == (400, "filter"), answer.text
    assert lake.datasets() == ["gallery", "other"]
    assert client.get("/v1/datasets/gallery").json()["rows"] == 15
