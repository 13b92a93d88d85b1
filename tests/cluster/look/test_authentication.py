"""Tokens that anybody can read, that are empty, or not there."""

import os
from pathlib import Path

import pytest

from raycluster.cluster.look import Finding, Site, authentication


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the place of a token, with authentication on."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "token"


def found(address: str | None = None) -> list[Finding]:
    return list(authentication.look(Site(lake="x", address=address)))


def test_a_token_of_one_s_own(token: Path) -> None:
    token.write_text("a" * 64)
    token.chmod(0o600)
    assert [one.level for one in found()] == ["ok"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_token_that_others_can_use(token: Path, mode: int) -> None:
    token.write_text("a" * 64)
    token.chmod(mode)
    first = found()[0]
    assert (first.level, f"{mode:o}" in first.what, "chmod 600" in first.fix) == ("problem", True, True)
    assert "aaa" not in str(first)


def test_a_token_that_is_empty_or_not_there(token: Path) -> None:
    assert [(one.level, "no token" in one.what) for one in found()] == [("problem", True)]
    token.touch(0o600)
    assert found()[0].what == "Ray's token is empty"


def test_a_token_of_the_environment_needs_no_file(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    assert [one.level for one in found()] == ["ok"]


@pytest.mark.parametrize(
    ("address", "level"),
    [
        (None, "note"),
        ("127.0.0.1:6379", "note"),
        ("10.0.0.1:6379", "warning"),
        ("https://head.example:8265", "warning"),
    ],
)
def test_without_authentication_a_cluster_is_open(token: Path, monkeypatch, address, level) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert [one.level for one in found(address)] == [level]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read what is everybody's")
def test_a_token_that_cannot_be_read(token: Path) -> None:
    token.write_text("a" * 64)
    token.chmod(0o000)
    assert "cannot be read" in found()[0].what
