"""A call to another deployment becomes its answer, or the error that it raised; a replica that died is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from raycluster.errors import RayclusterError, TimedOut

# What is called here may be called again. Serve starts a new replica within some seconds.
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5  # times the number of the attempt


async def called(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a call returns.

    Args:
        call: makes it, `lambda: handle.embed.remote(...)`; again, where a replica has died.

    Raises:
        RayclusterError: as raised there.
        TimedOut: no replica is left to answer.
    """
    trouble: Exception | None = None
    for attempt in range(_ATTEMPTS):
        await asyncio.sleep(_PAUSE_SECONDS * attempt)
        try:
            return await call()
        except RayTaskError as error:
            if isinstance(error.cause, RayclusterError):
                raise error.cause from None
            raise
        except (RayError, RayServeException) as error:
            trouble = error
    raise TimedOut("a part of this server is starting anew", fix="try again in a moment") from trouble
