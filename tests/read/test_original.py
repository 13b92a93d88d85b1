"""What lies at a row's uri is read in parts when it is the very object that was ingested, whatever the store."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycluster.errors import Gone, InvalidUse
from raycluster.read._named import Unreachable
from raycluster.read._original import Unserved, original
from raycluster.read._store import CHUNK_BYTES, Changed, Found, local_uri
from raycluster.read._stores import store_of
from raycluster.row import object_id

CONTENT = os.urandom(2 * CHUNK_BYTES + 77)


def found(uri: str) -> Found:
    version = store_of(uri).find(uri).version
    return original(uri, object_id(uri, version), timeout=10.0)[1]


def part(one: Found, start: int, length: int) -> bytes:
    return b"".join(store_of(one.uri).part(one, start, length))


@pytest.fixture(params=["local", "http", "http without ranges", "http with a date", "s3", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An object of `CONTENT` in each kind of store."""
    if request.param == "local":
        (tmp_path / "a b#1.bin").write_bytes(CONTENT)
        return local_uri(str(tmp_path / "a b#1.bin"))
    if request.param.startswith("http"):
        site = request.getfixturevalue("site")
        site.files["/a.bin"] = CONTENT
        site.has_ranges = request.param != "http without ranges"
        site.has_etag = request.param != "http with a date"
        site.has_date = not site.has_etag
        return f"{site.url}/a.bin"
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        bucket.put_object(Key="a b#1.bin", Body=CONTENT)
        return f"s3://{bucket.name}/a b#1.bin"
    import fsspec

    fsspec.filesystem("memory").pipe("/original/a.bin", CONTENT)
    return "memory:///original/a.bin"


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, len(CONTENT)), (100, 50), (CHUNK_BYTES - 1, CHUNK_BYTES + 2), (len(CONTENT) - 1, 1)],
)
def test_any_part_of_an_object(uri: str, start: int, length: int) -> None:
    one = found(uri)
    assert one.size == len(CONTENT)
    chunks = list(store_of(uri).part(one, start, length))
    assert b"".join(chunks) == CONTENT[start : start + length]
    assert max(map(len, chunks)) <= CHUNK_BYTES


def test_another_object_is_not_read(uri: str) -> None:
    for other in (object_id(uri, ""), object_id(uri, "absent"), object_id(uri + "x", store_of(uri).find(uri).version)):
        with pytest.raises(Gone, match="changed since it was ingested"):
            original(uri, other, timeout=10.0)


def test_one_that_has_vanished(uri: str) -> None:
    place, _, name = uri.rpartition("/")
    with pytest.raises(Gone, match="not there any more"):
        original(f"{place}/no-{name.replace('#', '')}", "0" * 64, timeout=10.0)


def test_one_that_changes_while_it_is_read_never_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    one = found(local_uri(str(path)))
    chunks = store_of(one.uri).part(one, 0, one.size)
    assert len(next(chunks)) == len(next(chunks)) == CHUNK_BYTES
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(Changed):
        next(chunks)
    path.write_bytes(CONTENT[:10])
    with pytest.raises(Changed):
        part(one, 0, one.size)


def test_a_page_that_has_changed_is_refused_at_once(site: Any) -> None:
    site.files["/a.bin"] = CONTENT
    one = found(f"{site.url}/a.bin")
    site.files["/a.bin"] = CONTENT[::-1]
    with pytest.raises(Changed):
        part(one, 5, 10)


def test_a_connection_that_breaks_is_told(site: Any) -> None:
    site.files["/a.bin"] = CONTENT
    one = found(f"{site.url}/a.bin")
    site.cut.add("/a.bin")
    with pytest.raises(OSError, match="broke"):
        part(one, 0, one.size + 5)


def test_what_is_no_file_of_bytes(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, empty, pipe, Path("/proc/self/environ")):
        uri = local_uri(str(path))
        with pytest.raises(Gone):
            original(uri, object_id(uri, store_of(uri).find(uri).version), timeout=10.0)


def test_a_cell_of_a_table_says_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").touch()
    with pytest.raises(Unserved, match="cell of a Parquet or Lance table") as caught:
        original(f"{local_uri(str(tmp_path / 't.parquet'))}#17", "0" * 64, timeout=10.0)
    assert caught.value.status == 501
    assert "row 17 of file://" in caught.value.fix


@pytest.mark.parametrize("make", [lambda: OSError("away"), lambda: PermissionError(13, "no"), lambda: KeyError("x")])
def test_a_store_that_does_not_answer(
    make: Callable[[], Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Found:
        raise make()

    store = store_of(local_uri(str(tmp_path)))
    monkeypatch.setattr(type(store), "find", away)
    with pytest.raises(Unreachable) as caught:
        original(local_uri(str(tmp_path / "a")), "0" * 64, timeout=10.0)
    assert caught.value.status == 503


def test_a_server_that_refuses(site: Any) -> None:
    site.status["/a.bin"] = [403, 403]
    with pytest.raises(Unserved, match="403"):
        original(f"{site.url}/a.bin", "0" * 64, timeout=10.0)


def test_a_server_that_sends_on_to_another_address(site: Any) -> None:
    """Whoever owns an address could let it lead to any other, and choose the ETag that this one had before."""
    site.files["/secret"] = CONTENT
    site.redirects["/a.bin"] = "/secret"
    uri = f"{site.url}/a.bin"
    with pytest.raises(Unserved, match="redirects to another address"):
        original(uri, object_id(uri, store_of(uri).find(uri).version), timeout=10.0)
    assert "GET /secret" not in site.asked


def test_a_server_whose_versions_can_be_guessed(site: Any) -> None:
    site.files["/secret"] = CONTENT
    site.has_etag = False
    uri = f"{site.url}/secret"
    with pytest.raises(Unserved, match="neither an ETag nor a date"):
        original(uri, object_id(uri, str(len(CONTENT))), timeout=10.0)
    site.has_length = False
    with pytest.raises(Unserved, match="neither an ETag nor a date"):
        original(uri, object_id(uri, "0"), timeout=10.0)


def test_an_unknown_kind_of_store() -> None:
    with pytest.raises(InvalidUse, match="not a known kind of store"):
        original("nowhere://a/b", "0" * 64, timeout=10.0)
