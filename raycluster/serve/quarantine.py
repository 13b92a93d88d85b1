"""What could not be used of a dataset, newest first, page by page, with how often each reason comes up."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from raycluster.errors import QUARANTINE_CODES, Forbidden, InvalidUse
from raycluster.lake.quarantine import place_of
from raycluster.lake.sql import quoted
from raycluster.serve.visit import Visitor

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
    seen = visit.read(name, "latest")  # a dataset whose first run failed has no live version, but a quarantine
    if not seen.access.sees_everything:
        raise Forbidden(
            f"the quarantine of {name!r} is only for who may see all of it", fix="ask whoever writes the policy"
        )
    if asked.code is not None and asked.code not in QUARANTINE_CODES:
        raise InvalidUse(f"there is no code {asked.code!r}", where="code", fix=", ".join(QUARANTINE_CODES))
    quarantine = visit.context.lake.quarantine(name)
    chosen = [("stage", asked.stage), ("run_id", asked.run)]
    where = " AND ".join(f"{column} = {quoted(value)}" for column, value in chosen if value is not None)
    rows = quarantine.rows(asked.code, where=where or None, limit=asked.limit, after=asked.after)
    follows = place_of(rows[-1]) if len(rows) == asked.limit else None
    return {"dataset": name, "counts": quarantine.counts(), "rows": rows, "next": follows}
