"""An issuer that publishes keys over HTTP, and the tokens that it signs."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

AUDIENCE = "raycluster"

# The policy of the issue, to the letter.
LETTER = """package data.access.policy
default allow = false
allow { input.method == "GET"; input.path == ["data", "customer_demographics"]; input.user.roles[_] == "data_scientist" }
allow { input.method == "POST"; input.path == ["data", "anonymized_transactions"]; input.user.roles[_] == "data_engineer" }
"""  # noqa: E501


def encoded(part: Any) -> str:
    """Return a part of a token: JSON, or bytes, in base64 for URLs."""
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class Host:
    """A web server on a free port: what it answers can be changed, and what was asked is counted."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}  # path -> JSON value, or (status, bytes)
        self.asked: Counter[str] = Counter()
        self.bodies: list[Any] = []
        self.delay = 0.0
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.asked[self.path] += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(host.delay)
                answer = host.answers.get(self.path, (404, b"{}"))
                if callable(answer):
                    answer = answer(json.loads(body))
                status, body = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Signer:
    """An issuer with keys, which publishes them at a host."""

    def __init__(self, host: Host) -> None:
        self.host, self.keys = host, {}
        self.host.answers["/.well-known/openid-configuration"] = {"issuer": host.url, "jwks_uri": f"{host.url}/jwks"}
        self.publish()

    def publish(self, *more: Any) -> None:
        """Show all keys, and whatever else a set may hold."""
        public = [key.as_dict(private=False) for key in self.keys.values()]
        self.host.answers["/jwks"] = {"keys": [*public, *more]}

    def add(self, kid: str | None, kind: str = "EC", curve: Any = "P-256", **parameters: Any) -> Any:
        make = {"EC": ECKey, "RSA": RSAKey, "OKP": OKPKey}[kind]
        key = make.generate_key(curve, parameters={**({"kid": kid} if kid else {}), **parameters})
        self.keys[kid] = key
        self.publish()
        return key

    def claims(self, **other: Any) -> dict[str, Any]:
        now = time.time()
        claims = {
            "iss": self.host.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": int(now),
            "exp": int(now) + 600,
            "roles": ["data_scientist"],
            "team": "discovery",
        }
        return {name: value for name, value in (claims | other).items() if value is not ...}

    def token(self, kid: str | None, algorithm: str = "ES256", *, header: Any = None, **claims: Any) -> str:
        """Sign a token; a claim that is `...` is left out."""
        head = {"alg": algorithm, **({"kid": kid} if kid else {}), **(header or {})}
        return signed(self.keys[kid], head, self.claims(**claims))


def signed(key: Any, header: dict[str, Any], claims: Any) -> str:
    """Sign whatever header with whatever key: the signing is joserfc's, what is signed is not checked by it."""
    text = f"{encoded(header)}.{encoded(claims)}"
    signature = jws.JWSRegistry.algorithms[header["alg"]].sign(text.encode(), key)
    return f"{text}.{encoded(signature)}"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
