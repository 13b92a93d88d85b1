"""A flood of requests becomes a bounded one: so many are worked on, so many wait, the rest are told when to come back.

One per replica, around everything else, as pure ASGI: what waits costs a few hundred bytes, and nothing of a refused
request is read. A request that takes too long is cancelled, whether it waits, reads its body or works; once its answer
has begun it may take as long as the client reads.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycluster.errors import Busy, TimedOut, TooLarge
from raycluster.serve.answer import told
from raycluster.serve.settings import Settings

# Probes must be answered however full it is, or a busy replica is taken for a dead one.
_ALWAYS = ("/healthz", "/readyz")
_UPLOADS = "/v1/data/"
# Bytes a second that a client must send at least, beyond the time that any request has: who drips is cut off.
_SLOWEST = 50_000
_FIX = "send less at once"


@dataclass
class Admission:
    """The bounds of one replica."""

    app: ASGIApp
    settings: Settings
    stalled: float = 60.0  # seconds that a client may take for one part of an answer, of a MiB at most

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
            await told(TooLarge(body.refusal, fix=_FIX))(scope, receive, send)
        else:
            await self._bounded(scope, body, send)

    async def _bounded(self, scope: Scope, body: _Body, send: Send) -> None:
        late = list[asyncio.Task[None]]()
        # A thread cannot be interrupted. anyio waits for it, so that the room is free when the work has ended, not when
        # it has been told to: otherwise threads would gather without bound. The client is told at once, meanwhile.
        with anyio.CancelScope() as limit:

            def end() -> None:
                if answer.replace():
                    late.append(asyncio.ensure_future(told(_late(self.settings.timeout))(scope, body, send)))
                limit.cancel()

            clock = _Clock(self.settings.timeout, end)
            answer = _Answer(send, clock, stalled=self.stalled)
            body.goes_on = lambda read: answer.waits(self.settings.timeout + read / _SLOWEST)
            try:
                await self._turn()
                try:
                    await self.app(scope, body, answer)
                finally:
                    self._room.release()
            finally:
                clock.stop()
        for one in late:
            await one

    async def _turn(self) -> None:
        """Wait for room."""
        self._waiting += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1


class _Clock:
    """Calls `end` once its time is over; to be set anew, for every part of an answer, it rarely moves its timer."""

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        self._end, self._loop = end, asyncio.get_running_loop()
        self._since = self._loop.time()
        self._until = self._due = self._since + seconds
        self._timer = self._loop.call_at(self._due, self._look)

    def prolong(self, seconds: float) -> None:
        """Let it last so many seconds in all."""
        self._until = self._since + seconds

    def restart(self, seconds: float) -> None:
        """Let it last so many seconds from now on."""
        self._until = self._loop.time() + seconds
        if self._until < self._due:
            self._arm()

    def pause(self) -> None:
        """Let it last until it is started again."""
        self._until = math.inf

    def stop(self) -> None:
        """End it."""
        self._timer.cancel()

    def _arm(self) -> None:
        self._timer.cancel()
        self._due = self._until
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        if self._until == math.inf:
            self._due = math.inf
        elif self._loop.time() < self._until:
            self._arm()
        else:
            self._end()


def _busy() -> Busy:
    return Busy("more requests are waiting than this replica takes", fix="try again in a second; Retry-After says when")


def _late(timeout: float) -> TimedOut:
    return TimedOut(f"the request took longer than {timeout:g} s and was cancelled", fix="ask for less, or try again")


def _most(scope: Scope, settings: Settings) -> int:
    is_upload = scope["method"] == "POST" and scope["path"].startswith(_UPLOADS)
    return settings.most_upload if is_upload else settings.most_body


class _Body:
    """A request's body, counted as it comes: a length that is claimed may be wrong, or missing."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._read = receive, most, 0
        self.goes_on: Callable[[int], None] = lambda _: None
        self.refusal = f"the request has more than {most} bytes"

    def claims(self, scope: Scope) -> bool:
        """Tell whether a request says beforehand that it is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        return length.isdigit() and int(length) > self._most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            raise HTTPException(413, self.refusal)  # of a RayclusterError, FastAPI's parser would make a plain 400
        if message.get("body"):
            self.goes_on(self._read)
        return message


class _Answer:
    """A response on its way: once it has begun, nothing else can take its place, and the other way round."""

    def __init__(self, send: Send, clock: _Clock, *, stalled: float) -> None:
        self._send, self._clock, self._stalled = send, clock, stalled
        self._begun, self._replaced = False, False

    def waits(self, seconds: float) -> None:
        """Let it begin within so many seconds in all."""
        if not self._begun:
            self._clock.prolong(seconds)

    def replace(self) -> bool:
        """Let another answer take its place, if it has not begun; tell whether it does."""
        self._replaced = not self._begun
        return self._replaced

    async def __call__(self, message: Message) -> None:
        if self._replaced:
            return
        self._begun = True
        # A video that is paused would keep its room for as long as its page is open; browsers ask again.
        self._clock.restart(self._stalled)
        await self._send(message)
        self._clock.pause()
