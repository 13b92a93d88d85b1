"""A row becomes the original bytes of its object: through this application, by a ticket, or by a link to its store.

Bytes are served when they are the very object that was ingested (`read/_original.py`), to who may see the row and
every one of its values: where a policy masks a column, the original would show what is masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import RedirectResponse

from raycluster.errors import Forbidden, InvalidUse
from raycluster.lake import query
from raycluster.lake.access import EVERYTHING
from raycluster.lake.table import LIVE
from raycluster.read._original import original
from raycluster.read._sign import sign
from raycluster.serve import ticket as tickets
from raycluster.serve.body import ANSWERS, body, named
from raycluster.serve.context import Context, Seen
from raycluster.serve.reply import PRIVATE, reply
from raycluster.serve.rows import Asked
from raycluster.serve.visit import Visit

router = APIRouter(tags=["rows"])

LINK_SECONDS = 300  # a link outlives the policy that allowed it by so much


@dataclass(frozen=True)
class How:
    """By which way the bytes are to come."""

    link: Annotated[
        Literal["true", "redirect"] | None, Query(description="a link to the object's store, or a redirect to it")
    ] = None
    ticket: Annotated[
        str | None, Query(description="`new` for a URL that needs no credentials; or what it holds", max_length=100)
    ] = None


def _admitted(
    request: Request,
    asked: Annotated[Asked, Depends()],
    how: Annotated[How, Depends()],
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Seen:
    """Let in who may see the row by the policy, or holds a ticket from somebody who might."""
    context: Context = request.app.state.context
    if how.ticket not in (None, "new"):
        if how.link:
            raise InvalidUse("a ticket is for the bytes themselves", where="link", fix="leave `link` out")
        tickets.require(context, _grant(asked), str(how.ticket))
        return Seen(context.follower.table(asked.name), EVERYTHING)
    seen = Visit(context, context.gate.identify(authorization)).read(asked.name, asked.version)
    if seen.access.masks:
        raise Forbidden("original bytes would show what the policy masks", fix="ask for the row")
    return seen


def _grant(asked: Asked) -> tickets.Grant:
    return tickets.Grant(asked.name, asked.id, asked.version)


@router.head("/v1/datasets/{name}/rows/{id}/media", include_in_schema=False)
@router.get("/v1/datasets/{name}/rows/{id}/media", response_class=Response, responses=ANSWERS)
def media(
    request: Request,
    asked: Annotated[Asked, Depends()],
    how: Annotated[How, Depends()],
    seen: Annotated[Seen, Depends(_admitted)],
) -> Response:
    """Return the original bytes of a row's object, whole or a range; a browser can seek in a film."""
    row = query.row(seen.table, asked.id, version=asked.version, access=seen.access)
    if how.ticket == "new":
        return _ticket(request, asked)
    store, found = original(row["uri"], row["object_id"], timeout=request.app.state.context.settings.timeout)
    kind, disposition = named(row["media_type"], row["uri"])
    if how.link:
        return _link(how.link, found.uri, kind, disposition)
    headers = {"ETag": f'"{row["object_id"]}"', "Content-Type": kind, "Content-Disposition": disposition}
    return body(store, found, (request.method, request.headers), headers)


def _ticket(request: Request, asked: Asked) -> Response:
    written, ends = tickets.issue(request.app.state.context, _grant(asked))
    version: dict[str, Any] = {} if asked.version == LIVE else {"version": asked.version}
    url = f"{request.url.path}?{urlencode({**version, 'ticket': written})}"
    return reply({"url": url, "expires_at": datetime.fromtimestamp(ends, UTC)})


def _link(way: str, uri: str, kind: str, disposition: str) -> Response:
    ends = datetime.now(UTC).timestamp() + LINK_SECONDS
    url = sign(uri, seconds=LINK_SECONDS, media_type=kind, disposition=disposition)
    if way == "redirect":
        return RedirectResponse(url, status_code=307, headers=PRIVATE)
    return reply({"url": url, "expires_at": datetime.fromtimestamp(int(ends), UTC)})
