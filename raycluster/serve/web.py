"""A context becomes the HTTP application: groups of endpoints, one form of error, bounds on what a request may cost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from raycluster import __version__
from raycluster.serve.admission import Admission
from raycluster.serve.answer import REFUSALS, add_handlers
from raycluster.serve.context import Context
from raycluster.serve.here import OnlyHere
from raycluster.serve.known import Known
from raycluster.serve.measure import Measured
from raycluster.serve.quick import Direct
from raycluster.serve.trace import Traced

# One file a group, in the order of the API's document, in which Serve looks for each request's route, too: search is
# the first, for behind ten others it took 0.04 ms more.
GROUPS = (
    "search",
    "health",
    "datasets",
    "rows",
    "ingest",
    "media",
    "runs",
    "quarantine",
    "costs",
    "metrics",
    "console",
)
_PUBLIC = ("health", "console")  # they hold no data


class Web(FastAPI):
    """FastAPI behind layers of our own: what they answer themselves never comes to it."""

    door: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in."""
        await (self.door if scope["type"] == "http" else self.inside)(scope, receive, send)

    async def inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do what FastAPI does."""
        await super().__call__(scope, receive, send)


def application(context: Context) -> FastAPI:
    """Return the application over one context, as any ASGI server runs it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # every request that is admitted finds a thread: anyio's own bound of 40 would be a second queue, without an end
        anyio.to_thread.current_default_thread_limiter().total_tokens = context.settings.at_once
        yield
        context.close()

    web = Web(title="raycluster", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    web.state.context = context
    # For the API's document only: whose credentials they are is found out by `Known` and `Visit`.
    bearer = [Depends(HTTPBearer(auto_error=False))] if context.settings.rules.authenticates else []
    quick: list[BaseRoute] = []
    for name in GROUPS:
        told: dict[str, Any] = {} if name in _PUBLIC else {"responses": REFUSALS, "dependencies": bearer}
        router = import_module(f"raycluster.serve.{name}").router
        web.include_router(router, **told)
        quick += router.routes
    add_handlers(web)
    web.door = _layers(web.inside, quick, context)
    return web


def _layers(inside: ASGIApp, quick: Sequence[BaseRoute], context: Context) -> ASGIApp:
    """Return what a request goes through, the innermost first."""
    authenticates = context.settings.rules.authenticates
    door: ASGIApp = Direct(inside, quick, context)
    if authenticates:
        door = Known(door, context)
    door = Admission(door, context.settings)
    if not authenticates:
        door = OnlyHere(door)
    return Traced(Measured(door, context.metrics))
