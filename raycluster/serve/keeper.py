"""What there is one of: who has uploads run, and who knows what every gateway has counted."""

from __future__ import annotations

import asyncio
import time

from ray import serve

from raycluster.engine.intake import Intake
from raycluster.lake.lake import Lake
from raycluster.serve.settings import Settings

# A gateway that has said nothing for so long is gone, and what it counted with it.
_SILENT_SECONDS = 15.0


@serve.deployment(
    name="keeper",
    ray_actor_options={"num_cpus": 0},
    max_ongoing_requests=1000,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=60.0,  # runs under way keep what they have finished
)
class Keeper:
    """Takes uploads in, and gathers metrics."""

    def __init__(self, settings: Settings) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        self.intake = Intake(Lake(settings.lake), address=address)
        self.intake.start()
        self.told: dict[str, tuple[float, str]] = {}

    async def submit(self, dataset: str, batch: str) -> str:
        """Have a batch run that has landed; return the id of its run."""
        return await asyncio.to_thread(self.intake.submit, dataset, batch)

    async def tell(self, replica: str, text: str) -> dict[str, str]:
        """Take a gateway's metrics; return those of every other one that lives."""
        now = time.monotonic()
        self.told[replica] = (now, text)
        self.told = {name: (at, said) for name, (at, said) in self.told.items() if at > now - _SILENT_SECONDS}
        return {name: said for name, (_, said) in self.told.items() if name != replica}

    def __del__(self) -> None:
        self.intake.stop()
