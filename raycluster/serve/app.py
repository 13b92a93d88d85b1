"""The HTTP application becomes Ray Serve deployments: gateways that answer, encoders that embed, one keeper.

A `gateway` reads the lake itself: a search is one Lance query in its own process, on the version that it has at hand.
Only what needs a model goes to `encoders`. The `keeper`, of which there is one, has uploads run and knows what all
gateways have counted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from raycluster.serve import web
from raycluster.serve.call import called
from raycluster.serve.context import Context
from raycluster.serve.encoders import Encoders, Remembered
from raycluster.serve.keeper import Keeper
from raycluster.serve.settings import Settings

NAME = "raycluster"
_DRAIN_SECONDS = 30.0  # what is being answered may take so long when a replica goes
_TELL_SECONDS = 2.0  # between two reports of what a gateway has counted


def build(args: dict[str, Any]) -> Application:
    """Return the application, as a Serve config file names it: `import_path: raycluster.serve.app:build`."""
    settings = Settings.read(args)
    # The decorated classes are deployments, which their types do not say.
    gateway: Any = Gateway
    encoders: Any = Encoders
    keeper: Any = Keeper
    scale = {
        "min_replicas": settings.gateways,
        "max_replicas": max(settings.gateways, settings.most_gateways),
        "target_ongoing_requests": max(1, settings.at_once // 2),
    }
    # A replica refuses for itself, with 429: Serve's own limit lies above what it takes, so that none waits unseen.
    most = settings.at_once + settings.waiting + 64
    gateway = gateway.options(autoscaling_config=scale, max_ongoing_requests=most)
    application: Application = gateway.bind(settings, encoders.bind(settings), keeper.bind(settings))
    return application


@serve.deployment(
    name="gateway",
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=_DRAIN_SECONDS,
    graceful_shutdown_wait_loop_s=0.2,
    health_check_period_s=2,
    # Serve's access log knows no client but HAProxy, and took 0.1 ms of a request; metrics, traces and the log of
    # decisions tell more.
    logging_config={"log_level": "WARNING"},
)
@serve.ingress()
class Gateway:
    """Answers requests."""

    async def __init__(self, settings: Settings, encoders: Any, keeper: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        self.keeper = keeper
        self.replica = serve.get_replica_context().replica_id.unique_id
        self.others: dict[str, str] = {}  # what the other gateways have counted
        self.context = await asyncio.to_thread(Context.open, settings, intake=_Runs(keeper))
        self.context.embed = Remembered(encoders, self.context.follower)
        self.context.metrics.gather = lambda: self.others | {self.replica: self.context.metrics.snapshot()}
        self.telling = asyncio.create_task(self._tell())

    def __serve_build_asgi_app__(self) -> Any:
        return web.application(self.context)

    async def _tell(self) -> None:
        while True:
            with suppress(RayError, RayServeException):  # the keeper is starting anew
                own = await asyncio.to_thread(self.context.metrics.snapshot)
                self.others = await self.keeper.tell.remote(self.replica, own)
            await asyncio.sleep(_TELL_SECONDS)


@dataclass
class _Runs:
    """The keeper, as a gateway speaks to it of uploads."""

    keeper: Any

    async def submit(self, dataset: str, batch: str) -> str:
        """Have a batch run that has landed; return the id of its run."""
        run_id: str = await called(lambda: self.keeper.submit.remote(dataset, batch))
        return run_id
