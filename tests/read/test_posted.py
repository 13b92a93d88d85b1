"""What was posted is read as it was named: nothing is followed elsewhere, and what is refused is told, not fatal."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raycluster.declare.workload import declaration
from raycluster.errors import BadMedia, InvalidUse
from raycluster.lake.batches import Batch
from raycluster.lake.lake import Lake
from raycluster.read import Reference, Source
from raycluster.read.files import Files
from raycluster.read.posted import Posted


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def posted(lake: Lake, *uris: str, run: str = "r1", batch: str = "1") -> Posted:
    objects = tuple({"uri": uri} for uri in uris)
    at = datetime.now(UTC)
    lake.batches().put(
        Batch(batch_id=batch, dataset="d", workload="w", by="a", at=at, digest="", objects=objects, run_id=run)
    )
    return Posted(lake=lake.uri, dataset="d", run=run, timeout=5.0)


def listed(source: Source) -> list[Reference]:
    return [Reference(**one) for rows in source.objects() for one in rows.to_pylist()]


def test_a_redirect_is_not_followed_though_a_declared_source_does(lake: Lake, site: Any) -> None:
    site.files = {"/secret.txt": b"the vault is open", "/plain.txt": b"plain words"}
    site.redirects = {"/sly.txt": f"{site.url}/secret.txt"}
    source = posted(lake, f"{site.url}/sly.txt", f"{site.url}/plain.txt")
    sly, plain = listed(source)
    assert source.get(plain).content == b"plain words"
    with pytest.raises(BadMedia, match="redirects to another address") as caught:
        source.get(sly)
    assert caught.value.code == "unreadable"
    with pytest.raises(BadMedia, match="redirects to another address"):
        source.peek(sly)
    assert "GET /secret.txt" not in site.asked
    declared = Files(paths=(f"{site.url}/sly.txt",), timeout=5.0)
    assert declared.get(listed(declared)[0]).content == b"the vault is open"


def test_a_redirect_that_begins_after_the_listing_is_not_followed(lake: Lake, site: Any) -> None:
    site.files = {"/secret.txt": b"the vault is open", "/a.txt": b"plain words"}
    source = posted(lake, f"{site.url}/a.txt")
    (one,) = listed(source)
    site.redirects = {"/a.txt": f"{site.url}/secret.txt"}
    with pytest.raises(BadMedia, match="redirects"):
        source.get(one)
    assert "GET /secret.txt" not in site.asked


def test_what_a_store_refuses_does_not_keep_the_rest_from_being_read(lake: Lake, site: Any, tmp_path: Path) -> None:
    site.files = {"/a.txt": b"plain words", "/closed.txt": b"x"}
    site.status = {"/closed.txt": [403] * 9}
    gone = (tmp_path / "gone.txt").as_uri()
    source = posted(lake, f"{site.url}/closed.txt", gone, f"{site.url}/a.txt", tmp_path.as_uri())
    closed, absent, plain, folder = listed(source)
    assert source.get(plain).content == b"plain words"
    for one, reason in ((closed, "403"), (absent, "no such file"), (folder, "directory")):
        with pytest.raises(BadMedia, match=reason) as caught:
            source.get(one)
        assert caught.value.code == "unreadable"
    with pytest.raises(InvalidUse, match="403"):
        listed(Files(paths=(f"{site.url}/closed.txt",), timeout=5.0))


def test_a_run_lists_its_own_batches_each_object_once_and_all_of_them_on_demand(lake: Lake, tmp_path: Path) -> None:
    uris = []
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
        uris.append((tmp_path / f"{name}.txt").as_uri())
    posted(lake, uris[0], uris[1], uris[0])
    posted(lake, uris[1], batch="2")
    source = posted(lake, uris[2], run="r2", batch="3")
    assert [one.uri for one in listed(source)] == [uris[2]]
    assert sorted(one.uri for one in listed(Posted(lake=lake.uri, dataset="d", run="r1"))) == uris[:2]
    assert sorted(one.uri for one in listed(source.whole())) == uris
    assert listed(Posted(lake=lake.uri, dataset="other")) == []
    assert Files(paths=("x",)).whole() == Files(paths=("x",))
    assert declaration("read", source)["use"] == "posted"
