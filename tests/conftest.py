"""What tests share: one Ray for the session, and settings that keep every test on this machine."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# An example's time says how busy the machine is: hypothesis allows it 200 ms, which a garbage collection may take.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Ray turns token authentication on when it finds a token in the home folder.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("RAYCLUSTER_LAKE", None)

# Tests that run side by side (pytest-xdist) do not find each other's Ray.
if side := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["RAY_TMPDIR"] = f"/tmp/{side}-{os.environ['PYTEST_XDIST_TESTRUNUID'][:6]}"
    Path(os.environ["RAY_TMPDIR"]).mkdir(exist_ok=True)

# Private stages of tests lie beside this file; Ray's workers find them as this process does.
HERE = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = HERE + os.pathsep + os.environ.get("PYTHONPATH", "")
sys.path.insert(0, HERE)


def pytest_unconfigure() -> None:
    """Take Ray's folder away, where the tests of one side had one of their own."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[object]:
    """Start one Ray of two cores for all tests that need one."""
    import ray

    from raycluster.engine.cluster import connect

    found = connect()
    yield found
    ray.shutdown()
