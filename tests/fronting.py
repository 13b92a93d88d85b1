"""A real S3 server becomes one that refuses, lies about the time, or knows no conditional writes: a proxy before it."""

import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HELD_BACK = {"connection", "transfer-encoding", "content-length", "date", "server"}
Refusal = Callable[[str, str], tuple[int, str] | None]  # method, path -> status and S3's code


class Front:
    """Stands in front of the store at `host`:`port`."""

    def __init__(self, host: str, port: int) -> None:
        self.refuse: Refusal = lambda method, path: None
        self.is_conditional = True  # passes If-None-Match on
        self.late = 0.0  # seconds by which its clock is behind
        self.silence = 0.0  # seconds before each answer
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() - front.late, usegmt=True)

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                time.sleep(front.silence)
                if refused := front.refuse(self.command, self.path):
                    status, code = refused
                    said = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                    return self.answer(status, [], said)
                upstream = HTTPConnection(host, port, timeout=60)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if front.is_conditional or name.lower() != "if-none-match":
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                return self.answer(answer.status, answer.getheaders(), content)

            def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
                for name, value in headers:
                    if name.lower() not in _HELD_BACK:
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - http.server's names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "Front":
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
