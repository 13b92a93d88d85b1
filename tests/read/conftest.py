"""A real web server and a real S3 server, on this machine."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Site:
    """What a test's web server serves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, list[int]] = field(default_factory=dict)  # answers to give before the real one
    redirects: dict[str, str] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)  # seconds before the body
    cut: set[str] = field(default_factory=set)  # announces more bytes than it sends
    has_head: bool = True
    has_ranges: bool = True
    has_etag: bool = True
    has_length: bool = True
    has_date: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_HEAD(self) -> None:
            if not site.has_head:
                self._fail(405)
                return
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _fail(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, *, with_body: bool) -> None:
            site.asked.append(f"{self.command} {self.path}")
            if site.status.get(self.path):
                self._fail(site.status[self.path].pop(0))
                return
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path not in site.files:
                self._fail(404)
                return
            self._send(site.files[self.path], with_body=with_body)

        def _send(self, body: bytes, *, with_body: bool) -> None:
            etag = hashlib.md5(body).hexdigest()
            asked = self.headers.get("Range") if site.has_ranges else None
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                size, body = len(body), body[int(first) : int(last) + 1]
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{size}")
            if site.has_etag:
                self.send_header("ETag", f'"{etag}"')
            if site.has_date:
                self.send_header("Last-Modified", "Sat, 28 Nov 2026 07:00:00 GMT")
            if site.has_length:
                self.send_header("Content-Length", str(len(body) + (10 if self.path in site.cut else 0)))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if not with_body:
                return
            time.sleep(site.slow.get(self.path, 0))
            try:
                self.wfile.write(body)
            except OSError:  # the client has left
                self.close_connection = True
            if self.path in site.cut:
                self.close_connection = True

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    """Serve a `Site` over HTTP on a free port."""
    served = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start moto's S3 on a free port; yields its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Point the environment at that S3 and return an empty bucket, as boto3 sees it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    found = boto3.resource("s3").create_bucket(Bucket=f"media-{time.monotonic_ns()}")
    yield found
    found.objects.all().delete()
    found.delete()
