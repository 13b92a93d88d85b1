"""A request becomes a trace: a span of its own, and within it what took its time, across Serve's calls too.

A client that sends a `traceparent` finds the request in its own trace. Nothing that somebody asked for or was answered
is in a span: names, counts and times only (`account/tracing.py`).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycluster.account.tracing import SILENT, carry, flush, propagator, resume, span, tracer

__all__ = ["Traced", "carry", "flush", "resume", "span"]

_UNTRACED = ("/healthz", "/readyz", "/metrics")  # every few seconds, for as long as a replica lives


class Traced:
    """Makes a span of each request, named by the endpoint that answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, within its span."""
        maker = tracer() if scope["type"] == "http" and scope["path"] not in _UNTRACED else None
        if maker is None:
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        above = propagator().extract(headers)
        with maker.start_as_current_span(scope["method"], above, kind=SpanKind.SERVER, **SILENT) as own:
            own.set_attributes({"http.request.method": scope["method"], "url.scheme": scope["scheme"]})

            def note(status: int) -> None:
                own.set_attribute("http.response.status_code", status)
                if status >= 500:
                    own.set_status(Status(StatusCode.ERROR))

            async def listen(message: Message) -> None:
                if message["type"] == "http.response.start":
                    note(message["status"])
                await send(message)

            try:
                await self.app(scope, receive, listen)
            except Exception:
                note(500)  # as the server answers then
                raise
            finally:
                if path := getattr(scope.get("route"), "path", None):
                    own.update_name(f"{scope['method']} {path}")
                    own.set_attribute("http.route", path)
