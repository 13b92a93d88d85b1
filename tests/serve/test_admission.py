"""A flood is bounded, what takes too long is cancelled, what is too large is not read; over real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import requests
import uvicorn
from fastapi import Body, FastAPI, Request
from fastapi.responses import StreamingResponse

from raycluster.errors import NotFound
from raycluster.serve.admission import Admission
from raycluster.serve.answer import add_handlers
from raycluster.serve.settings import Settings

TIMEOUT = 1.0


@dataclass
class Running:
    """A server with endpoints that take their time."""

    url: str
    port: int
    begun: list[float] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)


def endpoints(web: FastAPI, running: Running) -> None:
    @web.get("/wait")
    async def wait() -> str:
        running.begun.append(time.monotonic())
        while not running.gate.is_set():
            await asyncio.sleep(0.01)
        return "done"

    @web.get("/for-ever")
    async def for_ever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            running.cancelled.append("for-ever")
            raise

    @web.get("/thread")
    def thread() -> None:  # sync: in a thread, which nobody can interrupt
        running.begun.append(time.monotonic())
        time.sleep(3 * TIMEOUT)
        running.cancelled.append("thread")

    @web.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield b"piece"
                await asyncio.sleep(TIMEOUT / 2)

        return StreamingResponse(pieces())

    @web.get("/hold")
    async def hold() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            running.begun.append(time.monotonic())
            yield b"first"
            while not running.gate.is_set():
                await asyncio.sleep(0.01)

        return StreamingResponse(pieces())

    @web.get("/flood")
    async def flood() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1 << 20)
                await asyncio.sleep(0)  # to a client that is gone uvicorn sends nothing, without waiting

        return StreamingResponse(pieces())

    @web.post("/json")
    async def take(body: Annotated[dict[str, str], Body()]) -> int:
        return len(body)

    @web.post("/v1/data/d")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @web.get("/wrong")
    async def wrong() -> None:
        raise NotFound("there is nothing")

    @web.get("/mistake")
    async def mistake() -> None:
        raise ZeroDivisionError("secret")

    @web.get("/healthz")
    async def healthz() -> str:
        return "ok"


@pytest.fixture
def running() -> Iterator[Running]:
    web = FastAPI()
    add_handlers(web)
    settings = Settings(at_once=2, waiting=3, timeout=TIMEOUT, most_body=1000, most_upload=5000)
    web.add_middleware(Admission, settings=settings, stalled=TIMEOUT)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        found = Running(f"http://127.0.0.1:{port}", port)
        endpoints(web, found)
        server = uvicorn.Server(uvicorn.Config(web, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield found
        found.gate.set()
        server.should_exit = True
        thread.join()


def test_what_is_beyond_the_queue_is_told_when_to_come_back(running: Running) -> None:
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(requests.get, f"{running.url}/wait", timeout=10) for _ in range(12)]
        refused = soon_done(asked, 7)
        assert requests.get(f"{running.url}/healthz", timeout=10).status_code == 200  # however full it is
        running.gate.set()
        answers = [one.result() for one in asked]
    assert refused == 7
    assert sorted(one.status_code for one in answers) == [200] * 5 + [429] * 7
    turned_away = next(one for one in answers if one.status_code == 429)
    assert int(turned_away.headers["Retry-After"]) >= 1
    assert turned_away.json()["error"]["code"] == "busy"
    assert len(running.begun) == 5  # nothing was begun of what was refused
    assert requests.get(f"{running.url}/wait", timeout=10).status_code == 200  # the room is given back


def soon_done(asked: list[Future], count: int) -> int:
    """Return how many are done once `count` are, or before any of the others may time out."""
    limit = time.monotonic() + TIMEOUT * 0.8
    while sum(one.done() for one in asked) < count and time.monotonic() < limit:
        time.sleep(0.01)
    return sum(one.done() for one in asked)


def test_what_takes_too_long_is_cancelled(running: Running) -> None:
    begun = time.monotonic()
    answer = requests.get(f"{running.url}/for-ever", timeout=10)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "timed_out"
    assert "Retry-After" in answer.headers
    assert TIMEOUT <= time.monotonic() - begun < 5 * TIMEOUT
    while not running.cancelled and time.monotonic() - begun < 10 * TIMEOUT:
        time.sleep(0.01)
    assert running.cancelled == ["for-ever"]


def test_what_waits_too_long_is_not_begun(running: Running) -> None:
    with ThreadPoolExecutor(5) as pool:
        holding = [pool.submit(requests.get, f"{running.url}/hold", timeout=10) for _ in range(2)]
        while len(running.begun) < 2:
            time.sleep(0.01)
        waiting = [pool.submit(requests.get, f"{running.url}/wait", timeout=10) for _ in range(3)]
        assert {one.result().status_code for one in waiting} == {503}
        running.gate.set()
        assert {one.result().status_code for one in holding} == {200}
    assert len(running.begun) == 2


def test_threads_do_not_gather_however_many_requests_are_late(running: Running) -> None:
    begun = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        answers = [one.result() for one in [pool.submit(requests.get, f"{running.url}/thread") for _ in range(5)]]
    assert {one.status_code for one in answers} == {503}  # also those that waited
    assert time.monotonic() - begun < 2.5 * TIMEOUT  # told at once, though the threads go on
    assert len(running.begun) == 2
    assert running.cancelled == []
    with ThreadPoolExecutor(2) as pool:  # the room is theirs until they end
        again = [one.result() for one in [pool.submit(requests.get, f"{running.url}/wrong") for _ in range(2)]]
    assert {one.status_code for one in again} == {503}
    while len(running.cancelled) < 2:
        time.sleep(0.01)
    assert requests.get(f"{running.url}/wrong", timeout=10).status_code == 404


def test_an_answer_that_has_begun_may_take_its_time(running: Running) -> None:
    assert requests.get(f"{running.url}/stream", timeout=10).content == b"piece" * 4


def test_who_stops_reading_gives_up_their_room(running: Running) -> None:
    with ExitStack() as clients:
        for _ in range(2):  # all the room there is
            client = clients.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            client.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100)
        limit, status = time.monotonic() + 20 * TIMEOUT, 503
        while status == 503 and time.monotonic() < limit:
            status = requests.get(f"{running.url}/wrong", timeout=10).status_code
    assert status == 404


@pytest.mark.parametrize(
    ("target", "most"), [("POST /json", 1000), ("POST /v1/data/d", 5000), ("DELETE /v1/data/d", 1000)]
)
def test_what_says_that_it_is_too_large_is_not_read(running: Running, target: str, most: int) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        head = f"{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {most + 1}\r\n\r\n"
        client.sendall(head.encode())
        answer = b"".join(iter(lambda: client.recv(10_000), b""))  # though nothing of the body was sent
    assert b" 413 " in answer.splitlines()[0]
    assert b'"too_large"' in answer


def test_what_does_not_say_so_is_cut_off(running: Running) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"a": "'
        for _ in range(40):
            yield b"x" * 100
        yield b'"}'

    answer = requests.post(f"{running.url}/json", data=pieces(), timeout=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert requests.post(f"{running.url}/json", json={"a": "b"}, timeout=10).json() == 1


def test_who_drips_is_cut_off(running: Running) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(b"POST /v1/data/d HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")
        client.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - begun < 10 * TIMEOUT:
            client.sendall(b"x")
            try:
                answer = client.recv(10_000)
            except TimeoutError:
                continue
    assert b" 503 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/wrong", 404, "not_found"),
        ("/nowhere", 404, "not_found"),
        ("/mistake", 500, "internal"),
    ],
)
def test_every_error_has_one_form(running: Running, path: str, status: int, code: str) -> None:
    answer = requests.get(f"{running.url}{path}", timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"].keys() == {"code", "message", "fix"}
    assert "secret" not in answer.text


def test_a_field_that_is_wrong_is_named(running: Running) -> None:
    answer = requests.post(f"{running.url}/json", json={"a": 1}, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "a"
    answer = requests.post(f"{running.url}/json", data=b"{", headers={"Content-Type": "application/json"}, timeout=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
    assert requests.put(f"{running.url}/json", timeout=10).json()["error"]["code"] == "not_allowed"
    assert json.loads(answer.text)


async def answer(parts: int, send: Any, *, pause: float = 0.0) -> None:
    """Answer in parts, under a limit of 30 s for the beginning and 0.1 s for each part."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(parts):
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": b"part", "more_body": True})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    admission = Admission(app, Settings(lake="x", at_once=1), stalled=0.1)
    await admission({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert not admission._room.locked()


def test_a_part_that_nobody_takes_ends_an_answer_long_before_its_limit() -> None:
    taken = []

    async def send(message: Any) -> None:
        taken.append(message)
        if len(taken) == 3:
            await asyncio.sleep(60)

    begun = time.monotonic()
    asyncio.run(answer(9, send))
    assert len(taken) == 3
    assert 0.1 <= time.monotonic() - begun < 5


def test_between_its_parts_an_answer_may_take_longer() -> None:
    taken = []

    async def send(message: Any) -> None:
        taken.append(message)

    asyncio.run(answer(2, send, pause=0.3))
    assert len(taken) == 3
