"""Without authentication only this machine is answered, and no stranger's web page in this machine's browser.

`serve` binds to loopback then, but in HAProxy mode Serve's replicas listen on every interface, and a page may let its
own name resolve to 127.0.0.1 (DNS rebinding) or send a form here from another origin. So each request says for itself
where it comes from: its peer, its `Host`, its `Origin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from raycluster.errors import Forbidden
from raycluster.serve.answer import told
from raycluster.serve.head import field

_FIX = "open it as http://127.0.0.1, or let people in with --issuer or --tokens"


@dataclass
class OnlyHere:
    """Refuses what does not come from this machine."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it comes from here."""
        if scope["type"] == "http" and (wrong := _wrong(scope)):
            await told(Forbidden(wrong, fix=_FIX))(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _wrong(scope: Scope) -> str:
    """Return what shows that a request comes from elsewhere; nothing where it comes from here."""
    client = scope.get("client")
    host, origin = field(scope, b"host") or "", field(scope, b"origin") or ""
    return _says(None if client is None else client[0], host, origin)


@lru_cache(maxsize=1024)  # mostly the same: 0.05 ms to work out
def _says(client: str | None, host: str, origin: str) -> str:
    if client is None or not _is_address(client):  # a socket of this machine, or no network at all
        return ""
    if not is_loopback(client):
        return "without authentication only this machine is answered"
    for name, said in (("host", host), ("origin", origin)):
        named = urlsplit(said if "//" in said else f"//{said}").hostname
        if said and not (named and is_loopback(named)):
            return f"the {name} {said[:100]!r} is not this machine"
    return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is this machine's own, as only it can reach it."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
