"""Whatever goes wrong becomes one form of answer: `{"error": {"code", "message", "fix", "field"}}`."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from raycluster.errors import InvalidUse, LakeError, RayclusterError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1  # a queue of requests of some milliseconds each is gone by then
_FIX = "see /openapi.json for what there is"


class Wrong(BaseModel):
    """What is wrong, with which value, and what to do next."""

    code: str
    message: str
    fix: str
    field: str | None = None


class Error(BaseModel):
    """The answer to whatever goes wrong."""

    error: Wrong


_MEANINGS: dict[int | str, str] = {
    400: "something is wrong with the request; `field` says where",
    401: "credentials are missing, or do not hold",
    403: "the policy does not allow it",
    404: "there is no such thing, or none that you may see",
    413: "there is too much of something",
    429: "too many requests are waiting; `Retry-After` says when to come back",
    503: "something that is needed does not answer, or takes too long; `Retry-After` says when to come back",
    "4XX": "something else is wrong with the request",
}
# For the API's document: how every endpoint that holds data may refuse.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": meaning} for status, meaning in _MEANINGS.items()
}


def told(error: RayclusterError) -> JSONResponse:
    """Return an error as DESIGN.md section 7 has it."""
    body = {"code": error.code, "message": error.message, "fix": error.fix}
    if error.where:
        body["field"] = error.where
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.retryable and error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


def add_handlers(web: FastAPI) -> None:
    """Let an application answer so to every error."""
    web.add_exception_handler(RayclusterError, _family)
    web.add_exception_handler(RequestValidationError, _invalid)
    web.add_exception_handler(HTTPException, _http)
    web.add_exception_handler(Exception, _mistake)


async def answered(request: Request, error: Exception) -> JSONResponse:
    """Answer to whatever was raised, as the handlers do."""
    by_kind = ((RayclusterError, _family), (RequestValidationError, _invalid), (HTTPException, _http))
    handler = next((handler for kind, handler in by_kind if isinstance(error, kind)), _mistake)
    return await handler(request, error)


async def _family(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, LakeError):  # where the lake lies, and how its store is set up, is for those who run it
        log.error("%s %s: %s", request.method, request.url.path, error)
        return told(LakeError("the lake cannot be read or written now", fix="try again; the server's log says why"))
    return told(error if isinstance(error, RayclusterError) else RayclusterError(str(error)))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
    field = ".".join(str(part) for part in first["loc"][1:]) or ".".join(map(str, first["loc"]))
    return told(InvalidUse(f"{field}: {first['msg']}", where=field, fix=_FIX))


async def _http(_: Request, error: Exception) -> JSONResponse:
    """Answer to what no endpoint takes: an unknown path, another method, a body that is no form."""
    status, said = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    code = {404: "not_found", 405: "not_allowed", 413: "too_large"}.get(status, "invalid")
    body = {"error": {"code": code, "message": str(said), "fix": _FIX}}
    return JSONResponse(body, status_code=status, headers=getattr(error, "headers", None))


async def _mistake(request: Request, error: Exception) -> JSONResponse:
    """Answer to a mistake of ours: what it was is logged, not told."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return told(RayclusterError("the server made a mistake; it is in its log", fix="report it"))
