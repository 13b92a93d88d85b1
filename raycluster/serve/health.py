"""Whether this replica is alive, and whether it can answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from raycluster import __version__

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz(request: Request) -> dict[str, Any]:
    """Tell that this replica answers, and for how many datasets. Asks no credentials and tells no names."""
    context = request.app.state.context
    return {"status": "ok", "version": __version__, "datasets": len(context.lake.datasets())}
