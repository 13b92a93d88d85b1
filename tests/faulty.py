"""An S3 store becomes an unreliable one: a proxy on loopback that fails as networks and stores do, by a schedule.

What can go wrong with a request: the store is `busy` (503) or `broken` (500) and has done nothing; the line is `cut`
before the request arrives; the request arrives and is carried out, but its `answer` is lost; the answer is `late`.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["busy", "broken", "cut", "answer", "late"] | None
Schedule = Callable[[str, str], Fault]  # method, path
_LATE_SECONDS = 2.0
_PASSED_ON = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Proxy:
    """Stands in front of the store at `host`:`port`; `schedule` says what becomes of each request."""

    def __init__(self, host: str, port: int) -> None:
        self.schedule: Schedule = lambda method, path: None
        self.faults = Counter[str]()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                fault = proxy.schedule(self.command, self.path)
                proxy.faults[fault or "none"] += 1
                if fault == "cut":
                    return self.hang_up()
                if fault in ("busy", "broken"):
                    return self.answer(503 if fault == "busy" else 500, [], b"")
                if fault == "late":
                    time.sleep(_LATE_SECONDS)
                upstream = HTTPConnection(host, port, timeout=60)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                if fault == "answer":
                    return self.hang_up()
                return self.answer(answer.status, answer.getheaders(), content)

            def hang_up(self) -> None:
                self.close_connection = True
                self.connection.close()

            def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
                for name, value in headers:
                    if name.lower() not in _PASSED_ON:
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - http.server's names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "Proxy":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"


def at_random(seed: int, rate: float) -> Schedule:
    """Fail a share of all requests, in all ways."""
    chance, lock = random.Random(seed), threading.Lock()
    faults: tuple[Fault, ...] = ("busy", "broken", "cut", "answer", "late")

    def schedule(method: str, path: str) -> Fault:
        with lock:
            return chance.choice(faults) if chance.random() < rate else None

    return schedule


def on_commits(fault: Fault, numbers: set[int]) -> Schedule:
    """Fail the requests with these numbers of those that make a version of the dataset `d`."""
    seen, lock = Counter[str](), threading.Lock()

    def schedule(method: str, path: str) -> Fault:
        if method != "PUT" or "/d.lance/_versions/" not in path:
            return None
        with lock:
            seen["commits"] += 1
            return fault if seen["commits"] in numbers else None

    return schedule
