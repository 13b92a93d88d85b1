"""Runs, past and present: what the lake's list knows of each, and how far its driver has told it has come."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from raycluster.errors import Forbidden, NotFound
from raycluster.lake.lake import Lake
from raycluster.lake.progress import is_stale
from raycluster.lake.runs import Run, Status
from raycluster.serve.visit import Visitor

router = APIRouter(prefix="/v1/runs", tags=["runs"])


class Asked(BaseModel, extra="forbid"):
    """Which runs are wanted."""

    dataset: str | None = None
    workload: str | None = None
    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


@router.get("")
def list_runs(visit: Visitor, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """List runs, newest first: those of datasets that the principal may read."""
    visit.see("runs")
    lake = visit.context.lake
    found = lake.runs().recent(asked.dataset, workload=asked.workload, status=asked.status, limit=None)
    readable = {name for name in {one.dataset for one in found} if visit.may_read(name)}
    shown = [one for one in found if one.dataset in readable][: asked.limit]
    whole = {name for name in {one.dataset for one in shown} if visit.sees_all_of(name)}
    return {"runs": [describe(lake, one, whole=one.dataset in whole) for one in shown]}


@router.get("/{run_id}")
def show_run(visit: Visitor, run_id: str) -> dict[str, Any]:
    """Show one run; while it goes on, with how far it is."""
    visit.see("runs", run_id)
    lake = visit.context.lake
    try:
        run = lake.runs().get(run_id)
    except NotFound:  # the lake would name the run that is called most alike, of whatever dataset
        raise NotFound(f"there is no run {run_id!r}", fix="list them: GET /v1/runs") from None
    if not visit.may_read(run.dataset):
        raise Forbidden(f"run {run_id} is of a dataset that {visit.principal.subject} may not read")
    return describe(lake, run, whole=visit.sees_all_of(run.dataset))


def describe(lake: Lake, run: Run, *, whole: bool) -> dict[str, Any]:
    """Return what is known of a run; `stale` where it says that it is running and its driver is silent.

    `whole`: with its sums, which tell of rows that not everybody may see.
    """
    told = lake.progress().get(run.run_id) if run.status == "running" else None
    known = {**asdict(run), "progress": told, "stale": is_stale(run, told)}
    return known if whole else known | {"summary": {}, "progress": None}
