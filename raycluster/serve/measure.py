"""What a replica does and sees becomes Prometheus metrics, and those of several replicas one page.

Each replica has a registry of its own; a sample of the page says in its label `replica` whose it is. Labels take their
values from short lists: groups of endpoints, datasets, workloads, codes; never from a path, an id or what was sent.
What is said of the lake (`figures.py`) is looked up at most every few seconds, however often it is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycluster.govern.gate import Gate
from raycluster.lake.follow import Follower
from raycluster.lake.lake import Lake
from raycluster.serve.figures import Figures

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_REQUESTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
_DECISIONS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2)  # seconds
_OWN = "local"  # the replica of a process that serves alone

_log = logging.getLogger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each, which nobody asks for


class Metrics:
    """The metrics of one replica."""

    def __init__(self, lake: Lake, follower: Follower) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Figures(lake, follower))
        # Who else serves: a replica among several is given how to ask all of them, text by replica.
        self.gather: Callable[[], Mapping[str, str]] = lambda: {_OWN: self.snapshot()}
        self.requests = Counter(
            "raycluster_http_requests", "Requests answered.", ["group", "method", "status"], registry=self.registry
        )
        self.request_seconds = self._histogram("http_request", "From a request's head to its answer's end.", "group")
        self.search_seconds = self._histogram("search", "Answering a question, once it is a vector.", "dataset", "mode")
        self.embed_seconds = self._histogram("embed", "Making a vector of a question.", "kind")
        self.decision_seconds = Histogram(
            "raycluster_decision_seconds", "Asking the policy.", registry=self.registry, buckets=_DECISIONS
        )
        self.gate_problems = Gauge(
            "raycluster_gate_problems",
            "Policies, keys, tokens and logs that are not in force or not written as they should be.",
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def watch(self, gate: Gate) -> None:
        """Take the time of a gate's decisions, and count what is wrong with it."""
        gate.told = self.decision_seconds.observe
        self.gate_problems.set_function(lambda: len(gate.problems()))

    def _histogram(self, name: str, says: str, *labels: str) -> Histogram:
        return Histogram(f"raycluster_{name}_seconds", says, labels, registry=self.registry, buckets=_REQUESTS)

    def of_requests(self, group: str, method: str, status: int) -> tuple[Counter, Histogram]:
        """Return what counts requests of one kind, and what takes their time."""
        return self.requests.labels(group, method, str(status)), self.request_seconds.labels(group)

    def snapshot(self) -> str:
        """Return this replica's metrics, as text."""
        return generate_latest(self.registry).decode()


class _Collected:
    """Families that are there already, in the form that is written as text."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self.families


def merge(texts: Mapping[str, str]) -> str:
    """Return the metrics of replicas as one text, each sample with the label `replica`.

    What one replica says that is no such text (it died while it spoke) is left out.
    """
    merged: dict[str, Metric] = {}
    for replica, text in sorted(texts.items()):
        try:
            families = list(text_string_to_metric_families(text))
        except ValueError as error:
            _log.warning("what replica %s says of itself is left out: %s", replica, error)
            continue
        for family in families:
            whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [one._replace(labels={**one.labels, "replica": replica}) for one in family.samples]
    collected: Any = _Collected(merged.values())
    return generate_latest(collected).decode()


class Measured:
    """Counts requests and takes their time, around all else: what is refused unread counts too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._told = app, cache(metrics.of_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what became of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500  # whoever raises has the server answer so

        async def listen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, listen)
        finally:
            group = group_of(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            count, seconds = self._told(group, method, status)
            count.inc()
            seconds.observe(time.perf_counter() - started)


def group_of(scope: Scope) -> str:
    """Return to which group of endpoints a request went, once it has been routed; `none` where to none."""
    tags = getattr(scope.get("route"), "tags", None)
    return str(tags[0]) if tags else "none"
