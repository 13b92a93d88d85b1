"""Whoever sends a body says first who they are: nothing of a stranger's request is read, let alone parsed.

FastAPI parses JSON before it asks a dependency, in the event loop: 28 MiB of brackets from anybody took a GiB of memory
and held up everything else for as long as that took.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from raycluster.errors import RayclusterError
from raycluster.serve.answer import told
from raycluster.serve.context import Context
from raycluster.serve.head import field

PRINCIPAL = "raycluster.principal"  # where in a request's scope its principal is, once known
_BODILESS = ("GET", "HEAD", "OPTIONS")


@dataclass
class Known:
    """Refuses a request with a body whose credentials do not hold."""

    app: ASGIApp
    context: Context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once it is known whose it is."""
        if scope["type"] == "http" and scope["method"] not in _BODILESS:
            authorization = field(scope, b"authorization")
            try:
                scope[PRINCIPAL] = await run_in_threadpool(self.context.gate.identify, authorization)
            except RayclusterError as error:
                await told(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
