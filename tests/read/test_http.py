"""URLs of a real web server become media, whatever the server cannot do."""

import io
import pickle
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference, Source
from raycluster.read._named import Unreachable
from raycluster.read.files import Files
from raycluster.read.parquet import Parquet


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
    source = from_list(tmp_path, site, "/moved.jpg")
    (moved,) = references(source)
    assert moved.uri == f"{site.url}/moved.jpg"
    assert source.get(moved).content == jpeg()
    loop = Reference(uri=f"{site.url}/loop.jpg", version="1", size=0)
    assert "redirects more than" in verdict_of(source, loop).message
    with pytest.raises(InvalidUse, match=r"loop.jpg cannot be looked up: the server redirects more than"):
        references(from_list(tmp_path, site, "/loop.jpg"))


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


def test_a_slow_server_of_tables_is_given_up(site: Any) -> None:
    site.files = {"/a.parquet": jpeg() * 100}
    site.slow = {"/a.parquet": 30.0}
    started = time.monotonic()
    with pytest.raises(InvalidUse, match=r"a.parquet cannot be read: it sent nothing for too long"):
        references(Parquet(paths=(f"{site.url}/a.parquet",), column="image", timeout=0.3))
    assert time.monotonic() - started < 10


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
    gone = Reference(uri="http://127.0.0.1:9/a.jpg", version="1", size=0)
    assert "cannot be reached" in verdict_of(Files(timeout=1.0), gone).message
    (tmp_path / "urls.txt").write_text(f"{gone.uri}\n")
    with pytest.raises(Unreachable, match=r":9/a.jpg cannot be looked up: the server cannot be reached"):
        references(Files(list=str(tmp_path / "urls.txt"), timeout=1.0))


@pytest.mark.parametrize("answers", [[503, 503], [503] * 3, [429, 503], [500] * 6, [502, 404]])
def test_a_busy_server_does_not_change_what_is_listed(tmp_path: Path, site: Any, answers: list[int]) -> None:
    site.files = {"/a.jpg": jpeg(), "/b.jpg": jpeg("blue")}
    source = from_list(tmp_path, site, "/a.jpg", "/b.jpg")
    before = references(source)
    site.status = {"/a.jpg": answers}
    assert references(source) == before
    assert not site.status["/a.jpg"]


@pytest.mark.parametrize("status", [408, 429, 503, 520])
def test_a_server_that_stays_busy_ends_the_listing(tmp_path: Path, site: Any, status: int) -> None:
    site.files = {"/a.jpg": jpeg(), "/b.jpg": jpeg()}
    source = from_list(tmp_path, site, "/b.jpg", "/a.jpg")
    site.status = {"/a.jpg": [status] * 99}
    with pytest.raises(Unreachable) as caught:
        references(source)
    said = f"{site.url}/a.jpg cannot be looked up: the server answered {status}"
    assert str(caught.value).startswith(said)
    assert "nothing was changed" in str(caught.value)
    assert "run again" in caught.value.fix
    assert caught.value.retryable
    assert 2 < 99 - len(site.status["/a.jpg"]) < 12  # asked again, but not for ever
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("status", [404, 410])
def test_only_what_is_gone_is_absent(tmp_path: Path, site: Any, status: int) -> None:
    site.files = {"/a.jpg": jpeg(), "/b.jpg": jpeg()}
    source = from_list(tmp_path, site, "/a.jpg", "/b.jpg")
    before = references(source)
    site.status = {"/a.jpg": [status] * 2}  # HEAD, then GET
    gone, there = references(source)
    assert (gone.uri, gone.version, there) == (before[0].uri, "absent", before[1])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_ends_the_listing_at_once(tmp_path: Path, site: Any, status: int) -> None:
    site.files = {"/a.jpg": jpeg()}
    site.status = {"/a.jpg": [status] * 99}
    with pytest.raises(InvalidUse, match=rf"/a.jpg cannot be looked up: the server answered {status}.*nothing was"):
        references(from_list(tmp_path, site, "/a.jpg"))
    assert len(site.asked) == 2


@contextmanager
def unsteady(failures: int, fail: Callable[[socket.socket], None], body: bytes) -> Iterator[str]:
    """Serve one file from a socket that first fails some connections in its own way; yields the url."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            left = failures
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.recv(4096)
                if left:
                    left -= 1
                    threading.Thread(target=fail, args=(connection,), daemon=True).start()
                    continue
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode())
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
        listening.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def say_nothing(connection: socket.socket) -> None:
    connection.settimeout(10)
    connection.recv(1)  # returns when the client leaves
    connection.close()


@pytest.mark.parametrize(("fail", "why"), [(reset, "broke off"), (say_nothing, "sent nothing for 0.3 s")])
def test_a_connection_that_breaks_is_tried_again(tmp_path: Path, fail: Any, why: str) -> None:
    for failures, answers in ((2, True), (99, False)):
        with unsteady(failures, fail, jpeg()) as url:
            (tmp_path / "urls.txt").write_text(url)
            source = Files(list=str(tmp_path / "urls.txt"), timeout=0.3)
            if answers:
                assert [one.size for one in references(source)] == [len(jpeg())]
                continue
            with pytest.raises(Unreachable, match=f"cannot be looked up: .*{why}"):
                references(source)


def test_a_size_nobody_announced_is_still_limited(tmp_path: Path, site: Any) -> None:
    site.files = {"/a.jpg": jpeg() + bytes(100_000)}
    site.has_length = False
    source = from_list(tmp_path, site, "/a.jpg")
    (reference,) = references(source)
    with pytest.raises(BadMedia) as caught:
        Files(max_bytes=50_000).get(reference)
    assert caught.value.code == "too_large"
