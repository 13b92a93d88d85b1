"""A request becomes a trace: a span of its own, and within it what took its time, across Serve's calls too.

Spans go out over OTLP where the standard variables name an endpoint (`account/telemetry.py`); otherwise a span is one
look at a variable, and nothing of OpenTelemetry is imported. A client that sends a `traceparent` finds the request in
its own trace. Nothing that somebody asked for or was answered is in a span: names, counts and times only.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycluster import __version__
from raycluster.account import telemetry

_NOTHING: AbstractContextManager[Any] = nullcontext()
_SCOPE = "raycluster.serve"
# What an error says may quote what somebody asked for; it is in the answer.
_SILENT: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
_UNTRACED = ("/healthz", "/readyz", "/metrics")  # every few seconds, for as long as a replica lives


@cache
def _provider() -> Any | None:
    return telemetry.traces()


@cache
def _tracer() -> Any | None:
    provider = _provider()
    return provider and provider.get_tracer(_SCOPE, __version__)


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Return a context in which a span of that name is under way, below the one that is now; yields it, or None."""
    return _NOTHING if _tracer() is None else _started(name, None, attributes)


def carry() -> dict[str, str]:
    """Return what lets another process go on with this trace: hand it over with the call, to `resume`."""
    carried: dict[str, str] = {}
    if _tracer() is not None:
        _propagator().inject(carried)
    return carried


def resume(carried: Mapping[str, str], name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Return a context as `span` does, below the span that another process was in when it carried this here."""
    return _NOTHING if _tracer() is None else _started(name, _propagator().extract(carried), attributes)


def _started(name: str, above: Any, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
    known = {f"raycluster.{key}": value for key, value in attributes.items() if value is not None}
    tracer: Any = _tracer()
    found: AbstractContextManager[Any] = tracer.start_as_current_span(name, above, attributes=known, **_SILENT)
    return found


def flush() -> None:
    """Send what has gathered, as a process does before it ends."""
    if (provider := _provider()) is not None:
        provider.force_flush()


def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


class Traced:
    """Makes a span of each request, named by the endpoint that answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, within its span."""
        tracer = _tracer() if scope["type"] == "http" and scope["path"] not in _UNTRACED else None
        if tracer is None:
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        above = _propagator().extract(headers)
        with tracer.start_as_current_span(scope["method"], above, kind=SpanKind.SERVER, **_SILENT) as own:
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
