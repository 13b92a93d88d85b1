"""An empty deployment: what an answer costs in Ray Serve before anybody has searched.

Deployed as raycluster's gateway is, on the same Serve, behind the same HAProxy. It reads a request's body, and answers
with as many bytes as ten hits are.
"""

from __future__ import annotations

from typing import Any

from ray import serve

NAME, ROUTE = "floor", "/floor"
_ANSWER = b'{"hits": [' + b'{"id": "0"}, ' * 200 + b'{"id": "0"}]}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for part in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{part}.complete"})
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


def deploy(replicas: int) -> None:
    """Deploy it with so many replicas."""

    @serve.deployment(name="floor", num_replicas=replicas, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=384)
    @serve.ingress()
    class Floor:
        def __serve_build_asgi_app__(self) -> Any:
            return _answer

    deployment: Any = Floor
    serve.run(deployment.bind(), name=NAME, route_prefix=ROUTE)
