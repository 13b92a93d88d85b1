"""The metrics of all replicas, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from raycluster.serve.measure import merge
from raycluster.serve.visit import Visitor

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(visit: Visitor) -> Response:
    """Return the metrics of all replicas, as Prometheus reads them."""
    visit.see("metrics")
    return Response(merge(visit.context.metrics.gather()), media_type=CONTENT_TYPE_PLAIN_0_0_4)
