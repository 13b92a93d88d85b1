"""A run's bill as OpenTelemetry: what a receiver gets over the wire, and what a run pays where there is none."""

import gzip
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pyarrow as pa
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from raycluster import __version__
from raycluster.account import telemetry
from raycluster.account.telemetry import is_wanted, report
from raycluster.lake.ledger import COSTS
from raycluster.lake.runs import Run

START = datetime(2026, 11, 20, 12, 0, 5, tzinfo=UTC)
END = START + timedelta(seconds=90)
RUN = Run(run_id="run-1", workload="clips", dataset="clips", status="done", started_at=START, finished_at=END)
LABELS = {"team", "project", "environment", "workload", "stage", "modality", "outcome", "kind"}


def line(name, stage, minute=0, **known):
    whole = dict.fromkeys(COSTS.names) | {
        "id": name,
        "usage_id": f"usage-{name}",
        "prices": "local@1",
        "cluster": "c1",
        "node": "n1",
        "started_at": START.replace(second=0) + timedelta(minutes=minute),
        "ended_at": START.replace(second=0) + timedelta(minutes=minute + 1),
        "kind": "task",
        "run_id": "run-1",
        "workload": "clips",
        "stage": stage,
        "team": "vision",
        "outcome": "ok",
        "is_shared": False,
        "nanousd": 0,
    }
    return whole | known


LINES = [
    line("a", "decode", cpu_seconds=1.5, gpu_seconds=0.25, nanousd=1_000_000, rows_in=2, rows_out=30, bytes_read=100),
    line("b", "decode", minute=1, cpu_seconds=2.0, nanousd=2_000_001, rows_in=1, rows_out=10),
    line("c", "decode", cpu_seconds=0.5, nanousd=7, outcome="failed"),
    line("d", "encode", minute=1, cpu_seconds=4.0, nanousd=4_000_000, bytes_written=50),
    line("e", None, kind="idle", outcome=None, is_shared=True, cpu_seconds=0.0, nanousd=500),
]


def costs(*lines):
    return pa.Table.from_pylist(list(lines), COSTS)


