"""A context becomes the HTTP application: groups of endpoints, one form of error, bounds on what a request may cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from raycluster import __version__
from raycluster.errors import RayclusterError
from raycluster.serve.context import Context

# One file a group, in the order of the API's document.
GROUPS = ("health",)

_RETRY_SECONDS = 1


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
    web.add_exception_handler(RayclusterError, _tell)
    web.add_exception_handler(RequestValidationError, _tell_invalid)
    web.add_exception_handler(HTTPException, _tell_http)
    return web


def told(error: RayclusterError) -> JSONResponse:
    """Return an error as DESIGN.md section 7 has it."""
    body = {"code": error.code, "message": error.message, "fix": error.fix}
    if error.where:
        body["field"] = error.where
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


async def _tell(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RayclusterError)
    return told(error)


async def _tell_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    body = {"code": "invalid", "message": f"{field}: {first['msg']}", "fix": "see /openapi.json", "field": field}
    return JSONResponse({"error": body}, status_code=400)


async def _tell_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "not_allowed"}.get(error.status_code, "invalid")
    body = {"code": code, "message": str(error.detail), "fix": "see /openapi.json for what there is"}
    return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)
