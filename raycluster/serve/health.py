"""Whether a replica is alive, and whether it can answer: two questions, of who restarts it and who sends requests."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from raycluster import __version__
from raycluster.lake.follow import Follower
from raycluster.lake.lake import Lake
from raycluster.serve.context import Context
from raycluster.serve.seldom import Seldom

router = APIRouter(tags=["health"])

_PATIENCE_SECONDS = 1.0
_STUCK_SECONDS = 60.0  # a round over all datasets takes as long as the store does; this is far beyond


@router.get("/healthz")
async def healthz() -> dict[str, Any]:
    """Tell that this replica lives. It asks nobody and waits for nothing: restarting would not mend a lake."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz")
def readyz(request: Request) -> JSONResponse:
    """Tell whether this replica can answer, and what is in the way. Asks no credentials and tells no names."""
    context: Context = request.app.state.context
    reasons = _reasons(context)
    status = "not ready" if reasons else "ok"
    body = {"status": status, "version": __version__, "reasons": reasons}
    return JSONResponse(body, status_code=503 if reasons else 200)


def _reasons(context: Context) -> list[str]:
    found = []
    if not _glance(context.lake).nudge(_PATIENCE_SECONDS):
        found.append("the lake does not answer; the server's log says more")
    if _is_stuck(context.follower):
        found.append("nobody looks for new versions any more")
    return found


def _is_stuck(follower: Follower) -> bool:
    return time.monotonic() - follower.looked > max(_STUCK_SECONDS, 10 * follower.every)


@cache
def _glance(lake: Lake) -> Seldom:
    """Return a look at the lake that many may ask for at a time, and that hangs alone where the lake hangs."""
    return Seldom(lambda: lake.datasets(), every=_PATIENCE_SECONDS)
