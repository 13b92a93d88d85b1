"""A run's bill becomes OpenTelemetry: metrics of what was used and paid, and a span of the run with one for each stage.

At the end of a run, over OTLP, where the standard variables name an endpoint (OTEL_EXPORTER_OTLP_ENDPOINT, or that of a
signal); otherwise nothing is imported, made or sent. Metrics carry labels of which there are few: never the id of a run
nor a uri, each of which would be a new time series for good. The id is on the spans, which are one a run and one a
stage, never one a row or a task.

A run reports once, so its sums are deltas over the time from its start to its end, and what several runs send adds up;
unless OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE asks for cumulative ones, which begin anew with every run. An
endpoint that is down costs a warning and a few seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycluster import __version__
from raycluster.errors import InvalidUse, RayclusterError
from raycluster.lake.runs import Run
from raycluster.stage import need

_LABELS = ("team", "project", "environment", "workload", "stage", "modality", "outcome", "kind")
# What is summed: its name, its column, and its unit (UCUM, as OpenTelemetry writes units).
_SUMS = (
    ("raycluster.cpu.time", "cpu_seconds", "s"),
    ("raycluster.gpu.time", "gpu_seconds", "s"),
    ("raycluster.cost", "nanousd", "{USD}"),
    ("raycluster.rows.in", "rows_in", "{row}"),
    ("raycluster.rows.out", "rows_out", "{row}"),
    ("raycluster.bytes.read", "bytes_read", "By"),
    ("raycluster.bytes.written", "bytes_written", "By"),
)
# A stage may be named by Ray's name of a task, which a program can make up anew for each. The costliest keep theirs.
_STAGES = 50
_OTHER_STAGES = "(other)"

_TIMEOUT_SECONDS = 3.0  # for a signal, with retries, where no OTEL_EXPORTER_OTLP_TIMEOUT says otherwise
_PATIENCE_SECONDS = 5.0  # for both: resolving a name may take longer than any timeout
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_PROTOCOL = "http/protobuf"
_SCOPE = "raycluster.account"

_log = logging.getLogger(__name__)


def is_wanted() -> bool:
    """Say whether the environment names somebody to report to, for whom costs would have to be read."""
    return bool(_signals())


def traces() -> Any | None:
    """Return a tracer provider that sends spans in batches to the environment's endpoint; None where there is none.

    Where what is asked for cannot be done, that is a warning.
    """
    if not _can_trace():
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_timeout("traces"))))
    return provider


class Trace:
    """The span of a run that goes on, by which others lie below it; `report` ends it."""

    def __init__(self, run: Run, labels: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.made = InMemorySpanExporter()  # sent together, once
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.made))
        self.tracer = provider.get_tracer(_SCOPE, __version__)
        # Whoever has started this process, as `submit` or a scheduler, may have a trace of its own.
        given = {name: os.environ.get(name.upper(), "") for name in ("traceparent", "tracestate")}
        above = TraceContextTextMapPropagator().extract(given)
        facts = {"run.id": run.run_id, "workload": run.workload, "dataset": run.dataset, **labels}
        attributes = {f"raycluster.{name}": value for name, value in facts.items()}
        self.root = self.tracer.start_span("raycluster.run", above, start_time=_lifetime(run)[0], attributes=attributes)
        self.context = trace.set_span_in_context(self.root)

    @classmethod
    def of(cls, run: Run, labels: Mapping[str, str]) -> Trace | None:
        """Begin the span of a run, where the environment asks for it and it can be done."""
        return cls(run, labels) if _can_trace() else None


def report(costs: pa.Table, run: Run, trace: Trace | None = None) -> None:
    """Send what a run has cost, lines of the ledger's COSTS, to the endpoint of the environment, if there is one.

    Without the `trace` that was begun with it, the run's span is made now. It never raises for what goes wrong on the
    way: that is a warning.
    """
    wanted = [signal for signal in _signals() if signal == "traces" or costs.num_rows]
    if not wanted:
        return
    try:
        _require_exporter(wanted)
    except RayclusterError as missing:
        _log.warning("the run is not reported to OpenTelemetry: %s; fix: %s", missing.message, missing.fix)
        return
    told = _few_stages(costs)
    makers: dict[str, Callable[[pa.Table, Run], None]] = {
        "metrics": _send_metrics,
        "traces": partial(_send_spans, trace=trace),
    }
    with _overheard() as said:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        threads = [_started(makers[signal], told, run, said) for signal in wanted]
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        late = any(thread.is_alive() for thread in threads)
    if late:
        said.append(f"no answer within {_PATIENCE_SECONDS:.0f} s")
    if said:
        _log.warning("the run is not, or not all, reported to OpenTelemetry: %s", " ".join(said[-1].split()))


def _signals() -> list[str]:
    """Return what is to be sent: metrics, traces, both or nothing."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    found = []
    for signal in ("metrics", "traces"):
        exporters = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
        if _variable(signal, "ENDPOINT") and "otlp" in exporters.split(","):
            found.append(signal)
    return found


def _can_trace() -> bool:
    if "traces" not in _signals():
        return False
    try:
        _require_exporter(["traces"])
    except RayclusterError as missing:
        _log.warning("nothing is traced: %s; fix: %s", missing.message, missing.fix)
        return False
    return True


def _variable(signal: str, name: str) -> str:
    """Return a variable of a signal, or that of all; one that is empty counts as not set."""
    of_signal = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}")
    return of_signal or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")