@pytest.fixture
def receiver(monkeypatch):
    """Return an OTLP receiver over HTTP, to which the environment points; `got` holds what came, by its path."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            got.append((self.path, self.headers, body))
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found = SimpleNamespace(got=got, status=200, url=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def free_port():
    """Return a port at which nobody listens."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def metrics(receiver):
    (body,) = (body for path, _, body in receiver.got if path == "/v1/metrics")
    (of_resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    (scope,) = of_resource.scope_metrics
    return plain(of_resource.resource.attributes), {one.name: one for one in scope.metrics}


def spans(receiver):
    (body,) = (body for path, _, body in receiver.got if path == "/v1/traces")
    (of_resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (scope,) = of_resource.scope_spans
    return plain(of_resource.resource.attributes), {one.name: one for one in scope.spans}


def nanoseconds(moment):
    return round(moment.timestamp()) * 10**9


def amounts(metric):
    """Return a metric's value by stage and outcome."""
    labels = [plain(point.attributes) for point in metric.sum.data_points]
    values = [point.as_double or point.as_int for point in metric.sum.data_points]
    return {(one.get("stage"), one.get("outcome")): value for one, value in zip(labels, values, strict=True)}


def test_metrics_are_sums_by_label(receiver):
    report(costs(*LINES), RUN)
    resource, found = metrics(receiver)
    assert (resource["service.name"], resource["service.version"]) == ("raycluster", __version__)
    assert {name: amounts(metric) for name, metric in found.items()} == {
        "raycluster.cpu.time": {("decode", "ok"): 3.5, ("decode", "failed"): 0.5, ("encode", "ok"): 4.0},
        "raycluster.gpu.time": {("decode", "ok"): 0.25},
        "raycluster.cost": {
            ("decode", "ok"): pytest.approx(0.003000001, abs=1e-12),
            ("decode", "failed"): pytest.approx(7e-9, abs=1e-12),
            ("encode", "ok"): pytest.approx(0.004, abs=1e-12),
            (None, None): pytest.approx(5e-7, abs=1e-12),
        },
        "raycluster.rows.in": {("decode", "ok"): 3},
        "raycluster.rows.out": {("decode", "ok"): 40},
        "raycluster.bytes.read": {("decode", "ok"): 100},
        "raycluster.bytes.written": {("encode", "ok"): 50},
    }
    assert {name: metric.unit for name, metric in found.items() if name.count(".") == 1} == {"raycluster.cost": "{USD}"}
    for metric in found.values():
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        for point in metric.sum.data_points:
            assert (point.start_time_unix_nano, point.time_unix_nano) == (nanoseconds(START), nanoseconds(END))


def test_labels_are_few(receiver):
    """However many lines, runs, datasets and names of tasks there are, series are not more."""
    lines = [
        line(str(number), f"task-{number}", run_id=f"run-{number}", dataset=f"s3://bucket/{number}", nanousd=number + 1)
        for number in range(500)
    ]
    report(costs(*lines, line("none", None, nanousd=1), line("uri", "s3://bucket/a", nanousd=10**6)), RUN)
    _, found = metrics(receiver)
    points = [plain(point.attributes) for point in found["raycluster.cost"].sum.data_points]
    assert len(points) == 52
    assert set().union(*points) <= LABELS
    assert {"task-499", "task-450", "(other)"} <= {one.get("stage") for one in points}
    assert amounts(found["raycluster.cost"])["(other)", "ok"] == pytest.approx((sum(range(1, 451)) + 10**6) / 1e9)
    text = b"".join(body for _, _, body in receiver.got)
    assert b"s3://" not in text
    assert b"run-7" not in text
    assert len(spans(receiver)[1]) == 52


def test_a_span_of_the_run_and_one_for_each_stage(receiver):
    report(costs(*LINES), RUN)
    resource, found = spans(receiver)
    assert (resource["service.name"], resource["service.version"]) == ("raycluster", __version__)
    assert set(found) == {"raycluster.run", "stage decode", "stage encode"}
    root, decode, encode = (found[name] for name in ("raycluster.run", "stage decode", "stage encode"))
    assert root.parent_span_id == b""
    for span in (decode, encode):
        assert (span.parent_span_id, span.trace_id) == (root.span_id, root.trace_id)
        assert plain(span.attributes)["raycluster.run.id"] == "run-1"
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (nanoseconds(START), nanoseconds(END))
    assert root.status.code == Status.STATUS_CODE_UNSET
    told = plain(root.attributes)
    assert (told["raycluster.run.id"], told["raycluster.dataset"], told["raycluster.status"]) == (
        "run-1",
        "clips",
        "done",
    )
    assert told["raycluster.cost"] == pytest.approx(0.007000508, abs=1e-12)  # what is no stage's is the run's
    assert plain(decode.attributes)["raycluster.cpu.time"] == 4.0
    assert plain(decode.attributes)["raycluster.rows.out"] == 40


def test_stages_take_place_within_their_run(receiver):
    """Windows are longer than the run at both ends, and a window may come after it."""
    report(costs(line("a", "decode"), line("b", "encode", minute=1), line("c", "late", minute=30)), RUN)
    _, found = spans(receiver)
    second = nanoseconds(START.replace(second=0) + timedelta(minutes=1))
    times = {name: (one.start_time_unix_nano, one.end_time_unix_nano) for name, one in found.items()}
    assert times["stage decode"] == (nanoseconds(START), second)
    assert times["stage encode"] == (second, nanoseconds(END))
    assert times["stage late"] == (nanoseconds(END), nanoseconds(END))


def test_a_failed_run_is_an_error(receiver):
    report(costs(*LINES), Run(**(vars(RUN) | {"status": "failed"})))
    assert spans(receiver)[1]["raycluster.run"].status.code == Status.STATUS_CODE_ERROR


def test_a_run_that_cost_nothing_has_its_span(receiver):
    report(costs(), Run(**(vars(RUN) | {"finished_at": None})))
    (span,) = spans(receiver)[1].values()
    assert abs(span.end_time_unix_nano - time.time_ns()) < 60 * 10**9


def test_the_standard_variables_count(receiver, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=lab")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative")
    report(costs(*LINES), RUN)
    for resource, _ in (metrics(receiver), spans(receiver)):
        assert resource["service.name"] == "mine"
        assert resource["service.version"] == __version__
        assert resource["deployment.environment"] == "lab"
    for _, headers, _ in receiver.got:
        assert (headers["Api-Key"], headers["Content-Encoding"]) == ("secret", "gzip")
    (temporality,) = {one.sum.aggregation_temporality for one in metrics(receiver)[1].values()}
    assert temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


@pytest.mark.parametrize(
    ("variables", "paths"),
    [
        ({}, ["/v1/metrics", "/v1/traces"]),
        ({"OTEL_SDK_DISABLED": "true"}, []),
        ({"OTEL_METRICS_EXPORTER": "none"}, ["/v1/traces"]),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["/v1/metrics"]),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, ["/v1/metrics"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "URL/mine"}, ["/mine"]),
    ],
)
def test_what_the_environment_asks_for_is_sent(receiver, monkeypatch, caplog, variables, paths):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("URL", receiver.url))
    report(costs(*LINES), RUN)
    assert sorted(path for path, _, _ in receiver.got) == paths
    assert is_wanted() == (bool(paths) or "OTEL_TRACES_SAMPLER" in variables)
    assert caplog.records == []


