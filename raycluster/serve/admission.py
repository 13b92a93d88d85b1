"""A flood of requests becomes a bounded one: so many are worked on, so many wait, the rest are told when to come back.

One per replica, around everything else, as pure ASGI: what waits costs a few hundred bytes, and nothing of a refused
request is read. A request that takes too long is cancelled, whether it waits, reads its body or works; once its answer
has begun it may take as long as the client reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycluster.errors import Busy, RayclusterError, TimedOut, TooLarge
from raycluster.serve.answer import told
from raycluster.serve.settings import Settings

# Probes must be answered however full it is, or a busy replica is taken for a dead one.
_ALWAYS = ("/healthz", "/readyz")
_UPLOADS = "/v1/data/"
# Bytes a second that a client must send at least, beyond the time that any request has: who drips is cut off.
_SLOWEST = 50_000


@dataclass
class Admission:
    """The bounds of one replica."""

    app: ASGIApp
    settings: Settings

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(self.settings.at_once)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when there is room."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self.app(scope, receive, send)
            return
        if self._room.locked() and self._waiting >= self.settings.waiting:
            await told(_busy())(scope, receive, send)
            return
        body = _Body(receive, _most(scope, self.settings))
        if body.claims(scope):
            await told(body.refusal())(scope, receive, send)
            return
        await self._bounded(scope, body, send)

    async def _bounded(self, scope: Scope, body: _Body, send: Send) -> None:
        limit = asyncio.timeout(self.settings.timeout)
        begun = asyncio.get_running_loop().time()
        answer = _Answer(send, body, begins=lambda: limit.reschedule(None))
        body.goes_on = lambda read: limit.reschedule(begun + self.settings.timeout + read / _SLOWEST)
        refused: RayclusterError
        try:
            async with limit, self._turn():
                await self.app(scope, body, answer)
                return
        except TooLarge as error:
            refused = error
        except TimeoutError:
            if not limit.expired():
                raise
            refused = _late(self.settings.timeout)
        if answer.begun:
            raise refused  # too late for another answer: the connection is closed
        await told(refused)(scope, body, send)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for room, and keep it."""
        self._waiting += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._room.release()


def _busy() -> Busy:
    return Busy("more requests are waiting than this replica takes", fix="try again in a second; Retry-After says when")


def _late(timeout: float) -> TimedOut:
    return TimedOut(f"the request took longer than {timeout:g} s and was cancelled", fix="ask for less, or try again")


def _most(scope: Scope, settings: Settings) -> int:
    return settings.most_upload if scope["path"].startswith(_UPLOADS) else settings.most_body


class _Body:
    """A request's body, counted as it comes: a length that is claimed may be wrong, or missing."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._read = receive, most, 0
        self.goes_on: Callable[[int], None] = lambda _: None

    @property
    def is_too_large(self) -> bool:
        """Tell whether more has come than may."""
        return self._read > self._most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self.is_too_large:
            raise self.refusal()
        if message.get("body"):
            self.goes_on(self._read)
        return message

    def claims(self, scope: Scope) -> bool:
        """Tell whether a request says beforehand that it is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        return length.isdigit() and int(length) > self._most

    def refusal(self) -> TooLarge:
        """Return what is said to it."""
        return TooLarge(f"the request has more than {self._most} bytes", fix="send less at once")


class _Answer:
    """A response on its way: once it has begun, it can no longer be another one."""

    def __init__(self, send: Send, body: _Body, begins: Callable[[], None]) -> None:
        self._send, self._body, self._begins, self.begun = send, body, begins, False

    async def __call__(self, message: Message) -> None:
        if not self.begun and self._body.is_too_large:
            raise self._body.refusal()  # FastAPI has made a plain 400 of it
        if not self.begun:
            self.begun = True
            self._begins()
        await self._send(message)