def _require_exporter(signals: list[str]) -> None:
    """Look whether what is wanted can be done.

    Raises:
        InvalidUse: another protocol is asked for.
        MissingPackage: the exporter is not installed.
    """
    for signal in signals:
        protocol = _variable(signal, "PROTOCOL") or _PROTOCOL
        if protocol != _PROTOCOL:
            raise InvalidUse(f"it cannot speak {protocol}", fix=f"set OTEL_EXPORTER_OTLP_PROTOCOL to {_PROTOCOL}")
    need(_EXPORTER, '"raycluster[otlp]"')


def _few_stages(costs: pa.Table) -> pa.Table:
    """Return the costs with all stages as one but the costliest, and with those that are named by a uri in it too."""
    by_stage = costs.group_by("stage").aggregate([("nanousd", "sum")]).sort_by([("nanousd_sum", "descending")])
    names = [name for name in by_stage["stage"].to_pylist() if name is not None]
    kept = [name for name in names if "://" not in name][:_STAGES]
    if len(names) == len(kept):
        return costs
    is_kept = pc.or_(pc.is_in(costs["stage"], pa.array(kept, pa.string())), pc.is_null(costs["stage"]))
    stages = pc.if_else(is_kept, costs["stage"], _OTHER_STAGES)
    return costs.set_column(costs.column_names.index("stage"), "stage", stages)


def _started(send: Callable[[pa.Table, Run], None], costs: pa.Table, run: Run, said: list[str]) -> threading.Thread:
    def work() -> None:
        try:
            send(costs, run)
        except Exception as error:  # noqa: BLE001 - reporting must not end a run, whatever the packages raise
            said.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=work, name="raycluster-telemetry", daemon=True)
    thread.start()
    return thread


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect the errors that the exporter logs, which would be several lines on the screen."""
    said: list[str] = []
    logger = logging.getLogger("opentelemetry.exporter.otlp")
    handler = _Listener(said)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said
        self.retried = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep errors; a warning is of a try that is followed by another, and says why better than the last error."""
        if record.levelno < logging.ERROR:
            self.retried = f" ({record.getMessage()})"
        else:
            self.said.append(record.getMessage() + self.retried)


def _timeout(signal: str) -> float | None:
    return None if _variable(signal, "TIMEOUT") else _TIMEOUT_SECONDS  # None: the exporter reads the variable


def _resource() -> Any:
    """Return who reports; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count for more."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = {"service.name": "raycluster", "service.version": __version__}
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


def _send_metrics(costs: pa.Table, run: Run) -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    groups = costs.group_by(list(_LABELS)).aggregate([(column, "sum") for _, column, _ in _SUMS]).to_pylist()
    start, end = _lifetime(run)
    asked = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().upper()
    temporality = export.AggregationTemporality["CUMULATIVE" if asked == "CUMULATIVE" else "DELTA"]
    metrics = []
    for name, column, unit in _SUMS:
        points = [
            export.NumberDataPoint(_labels(group), start, end, _amount(column, group))
            for group in groups
            if _amount(column, group)
        ]
        metrics.append(export.Metric(name, "", unit, export.Sum(points, temporality, is_monotonic=True)))
    scope = export.ScopeMetrics(InstrumentationScope(_SCOPE, __version__), metrics, "")
    sent = export.MetricsData([export.ResourceMetrics(_resource(), [scope], "")])
    exporter = OTLPMetricExporter(timeout=_timeout("metrics"))
    exporter.export(sent)
    exporter.shutdown()


def _labels(group: dict[str, Any]) -> dict[str, str]:
    return {name: group[name] for name in _LABELS if group[name]}


def _amount(column: str, group: dict[str, Any]) -> float | int:
    """Return a sum; money in dollars."""
    total: float | int = group[f"{column}_sum"] or 0
    return total / 1e9 if column == "nanousd" else total


def _send_spans(costs: pa.Table, run: Run, trace: Trace | None) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    trace = trace or Trace(run, {})
    _complete(trace, costs, run)
    spans = trace.made.get_finished_spans()
    if spans:  # a sampler may want none
        exporter: Any = OTLPSpanExporter(timeout=_timeout("traces"))
        exporter.export(spans)
        exporter.shutdown()


def _complete(trace: Trace, costs: pa.Table, run: Run) -> None:
    """End the span of the run, and make those of its stages, each as long as the windows that it has lines in."""
    from opentelemetry.trace import Status, StatusCode

    start, end = _lifetime(run)
    sums = [(column, "sum") for _, column, _ in _SUMS]
    (whole,) = costs.group_by([]).aggregate(sums).to_pylist()
    trace.root.set_attributes({"raycluster.status": run.status, **_totals(whole)})
    if run.status == "failed":
        trace.root.set_status(Status(StatusCode.ERROR))
    times = [("started_at", "min"), ("ended_at", "max")]
    for stage in costs.group_by("stage").aggregate([*sums, *times]).to_pylist():
        if stage["stage"] is None:  # of the run as a whole: its share of idle nodes, Ray's daemons
            continue
        began = min(max(_nanoseconds(stage["started_at_min"]), start), end)
        ended = max(min(_nanoseconds(stage["ended_at_max"]), end), began)
        named = {"raycluster.run.id": run.run_id, "raycluster.stage": stage["stage"], **_totals(stage)}
        span = trace.tracer.start_span(f"stage {stage['stage']}", trace.context, start_time=began, attributes=named)
        span.end(ended)
    trace.root.end(end)


def _totals(group: dict[str, Any]) -> dict[str, float | int]:
    return {name: _amount(column, group) for name, column, _ in _SUMS}


def _lifetime(run: Run) -> tuple[int, int]:
    return _nanoseconds(run.started_at), _nanoseconds(run.finished_at or datetime.now(UTC))


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
