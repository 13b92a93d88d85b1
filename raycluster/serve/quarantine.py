"""What could not be used of a dataset, newest first, page by page, with how often each reason comes up.

The bytes of one can be looked at too: a person sees at once what a decoder's message only hints at.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from raycluster.errors import QUARANTINE_CODES, Forbidden, InvalidUse, NotFound
from raycluster.lake.quarantine import Quarantine, place_of
from raycluster.lake.sql import quoted
from raycluster.read._original import original
from raycluster.serve.body import ANSWERS, body, named
from raycluster.serve.rows import RowId
from raycluster.serve.visit import Visit, Visitor

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])


class Asked(BaseModel, extra="forbid"):
    """Which rows are wanted."""

    code: str | None = None
    stage: str | None = None
    run: str | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[str | None, Field(description="`next` of the page before")] = None


@router.get("/{name}")
def list_quarantine(visit: Visitor, name: str, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """List what could not be used. Only for who may see the whole dataset: filters on its rows find no columns here."""
    quarantine = _quarantine(visit, name)
    if asked.code is not None and asked.code not in QUARANTINE_CODES:
        raise InvalidUse(f"there is no code {asked.code!r}", where="code", fix=", ".join(QUARANTINE_CODES))
    chosen = [("stage", asked.stage), ("run_id", asked.run)]
    where = " AND ".join(f"{column} = {quoted(value)}" for column, value in chosen if value is not None)
    rows = quarantine.rows(asked.code, where=where or None, limit=asked.limit, after=asked.after)
    follows = place_of(rows[-1]) if len(rows) == asked.limit else None
    return {"dataset": name, "counts": quarantine.counts(), "rows": rows, "next": follows}


@router.get("/{name}/{id}/media", response_class=Response, responses=ANSWERS)
def show_bytes(request: Request, visit: Visitor, name: str, row: RowId) -> Response:
    """Return the bytes of an object that could not be used, as bytes: what they are, nobody could tell."""
    found = _quarantine(visit, name).rows(where=f"id = {quoted(row)}", limit=1)
    if not found:
        raise NotFound(f"the quarantine of {name!r} has no row {row!r}", fix=f"list them: GET /v1/quarantine/{name}")
    uri, version = found[0]["uri"], found[0]["object_id"]
    store, lies = original(uri, version, timeout=visit.context.settings.timeout)
    kind, disposition = named(None, uri)
    headers = {"ETag": f'"{version}"', "Content-Type": kind, "Content-Disposition": disposition}
    return body(store, lies, (request.method, request.headers), headers)


def _quarantine(visit: Visit, name: str) -> Quarantine:
    seen = visit.read(name, "latest")  # a dataset whose first run failed has no live version, but a quarantine
    if not seen.access.sees_everything:
        raise Forbidden(
            f"the quarantine of {name!r} is only for who may see all of it", fix="ask whoever writes the policy"
        )
    return visit.context.lake.quarantine(name)
