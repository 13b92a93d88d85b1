"""A real S3 server becomes one that others see through a relay on loopback, which may do anything to what passes."""

import threading
from collections.abc import Collection
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_OWN = {"connection", "transfer-encoding", "content-length", "date", "server"}  # headers that the relay makes itself
Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, content


class Exchange(BaseHTTPRequestHandler):
    """One request that has come, and what can be done with it."""

    protocol_version = "HTTP/1.1"
    relay: "Relay"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the time as the relay tells it."""
        return self.relay.date() or super().date_time_string(timestamp)

    def handle_any(self) -> None:
        """Read the request, and leave it to the relay."""
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.relay.meet(self)

    def pass_on(self, *, without: Collection[str] = ()) -> Answer:
        """Let the server carry it out; return what that answers."""
        upstream = HTTPConnection(self.relay.host, self.relay.port, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in without:
                upstream.putheader(name, value)
        upstream.endheaders(self.body)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return answer.status, answer.getheaders(), content

    def hang_up(self) -> None:
        """Cut the line."""
        self.close_connection = True
        self.connection.close()

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers:
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - http.server's names


class Relay:
    """Stands in front of the server at `host`:`port`."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Exchange,), {"relay": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def meet(self, exchange: Exchange) -> None:
        """Do with a request what is to be done."""
        exchange.answer(*exchange.pass_on())

    def date(self) -> str | None:
        """Return what time it is; None: what it really is."""
        return None

    def __enter__(self) -> Self:
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
