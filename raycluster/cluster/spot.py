"""Node types that would hold the same work become one choice: spot first, on demand while spot cannot be had.

Ray's autoscaler asks `score` where `RAY_AUTOSCALER_UTILIZATION_SCORER` names it, and launches the type with the highest
answer. Its own answer takes no notice of refused launches, though Ray keeps a record of them for half an hour: it would
ask for the same type for ever. So does version 2 of the autoscaler, which has no such place to answer in, and notes
only nodes that came and did not start (Ray 2.60, cloud_resource_monitor.py). Delete when version 2 notes refused ones.
"""

from __future__ import annotations

from typing import Any

SPOT = "spot"  # how the name of a node type ends whose nodes are spot: of a type, Ray tells its name only


def score(
    node_resources: dict[str, Any],
    resources: list[dict[str, Any]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """Return how well a node of this type would serve what waits, in the order of tuples; None where it could not.

    No GPU for work that needs none, as Ray has it; then what was not refused lately; then Ray's own measure of fit.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer

    usual = _resource_based_utilization_scorer(
        node_resources, resources, node_availability_summary=node_availability_summary
    )
    if usual is None:
        return None
    spares_gpus, *fit = usual
    record = node_availability_summary.node_availabilities.get(node_type)
    return spares_gpus, record is None or record.is_available, *fit, node_type.endswith(SPOT)
