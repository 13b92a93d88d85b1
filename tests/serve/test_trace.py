"""Traces as a receiver gets them: whose they are, what lies in what, and what they cost where nobody listens."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import timeit
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.testclient import TestClient

from raycluster import __version__
from raycluster.account import tracing
from raycluster.serve import trace

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Let each test's environment be looked at anew."""
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    tracing.provider.cache_clear()
    tracing.tracer.cache_clear()
    yield
    if (provider := tracing.provider()) is not None:
        provider.shutdown()
    tracing.provider.cache_clear()
    tracing.tracer.cache_clear()


@pytest.fixture
def receiver(monkeypatch):
    """Return an OTLP receiver over HTTP, to which the environment points."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    yield SimpleNamespace(got=got, url=url)
    server.shutdown()
    thread.join()
    server.server_close()


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def spans(receiver):
    """Return all spans that came, by name, and what is said of who sent them."""
    trace.flush()
    found, resource = {}, {}
    for _, body in receiver.got:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = plain(of_resource.resource.attributes)
            found |= {span.name: span for scope in of_resource.scope_spans for span in scope.spans}
    return found, resource


@contextmanager
def served():
    """Serve an application whose endpoints do what a search does: embed elsewhere, then ask the lake."""
    web = FastAPI()

    @web.post("/v1/datasets/{name}/search")
    def search(name: str):
        with trace.span("embed", dataset=name, kind="text"):
            carried = trace.carry()
        worker = threading.Thread(target=encode, args=(carried,))  # shares nothing but what it is handed
        worker.start()
        worker.join()
        with trace.span("lance query", dataset=name, version=3, nothing=None):
            time.sleep(0.01)

    @web.get("/broken/{name}")
    def broken(name: str):
        with trace.span("inner"):
            raise ValueError("the filter was: secret = 1")

    @web.get("/healthz")
    def healthz():
        return {}

    def encode(carried):
        with trace.resume(carried, "encode", texts=1):
            pass

    web.add_middleware(trace.Traced)
    with TestClient(web, raise_server_exceptions=False) as client:
        yield client


def test_a_search_is_one_trace_through_every_part(receiver):
    with served() as client:
        assert client.post("/v1/datasets/gallery/search").status_code == 200
    found, resource = spans(receiver)
    assert (resource["service.name"], resource["service.version"]) == ("raycluster", __version__)
    root = found["POST /v1/datasets/{name}/search"]
    assert root.kind == Span.SPAN_KIND_SERVER
    assert root.parent_span_id == b""
    assert plain(root.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/datasets/{name}/search",
        "url.scheme": "http",
    }
    assert {one.trace_id for one in found.values()} == {root.trace_id}
    assert found["embed"].parent_span_id == root.span_id
    assert found["encode"].parent_span_id == found["embed"].span_id
    query = found["lance query"]
    assert query.parent_span_id == root.span_id
    assert plain(query.attributes) == {"raycluster.dataset": "gallery", "raycluster.version": 3}
    assert query.end_time_unix_nano - query.start_time_unix_nano >= 10**7
    assert root.start_time_unix_nano <= query.start_time_unix_nano <= query.end_time_unix_nano
    assert query.end_time_unix_nano <= root.end_time_unix_nano


def test_a_clients_own_trace_goes_on(receiver):
    with served() as client:
        client.post("/v1/datasets/gallery/search", headers={"traceparent": f"00-{TRACE}-{ABOVE}-01"})
        client.post("/v1/datasets/gallery/search", headers={"traceparent": "00-nonsense"})
    trace.flush()
    roots = [
        span
        for _, body in receiver.got
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in of_resource.scope_spans
        for span in scope.spans
        if span.name.startswith("POST")
    ]
    assert (roots[0].trace_id.hex(), roots[0].parent_span_id.hex()) == (TRACE, ABOVE)
    assert roots[1].parent_span_id == b""


def test_who_asks_not_to_be_traced_is_not(receiver):
    with served() as client:
        client.post("/v1/datasets/gallery/search", headers={"traceparent": f"00-{TRACE}-{ABOVE}-00"})
        client.get("/healthz")
    assert spans(receiver)[0] == {}


def test_what_breaks_is_an_error_and_tells_nothing_of_what_was_asked(receiver):
    with served() as client:
        assert client.get("/broken/id-of-somebody?filter=secret").status_code == 500
        client.get("/nowhere/else")
    found, _ = spans(receiver)
    assert found["GET /broken/{name}"].status.code == Status.STATUS_CODE_ERROR
    assert plain(found["GET"].attributes)["http.response.status_code"] == 404
    assert b"secret" not in b"".join(body for _, body in receiver.got)
    assert b"id-of-somebody" not in b"".join(body for _, body in receiver.got)


def test_a_search_shows_what_took_its_time(receiver, client):
    asked = {"text": "river", "mode": "text", "filter": "modality = 'text'"}
    assert client.post("/v1/datasets/gallery/search", json=asked).status_code == 200
    found, _ = spans(receiver)
    root, query = found["POST /v1/datasets/{name}/search"], found["lance query"]
    assert (query.parent_span_id, query.trace_id) == (root.span_id, root.trace_id)
    assert plain(query.attributes)["raycluster.mode"] == "text"
    assert b"river" not in b"".join(body for _, body in receiver.got)


def test_the_application_traces_its_own_requests(receiver, client):
    client.get("/v1/runs/run1")
    client.get("/metrics")
    found, _ = spans(receiver)
    assert plain(found["GET /v1/runs/{run_id}"].attributes)["http.response.status_code"] == 200
    assert not [name for name in found if "metrics" in name]


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}],
)
def test_where_nobody_listens_nothing_is_traced(monkeypatch, variables):
    if variables:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with trace.span("x", dataset="d") as own:
        assert own is None
        assert trace.carry() == {}
    with trace.resume({"traceparent": f"00-{TRACE}-{ABOVE}-01"}, "y") as own:
        assert own is None
    with served() as client:
        assert client.post("/v1/datasets/gallery/search").status_code == 200


def test_a_span_that_nobody_wants_costs_next_to_nothing():
    def enter():
        with trace.span("lance query", dataset="d", version=1):
            pass

    each = min(timeit.repeat(enter, number=10_000, repeat=5)) / 10_000
    assert each < 5e-6  # 0.5 us where nothing else runs


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported():
    program = (
        "import sys\n"
        "from raycluster.serve import trace\n"
        "with trace.span('x'), trace.resume({}, 'y'):\n"
        "    trace.carry()\n"
        "trace.flush()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_endpoint_that_is_down_holds_nobody_up(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with served() as client:
        started = time.monotonic()
        for _ in range(20):
            assert client.post("/v1/datasets/gallery/search").status_code == 200
        assert time.monotonic() - started < 5
