"""The bill over HTTP: the document of `raycluster costs --json`, made by the same question and the same sums.

What nodes have told lies in the lake's inbox until somebody settles it. Requests do not wait for that, and one that
reads should not write: it is done beside them, at most once a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from raycluster.account.bill import make_bill
from raycluster.account.question import DEFAULT_BY, ask, filters, keys
from raycluster.errors import InvalidUse
from raycluster.serve.spent import settler
from raycluster.serve.visit import Visitor

router = APIRouter(prefix="/v1/costs", tags=["costs"])


class Asked(BaseModel, extra="forbid"):
    """What is asked of the bill, in the words of `raycluster costs`."""

    by: str = ",".join(DEFAULT_BY)
    run: str | None = None
    since: str | None = None
    until: str | None = None
    only: list[str] = []


@router.get("")
def costs(visit: Visitor, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """Say what was paid for what."""
    visit.see("costs")
    lake = visit.context.lake
    settler(lake).nudge()
    only = [*asked.only, *([f"run={asked.run}"] if asked.run else [])]
    with _blaming("by"):
        keys(asked.by)
    with _blaming("only"):
        filters(only)
    with _blaming("since"):
        ask(since=asked.since)
    with _blaming("until"):
        question = ask(by=asked.by, only=only, since=asked.since, until=asked.until)
    return make_bill(lake.ledger(), question).document


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    """Say which field is wrong; a key that there is none of is a wrong request, not a thing that is missing."""
    try:
        yield
    except InvalidUse as error:
        raise InvalidUse(error.message, fix=error.fix, where=field) from error
