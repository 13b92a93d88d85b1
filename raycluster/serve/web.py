"""A context becomes the HTTP application: groups of endpoints, one form of error, bounds on what a request may cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from fastapi import FastAPI

from raycluster import __version__
from raycluster.serve.admission import Admission
from raycluster.serve.answer import add_handlers
from raycluster.serve.context import Context
from raycluster.serve.here import OnlyHere
from raycluster.serve.measure import Measured
from raycluster.serve.trace import Traced

# One file a group, in the order of the API's document.
GROUPS = (
    "health",
    "datasets",
    "search",
    "rows",
    "ingest",
    "media",
    "runs",
    "quarantine",
    "costs",
    "metrics",
    "console",
)


def application(context: Context) -> FastAPI:
    """Return the application over one context, as any ASGI server runs it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        context.close()

    web = FastAPI(title="raycluster", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    web.state.context = context
    for name in GROUPS:
        web.include_router(import_module(f"raycluster.serve.{name}").router)
    add_handlers(web)
    web.add_middleware(Admission, settings=context.settings)
    if not context.settings.rules.authenticates:
        web.add_middleware(OnlyHere)
    web.add_middleware(Measured, metrics=context.metrics)
    web.add_middleware(Traced)
    return web
