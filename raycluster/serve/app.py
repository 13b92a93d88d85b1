"""The HTTP application becomes Ray Serve deployments: gateways that answer, encoders that embed, one keeper.

A `gateway` reads the lake itself: a search is one Lance query in its own process, on the version that it has at hand.
Only what needs a model goes to `encoders`. The `keeper`, of which there is one, starts the runs of what is uploaded and
puts the gateways' metrics together.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from raycluster.serve import web
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings

NAME = "raycluster"
_DRAIN_SECONDS = 30.0  # what is being answered may take so long when a replica goes


def build(args: dict[str, Any]) -> Application:
    """Return the application, as a Serve config file names it: `import_path: raycluster.serve.app:build`."""
    settings = Settings.read(args)
    scale = {
        "min_replicas": settings.gateways,
        "max_replicas": max(settings.gateways, settings.most_gateways),
        "target_ongoing_requests": max(1, settings.at_once // 2),
    }
    # A replica refuses for itself, with 429: Serve's own limit lies above what it takes, so that none waits unseen.
    most = settings.at_once + settings.waiting + 64
    gateway: Any = Gateway  # a Deployment, which the decorator's types do not say
    gateway = gateway.options(autoscaling_config=scale, max_ongoing_requests=most)
    application: Application = gateway.bind(settings)
    return application


@serve.deployment(
    name="gateway",
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=_DRAIN_SECONDS,
    graceful_shutdown_wait_loop_s=0.2,
    health_check_period_s=2,
)
@serve.ingress()
class Gateway:
    """Answers requests."""

    def __init__(self, settings: Settings) -> None:
        self.context = Context.open(settings)

    def __serve_build_asgi_app__(self) -> Any:
        return web.application(self.context)
