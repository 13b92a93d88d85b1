"""What the tests of who may do what share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from issuing import Clock, Host, Signer


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.fixture
def signer(host: Host) -> Signer:
    return Signer(host)


@pytest.fixture
def clock() -> Clock:
    return Clock()
