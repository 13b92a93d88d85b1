"""Work becomes a trace: a span where one is asked for, below the one under way, across processes and Ray's calls too.

Spans go out over OTLP where the standard variables name an endpoint (`telemetry.py`); otherwise a span is one look at a
variable, and nothing of OpenTelemetry is imported. Names, counts and times only: nothing of what is worked on.

A run (`begin`) is one trace: its workers' units of work lie below its span, and so does what Ray submits in threads of
its own, which know of no span under way. Ray's own tasks and actor calls are spans too where a cluster is started with
`ray start --head --tracing-startup-hook=raycluster.account.tracing:setup`; docs/monitoring.md says what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from raycluster import __version__
from raycluster.account import telemetry
from raycluster.lake.runs import Run

_NOTHING: AbstractContextManager[Any] = nullcontext()
# What an error says may quote what somebody asked for or sent; it is in the answer, or in the quarantine.
SILENT: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}


class _Process:
    """What this process does as a whole: the run that it drives, or works for."""

    above: Any = None  # context of its span


@cache
def provider() -> Any | None:
    """Return what sends this process's spans, or None."""
    return telemetry.traces()


@cache
def tracer() -> Any | None:
    """Return what makes this process's spans, or None."""
    made = provider()
    return made and made.get_tracer("raycluster", __version__)


def begin(run: Run, labels: Mapping[str, str]) -> telemetry.Trace | None:
    """Open the span of a run that this process drives: `telemetry.report` ends it, or nobody where there is no end."""
    trace = telemetry.Trace.of(run, labels)
    _Process.above = trace and trace.context
    return trace


def join(carried: Mapping[str, str] | None) -> None:
    """Let all that this process does lie below the run whose driver has carried this here."""
    if carried and tracer() is not None:
        _Process.above = propagator().extract(carried)


def end() -> None:
    """Let what this process does next be of no run."""
    _Process.above = None


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Return a context in which a span of that name is under way, below the one that is now; yields it, or None."""
    return _NOTHING if tracer() is None else _started(name, _above(), attributes)


def carry() -> dict[str, str]:
    """Return what lets another process go on with this trace: hand it over with the call, to `resume`."""
    carried: dict[str, str] = {}
    if tracer() is not None:
        propagator().inject(carried, _above())
    return carried


def resume(carried: Mapping[str, str], name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Return a context as `span` does, below the span that another process was in when it carried this here."""
    return _NOTHING if tracer() is None else _started(name, propagator().extract(carried), attributes)


def _started(name: str, above: Any, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
    known = {f"raycluster.{key}": value for key, value in attributes.items() if value is not None}
    maker: Any = tracer()
    found: AbstractContextManager[Any] = maker.start_as_current_span(name, above, attributes=known, **SILENT)
    return found


def _above() -> Any:
    """Return the context for a new span: the present one, or where there is none that of the run; None: the present."""
    from opentelemetry import trace

    return None if trace.get_current_span().get_span_context().is_valid else _Process.above


def flush() -> None:
    """Send what has gathered, as a process does before it ends."""
    if (sender := provider()) is not None:
        sender.force_flush()


def propagator() -> Any:
    """Return what writes and reads W3C's `traceparent`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def setup() -> None:
    """Trace Ray's calls in this process; Ray calls this in every driver and worker of a cluster started with it."""
    from opentelemetry import trace
    from ray.util.tracing import tracing_helper

    sender: Any = provider()
    if sender is None:  # its spans would go nowhere, and cost as much
        tracing_helper._global_is_tracing_enabled = False
        return

    class Tracers(trace.TracerProvider):
        def get_tracer(self, *given: Any, **named: Any) -> trace.Tracer:
            return Tracer(sender.get_tracer(*given, **named))

    class Tracer(trace.Tracer):
        """One whose spans have the run above them where a thread of Ray Data's knows of none."""

        def __init__(self, inner: trace.Tracer) -> None:
            self.inner = inner

        def start_span(self, name: str, context: Any = None, *rest: Any, **named: Any) -> trace.Span:
            return self.inner.start_span(name, context or _above(), *rest, **named)

        def start_as_current_span(self, name: str, context: Any = None, *rest: Any, **named: Any) -> Any:
            return self.inner.start_as_current_span(name, context or _above(), *rest, **named)

    trace.set_tracer_provider(Tracers())
