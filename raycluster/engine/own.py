"""A Ray of our own starts and works without what it has for clusters: a dashboard, an autoscaler, actors of Ray Data's.

Each is one more process of Python that imports for a second or two, most of them while `ray.init` or a pipeline's first
task waits. What is replaced here is the inside of Ray 2.60, which is pinned; `test_own` says which processes are left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any
from uuid import uuid4

# Units a worker: the one that it works on, and one that waits for it. Ray Data looks ten times a second at what has
# ended, and needs two looks for a task: without one that waits, a worker has nothing to do for 0.2 s after every unit.
QUEUED = 2

# Workers start when there is work for them, and not to have as many idle ones as cores (0.6 CPU-seconds each). They end
# when they were idle for so long: until then they are there for the next run, with what they have loaded.
IDLE_SECONDS = 300.0

# Of ray/_private/node.py. Nobody asks this Ray's dashboard, its autoscaler has nothing to scale, and its log monitor
# reads for drivers that want their workers' words, which `connect` does not.
_LEFT_OUT = ("start_api_server", "start_monitor", "start_log_monitor")


def settings() -> dict[str, Any]:
    """Return the options of `ray.init` for such a Ray."""
    workers = {"num_workers_soft_limit": 0, "idle_worker_killing_time_threshold_ms": round(IDLE_SECONDS * 1000)}
    return {
        "address": "local",
        "num_cpus": len(os.sched_getaffinity(0)),
        "include_dashboard": False,
        "_system_config": workers,
    }


@contextmanager
def lean() -> Iterator[None]:
    """Let `ray.init` start only what works: 2.5 CPU-seconds less, and a second sooner on two cores."""
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in _LEFT_OUT}
    for name in _LEFT_OUT:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in kept.items():
            setattr(Node, name, start)


def is_own() -> bool:
    """Tell whether the Ray that this process works on was started by it, `lean`: one node, nobody else's."""
    from ray._private import worker

    node: Any = worker._global_node
    return node is not None and bool(node.head) and node.webui_url is None


@cache  # once a process; what it replaces looks each time which Ray there is
def adapt() -> None:
    """Let Ray Data do without the actors for its dashboard and for its autoscaler, on a Ray of our own.

    Both import Ray Data (1.7 CPU-seconds each). A new dataset waits for the one, to get a number, and its first task
    for the other, to hear how many CPUs there are.
    """
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.stats import _StatsManager as Stats

    executor: Any = streaming_executor
    for name in ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics"):
        setattr(Stats, name, staticmethod(_elsewhere(getattr(Stats, name), lambda *_, **__: None)))
    numbered = _elsewhere(Stats.gen_dataset_id_from_stats_actor, lambda: uuid4().hex)
    Stats.gen_dataset_id_from_stats_actor = staticmethod(numbered)  # type: ignore[method-assign]
    executor.create_cluster_autoscaler = _elsewhere(executor.create_cluster_autoscaler, lambda *_, **__: _one_node())


def _elsewhere(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is Ray's own on a cluster, and ours on a Ray of our own."""

    @wraps(theirs)
    def chosen(*given: Any, **named: Any) -> Any:
        return (ours if is_own() else theirs)(*given, **named)

    return chosen


def _one_node() -> Any:
    """Return an autoscaler that scales nothing, and tells of so much room that a unit waits for each worker."""
    import ray
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution.interfaces import ExecutionResources

    there = ExecutionResources.from_resource_dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    room: ExecutionResources = there.copy(cpu=there.cpu * QUEUED, memory=there.memory * QUEUED)

    class OneNode(ClusterAutoscaler):
        def try_trigger_scaling(self) -> None:
            pass

        def on_executor_shutdown(self) -> None:
            pass

        def get_total_resources(self) -> ExecutionResources:
            return room

    return OneNode()
