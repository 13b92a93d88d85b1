"""URLs of a real web server become media, whatever the server cannot do."""

import io
from pathlib import Path
from typing import Any

import pytest

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference, Source
from raycluster.read.files import Files


def references(source: Source) -> list[Reference]:
    return [Reference(**one) for batch in source.objects() for one in batch.to_pylist()]


def jpeg(color: str = "red") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(file, "JPEG")
    return file.getvalue()


def from_list(tmp_path: Path, site: Any, *paths: str, timeout: float = 5.0) -> Files:
    (tmp_path / "urls.txt").write_text("".join(f"{site.url}{path}\n" for path in paths))
    return Files(list=str(tmp_path / "urls.txt"), timeout=timeout)


def verdict(source: Files, index: int = 0) -> BadMedia:
    with pytest.raises(BadMedia) as caught:
        source.get(references(source)[index])
    return caught.value


def test_a_list_of_urls(tmp_path: Path, site: Any) -> None:
    site.files = {f"/{number}.jpg": jpeg() + bytes([number]) for number in range(40)}
    source = from_list(tmp_path, site, *site.files, "/0.jpg")
    found = references(source)
    assert [one.uri for one in found] == [f"{site.url}{path}" for path in site.files]  # in its own order, once each
    media = dict(source.fetch(found))
    assert [media[one].content for one in found] == list(site.files.values())
    assert {one.modality for one in media.values()} == {"image"}
    assert found[0].size == len(jpeg()) + 1
    assert source.peek(found[0], 4) == jpeg()[:4]


def test_a_list_at_a_url(site: Any) -> None:
    site.files = {"/a.jpg": jpeg(), "/list": f"\n# comment\n{site.url}/a.jpg#part\r\n".encode()}
    assert [one.uri for one in references(Files(list=f"{site.url}/list"))] == [f"{site.url}/a.jpg"]


def test_a_version_is_the_etag(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg("red")}
    source = from_list(tmp_path, site, "/a.jpg")
    (before,) = references(source)
    assert references(source) == [before]
    site.files["/a.jpg"] = jpeg("blue")
    assert "has changed since it was listed" in verdict_of(source, before).message
    (after,) = references(source)
    assert after.version != before.version
    assert source.get(after).content == jpeg("blue")


def verdict_of(source: Files, reference: Reference) -> BadMedia:
    with pytest.raises(BadMedia) as caught:
        source.get(reference)
    assert caught.value.code == "unreadable"
    return caught.value


def test_servers_that_can_do_little(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg()}
    site.has_head = site.has_ranges = site.has_etag = site.has_length = False
    source = from_list(tmp_path, site, "/a.jpg")
    (reference,) = references(source)
    assert source.get(reference).content == jpeg()
    assert source.peek(reference, 10) == jpeg()[:10]


def test_redirects(tmp_path: Path, site: Any) -> None:
    site.files = {"/real.jpg": jpeg()}
    site.redirects = {"/moved.jpg": "/real.jpg", "/loop.jpg": "/loop.jpg"}
    source = from_list(tmp_path, site, "/moved.jpg", "/loop.jpg")
    moved, loop = references(source)
    assert moved.uri == f"{site.url}/moved.jpg"
    assert source.get(moved).content == jpeg()
    assert "redirects more than" in verdict_of(source, loop).message


def test_what_is_not_there_is_listed_and_unreadable(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg()}
    source = from_list(tmp_path, site, "/none.jpg", "/a.jpg")
    missing, there = references(source)
    assert verdict_of(source, missing).message.endswith("there is no such file")
    assert source.get(there).content == jpeg()
    with pytest.raises(InvalidUse, match="does not exist"):
        Files(paths=(f"{site.url}/none.jpg",)).objects()


def test_a_slow_server_is_given_up(tmp_path: Path, site: Any) -> None:
    site.files = {"/slow.jpg": jpeg()}
    site.slow = {"/slow.jpg": 3.0}
    source = from_list(tmp_path, site, "/slow.jpg", timeout=0.3)
    assert verdict(source).code == "unreadable"
    assert "sent nothing for 0.3 s" in verdict(source).message


def test_a_busy_server_is_asked_again(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg(), "/b.jpg": jpeg()}
    source = from_list(tmp_path, site, "/a.jpg", "/b.jpg")
    first, second = references(source)
    site.status = {"/a.jpg": [503, 429], "/b.jpg": [503] * 9}
    assert source.get(first).content == jpeg()
    assert "answered 503" in verdict_of(source, second).message


def test_a_broken_connection_is_not_a_short_file(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg()}
    site.cut = {"/a.jpg"}
    source = from_list(tmp_path, site, "/a.jpg")
    assert verdict(source).code == "unreadable"


def test_nobody_listens(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:9/a.jpg\n")
    source = Files(list=str(tmp_path / "urls.txt"), timeout=1.0)
    assert "cannot be reached" in verdict(source).message


def test_a_size_nobody_announced_is_still_limited(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg() + bytes(100_000)}
    site.has_length = False
    source = from_list(tmp_path, site, "/a.jpg")
    (reference,) = references(source)
    with pytest.raises(BadMedia) as caught:
        Files(max_bytes=50_000).get(reference)
    assert caught.value.code == "too_large"
