"""One subject is looked at as the doctor does it: in a process of its own, with this test's environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from fronting import Front
from moto.server import ThreadedMotoServer

from raycluster.cluster import doctor
from raycluster.cluster.doctor import Told
from raycluster.cluster.look import Site

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test", "AWS_DEFAULT_REGION": "us-east-1"}
Look = Callable[..., list[Told]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Return a function that looks at one subject."""

    def findings(name: str, *, seconds: float = 60.0, **site: object) -> list[Told]:
        return doctor.examine(Site(**{"lake": str(tmp_path), **site}), [name], seconds=seconds)

    return findings


@pytest.fixture(scope="session")
def bucket() -> Iterator[tuple[str, int]]:
    """Serve S3 on a free port, with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="lake")
    yield host, port
    server.stop()


@pytest.fixture
def store(bucket: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Stand in front of it, and let this test's environment reach it."""
    with Front(*bucket) as front:
        settings = {"AWS_ENDPOINT_URL": front.url, "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true"}
        for name, value in (settings | KEYS).items():
            monkeypatch.setenv(name, value)
        yield front
