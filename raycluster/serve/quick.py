"""An endpoint that takes a visit, a dataset's name and a JSON body is called with them, and with nothing in between.

FastAPI works out each time what an endpoint wants, parses the body into Python values and those into a model: 0.4 ms of
a core, more than a search in memory takes. Here the body's bytes become the model at once. The API's document is
FastAPI's own, from the endpoint's signature; so are the errors.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from raycluster.serve.answer import answered
from raycluster.serve.context import Context
from raycluster.serve.head import field
from raycluster.serve.visit import visit_of

_LARGE = 1 << 20  # bytes; a vector is 10 kB
Model = TypeVar("Model", bound=BaseModel)


class Quick(APIRoute):
    """A route whose endpoint is `(visit, asked)`, or `(visit, name, asked)` where its path names a dataset."""

    def direct(self, context: Context) -> Callable[[Scope, Receive], Awaitable[Response]]:
        """Return what answers a request without FastAPI."""
        endpoint, model = self.endpoint, get_type_hints(self.endpoint)["asked"]

        async def handle(scope: Scope, receive: Receive) -> Response:
            visit = await visit_of(scope, context)
            asked = await read(scope, receive, model)
            answer: Response = await endpoint(visit, *scope["path_params"].values(), asked)
            return answer

        return handle


class Direct:
    """Takes requests for quick routes to them, past FastAPI's search for a route and what it keeps for each request."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], context: Context) -> None:
        self.app = app
        self.routes = [(one, one.direct(context)) for one in routes if isinstance(one, Quick)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["method"] == "POST":
            for route, handle in self.routes:
                if found := route.path_regex.match(scope["path"]):
                    scope["route"], scope["path_params"] = route, found.groupdict()
                    try:
                        answer = await handle(scope, receive)
                    except ClientDisconnect:
                        return
                    except Exception as error:  # noqa: BLE001 - a mistake is logged and told, as FastAPI's handlers do
                        answer = await answered(Request(scope), error)
                    await answer(scope, receive, send)
                    return
        await self.app(scope, receive, send)


async def read(scope: Scope, receive: Receive, model: type[Model]) -> Model:
    """Return a request's body.

    Raises:
        RequestValidationError: it is no JSON, or not what is wanted; as FastAPI says it.
    """
    body = await _whole(receive)
    is_json = _is_json(field(scope, b"content-type") or "")  # else a page of another site could send it unasked
    try:
        if is_json and len(body) > _LARGE:
            return _again(body, model)
        if is_json and body:
            return model.model_validate_json(body)
        return model.model_validate(body or None)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if problems[0]["type"] == "json_invalid":
            return _again(body, model)
        raise _wrong(problems) from error


async def _whole(receive: Receive) -> bytes:
    parts, more = list[bytes](), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, model: type[Model]) -> Model:
    """Read what pydantic's own parser takes for no JSON (Python's takes half a character), or holds twice in memory."""
    try:
        said = json.loads(body)
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": (error.pos,), "msg": "JSON decode error", "input": {}}
        raise _wrong([problem]) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "There was an error parsing the body") from error
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise _wrong(error.errors(include_url=False)) from error


def _wrong(problems: Any) -> RequestValidationError:
    return RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in problems])


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("application/") and (kind == "application/json" or kind.endswith("+json"))
