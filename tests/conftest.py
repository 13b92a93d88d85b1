"""What tests share: one Ray for the session, and settings that keep every test on this machine."""

import os
from collections.abc import Iterator

import pytest

# Ray turns token authentication on when it finds a token in the home folder.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """Start one Ray of two cores for all tests that need one."""
    import ray

    from raycluster.engine.cluster import connect

    found = connect()
    yield found
    ray.shutdown()
