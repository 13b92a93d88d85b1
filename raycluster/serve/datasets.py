"""A lake becomes the list of the datasets that somebody may read, and what they may know of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from raycluster.errors import NotFound
from raycluster.lake.overview import describe, overview
from raycluster.serve.context import Seen
from raycluster.serve.reply import reply
from raycluster.serve.visit import Visit, Visitor

router = APIRouter(tags=["datasets"])

Name = Annotated[str, Path(description="of a dataset", max_length=63)]


@router.get("/v1/datasets")
def datasets(visit: Visitor) -> JSONResponse:
    """List the datasets that you may read. `rows`: those that you may see."""
    visit.see("datasets")
    found = []
    for name in filter(visit.may_read, visit.context.lake.datasets()):
        try:
            found.append(overview(visit.context.lake, name, access=_seen(visit, name).access))
        except NotFound:  # gone since the names were listed
            continue
    return reply({"datasets": found})


@router.get("/v1/datasets/{name}")
def dataset(visit: Visitor, name: Name) -> JSONResponse:
    """Tell all about a dataset: rows by modality, columns, encoders, indexes, versions, what happened to it.

    Who may not see all of its rows and values learns how many rows they may see, and nothing that counts the others.
    """
    seen = _seen(visit, name)
    return reply(describe(visit.context.lake, name, access=seen.access))


def _seen(visit: Visit, name: str) -> Seen:
    """Let somebody read a dataset, also one of which no version is live yet."""
    try:
        return visit.read(name)
    except NotFound:
        return visit.read(name, "latest")
