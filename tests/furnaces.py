"""What users run on Ray without raycluster, burning so much CPU: batches, requests, training."""

import asyncio
import time
from pathlib import Path
from typing import Any

from burns import burn

BATCH = 0.2  # CPU-seconds


def heat(batch: dict[str, Any]) -> dict[str, Any]:
    """Burn a batch's worth in a task."""
    burn(BATCH)
    return batch


class Forge:
    """Burns two batches' worth in an actor."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        burn(2 * BATCH)
        return batch


class Kiln:
    """Burns over each request, in its event loop."""

    async def __call__(self, request: Any) -> str:
        for _ in range(4):
            burn(float(request.query_params["seconds"]) / 4)
            await asyncio.sleep(0.01)
        return "done"


class Oven:
    """Burns over each request, in a thread."""

    def __call__(self, request: Any) -> str:
        burn(float(request.query_params["seconds"]))
        return "done"


def train(config: dict[str, Any]) -> None:
    """Burn and report as training does; write what the process had used before and after into the file `told`."""
    from ray import train

    began = time.process_time()
    for _ in range(config["steps"]):
        burn(config["seconds"] / config["steps"])
        train.report({"loss": 0.0})
    Path(config["told"]).write_text(f"{began} {time.process_time()}")
