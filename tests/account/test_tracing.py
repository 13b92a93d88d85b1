"""A run as one trace: what lies below it, in which process and thread it may be; tests/test_monitoring.py has Ray's."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import pytest
from otlp import plain, receiving

from raycluster.account import telemetry, tracing
from raycluster.lake.ledger import COSTS
from raycluster.lake.runs import Run

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RUN = Run(run_id="run-1", workload="clips", dataset="d", status="running", started_at=datetime.now(UTC))


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Let each test's environment be looked at anew."""
    for name in [name for name in os.environ if name.startswith("OTEL_") or name in ("TRACEPARENT", "TRACESTATE")]:
        monkeypatch.delenv(name)
    tracing.provider.cache_clear()
    tracing.tracer.cache_clear()
    yield
    tracing.end()
    if (provider := tracing.provider()) is not None:
        provider.shutdown()
    tracing.provider.cache_clear()
    tracing.tracer.cache_clear()


@pytest.fixture
def receiver(monkeypatch):
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def finish(trace):
    telemetry.report(COSTS.empty_table(), Run(**(vars(RUN) | {"status": "failed"})), trace)
    tracing.flush()


def test_all_that_a_driver_does_lies_below_its_run_whatever_thread_does_it(receiver):
    trace = tracing.begin(RUN, {"team": "vision"})

    def work():
        with tracing.span("outer", rows=3), tracing.span("inner"):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    tracing.end()
    with tracing.span("later"):
        pass
    finish(trace)
    (root,), (outer,), (inner,), (later,) = map(receiver.named, ("raycluster.run", "outer", "inner", "later"))
    told = plain(root.attributes)
    assert {"raycluster.run.id": "run-1", "raycluster.workload": "clips", "raycluster.team": "vision"}.items() <= (
        told.items()
    )
    assert told["raycluster.status"] == "failed"
    assert root.parent_span_id == b""
    assert (outer.trace_id, outer.parent_span_id) == (root.trace_id, root.span_id)
    assert inner.parent_span_id == outer.span_id
    assert (later.trace_id != root.trace_id, later.parent_span_id) == (True, b"")
    assert root.start_time_unix_nano <= outer.start_time_unix_nano <= root.end_time_unix_nano


def test_workers_join_the_run_by_what_its_driver_hands_them(receiver):
    trace = tracing.begin(RUN, {})
    carried = tracing.carry()
    tracing.end()  # as another process, that knows nothing
    tracing.join(carried)
    with tracing.span("pool 1", **{"run.id": "run-1"}):
        pass
    finish(trace)
    (root,), (pool,) = map(receiver.named, ("raycluster.run", "pool 1"))
    assert (pool.trace_id, pool.parent_span_id) == (root.trace_id, root.span_id)
    assert plain(pool.attributes) == {"raycluster.run.id": "run-1"}


@pytest.mark.parametrize(("given", "lies_below"), [(f"00-{TRACE}-{ABOVE}-01", True), ("nonsense", False)])
def test_a_run_lies_below_the_trace_of_who_has_started_it(receiver, monkeypatch, given, lies_below):
    monkeypatch.setenv("TRACEPARENT", given)
    finish(tracing.begin(RUN, {}))
    (root,) = receiver.named("raycluster.run")
    assert ((root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, ABOVE)) == lies_below


def test_who_asks_not_to_be_traced_is_not(receiver, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{ABOVE}-00")
    trace = tracing.begin(RUN, {})
    with tracing.span("work"):
        tracing.join(tracing.carry())
    with tracing.span("more"):
        pass
    finish(trace)
    assert receiver.spans == []


def test_without_an_endpoint_there_is_no_trace_and_rays_own_tracing_is_off(monkeypatch):
    from opentelemetry import trace
    from ray.util.tracing import tracing_helper

    monkeypatch.setattr(tracing_helper, "_global_is_tracing_enabled", True)  # as Ray does before it calls the hook
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: pytest.fail("somebody is traced"))
    tracing.setup()
    assert not tracing_helper._is_tracing_enabled()
    assert tracing.begin(RUN, {}) is None
    tracing.join(None)
    tracing.join({"traceparent": f"00-{TRACE}-{ABOVE}-01"})
    with tracing.span("x") as own:
        assert (own, tracing.carry()) == (None, {})