def warned(caplog):
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "raycluster.account.telemetry")
    assert "\n" not in record.getMessage()
    return record.getMessage()


def test_an_endpoint_that_is_down_costs_a_warning(monkeypatch, caplog, free_port):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port}")
    began = time.monotonic()
    report(costs(*LINES), RUN)
    assert time.monotonic() - began < telemetry._PATIENCE_SECONDS + 3
    assert "reported to OpenTelemetry" in warned(caplog)


def test_an_endpoint_that_never_answers_is_not_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(telemetry, "_PATIENCE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        report(costs(*LINES), RUN)
        assert 1 <= time.monotonic() - began < 4
        assert "no answer within 1 s" in warned(caplog)
    for thread in threading.enumerate():  # they try once more; what they log then is not another test's
        if thread.name == "raycluster-telemetry":
            thread.join(10)
            assert not thread.is_alive()


def test_an_endpoint_that_refuses_is_told_of(receiver, caplog):
    receiver.status = 401
    report(costs(*LINES), RUN)
    assert "401" in warned(caplog)
    assert logging.getLogger("opentelemetry.exporter.otlp").handlers == []


def test_what_goes_wrong_inside_never_ends_a_run(receiver, caplog, monkeypatch):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    report(costs(*LINES).set_column(0, "id", pa.nulls(5)), Run(**(vars(RUN) | {"started_at": datetime(2026, 1, 1)})))
    assert "TypeError" in warned(caplog)


def test_another_protocol_is_refused(receiver, caplog, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    report(costs(*LINES), RUN)
    assert "cannot speak grpc" in warned(caplog)
    assert receiver.got == []


def test_a_missing_exporter_is_named(receiver, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    report(costs(*LINES), RUN)
    assert 'pip install "raycluster[otlp]"' in warned(caplog)
    assert receiver.got == []


def test_without_an_endpoint_nothing_is_imported():
    program = (
        "import sys\n"
        "from raycluster.account.telemetry import is_wanted, report\n"
        "before = set(sys.modules)\n"
        "report(None, None)\n"
        "assert not is_wanted()\n"
        "assert set(sys.modules) == before\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
