"""A lake's key is made once, whoever asks first, and lies where only its servers look."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raycluster.errors import LakeError
from raycluster.lake.lake import Lake
from raycluster.lake.secret import _secret, secret


@pytest.fixture(autouse=True)
def another_process() -> None:
    """Forget what this process knows, as a replica that starts now."""
    _secret.cache_clear()


def test_every_replica_knows_the_same_key(place: Lake) -> None:
    first = secret(place, "tickets")
    assert len(first) == 32
    _secret.cache_clear()
    assert secret(place, "tickets") == first
    assert secret(place, "others") != first
    assert place.datasets() == [], "it is no dataset"


def test_replicas_that_start_together_agree(place: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: _secret.__wrapped__(place.uri, "tickets"), range(8)))) == 1


def test_lakes_have_keys_of_their_own(tmp_path: Path) -> None:
    assert secret(Lake(str(tmp_path / "a")), "tickets") != secret(Lake(str(tmp_path / "b")), "tickets")


def test_on_a_disk_only_the_owner_may_look(lake: Lake) -> None:
    secret(lake, "tickets")
    assert stat.S_IMODE(Path(lake.uri, "_secrets").stat().st_mode) == 0o700


def test_a_lake_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(LakeError, match="cannot write to"):
        secret(Lake(str(tmp_path / "lake")), "tickets")
