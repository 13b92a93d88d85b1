"""Original bytes come as they were ingested, in any range, from any store, to who may see all of their row."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import av
import pyarrow as pa
import pytest
import requests
from gallery import Piece, Raw, film, put, rows_of, save
from starlette.testclient import TestClient

from raycluster.lake.access import Access
from raycluster.lake.lake import Lake
from raycluster.read._local import LocalStore
from raycluster.read._store import CHUNK_BYTES, Found
from raycluster.serve.ticket import SECONDS

LARGE = os.urandom(8 * CHUNK_BYTES + 5)


def media(key: str, dataset: str = "gallery") -> str:
    return f"/v1/datasets/{dataset}/rows/{key}/media"


def one_row(lake: Lake, uri: str, media_type: str = "video/mp4", dataset: str = "one") -> str:
    """Make a dataset of one row about what lies at a uri; return where its media are."""
    raw = Raw(b"", "video", media_type, (Piece(),))
    rows = rows_of({"x": uri}, {"x": raw})
    put(lake, dataset, rows)
    return media(rows["id"][0].as_py(), dataset)


def local(lake: Lake, folder: Path, name: str, content: bytes, media_type: str = "video/mp4") -> str:
    uri = save(folder, {name: Raw(content, "video", media_type)})[name]
    return one_row(lake, uri, media_type)


def test_a_whole_object(client: TestClient, ids: dict[str, str], folder: Path) -> None:
    for name, path in [("clip.mp4", "video"), ("blå himmel #1.png", "photos"), ("tone.wav@1", "sounds")]:
        answer = client.get(media(ids[name]))
        content = (folder / path / name.partition("@")[0]).read_bytes()
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["Content-Length"] == str(len(content))
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["Vary"] == "Authorization"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Type"] == "audio/x-wav"


def test_the_pieces_of_an_object_have_the_same_bytes(client: TestClient, ids: dict[str, str]) -> None:
    tags = {client.head(media(ids[name])).headers["ETag"] for name in ("clip.mp4", "clip.mp4@1", "clip.mp4@2")}
    assert len(tags) == 1


FILM = film()
SIZE = len(FILM)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes=10-{SIZE * 9}", 10, SIZE),
        ("bytes= 5-9 ", 5, 10),
    ],
)
def test_a_range(client: TestClient, ids: dict[str, str], asked: str, start: int, stop: int) -> None:
    answer = client.get(media(ids["clip.mp4"]), headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, FILM[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-9", "bytes=9-5", "bytes=-", "bytes=a-b", "items=0-1", "bytes=1", "", "bytes=" + "9" * 40 + "-"],
)
def test_ranges_that_are_none_get_all(client: TestClient, ids: dict[str, str], asked: str) -> None:
    answer = client.get(media(ids["clip.mp4"]), headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE * 2}-{SIZE * 3}", "bytes=-0"])
def test_ranges_behind_the_end(client: TestClient, ids: dict[str, str], asked: str) -> None:
    answer = client.get(media(ids["clip.mp4"]), headers={"Range": asked})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert answer.json()["error"]["code"] == "range"


def test_conditions(client: TestClient, ids: dict[str, str]) -> None:
    url = media(ids["clip.mp4"])
    tag = client.head(url).headers["ETag"]
    for asked, status in [
        ({"Range": "bytes=0-9", "If-Range": tag}, 206),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-9", "If-Range": f"W/{tag}"}, 200),
        ({"Range": "bytes=0-9", "If-Range": "Sat, 28 Nov 2026 00:00:00 GMT"}, 200),
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": tag, "Range": "bytes=0-9"}, 304),
        ({"If-None-Match": '"other"'}, 200),
    ]:
        answer = client.get(url, headers=asked)
        assert (answer.status_code, len(answer.content)) == (status, {206: 10, 200: SIZE, 304: 0}[status]), asked


def test_the_head_alone(client: TestClient, ids: dict[str, str]) -> None:
    whole = client.head(media(ids["clip.mp4"]))
    assert (whole.status_code, whole.content) == (200, b"")
    assert whole.headers["Content-Length"] == str(SIZE)
    part = client.head(media(ids["clip.mp4"]), headers={"Range": "bytes=5-"})
    assert (part.status_code, part.headers["Content-Length"]) == (206, str(SIZE - 5))
    assert client.head(media("0" * 64)).status_code == 404


def test_a_player_seeks_over_http(address: str, ids: dict[str, str]) -> None:
    """As a browser's video element does, with its demuxer's own ranges."""
    with av.open(address + media(ids["clip.mp4"])) as container:
        container.seek(int(2.0 * av.time_base))
        frame = next(container.decode(video=0))
        assert frame.time >= 1.0
        assert frame.to_ndarray(format="gray").mean() > 60, "later frames of this film are brighter"


@pytest.mark.parametrize("change", ["rewritten", "touched", "removed", "replaced by a folder"])
def test_an_object_that_is_not_what_it_was(client: TestClient, ids: dict[str, str], folder: Path, change: str) -> None:
    path = folder / "photos/red.png"
    if change == "rewritten":
        path.write_bytes(b"a secret that moved in here")
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    if change == "replaced by a folder":
        path.mkdir()
    for answer in (client.get(media(ids["red.png"])), client.get(media(ids["red.png"]), headers={"Range": "bytes=0-"})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone")
        assert "run its workload again" in answer.json()["error"]["fix"]
        assert "ETag" not in answer.headers


def test_a_dataset_of_a_stranger_reads_no_file_of_ours(client: TestClient, lake: Lake, tmp_path: Path) -> None:
    """Its rows may name any uri: without the version that the file has now, no id fits."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    url = one_row(lake, secret.as_uri())
    os.utime(secret, ns=(5, 5))
    assert client.get(url).status_code == 410


@pytest.fixture
def stranger(lake: Lake, tmp_path: Path) -> Callable[[Any], str]:
    """Return where the media of a row are whose maker may call them what he likes."""
    return lambda media_type: local(lake, tmp_path, "a.bin", b"<script>alert(1)</script>", media_type)


@pytest.mark.parametrize(
    ("media_type", "sent", "way"),
    [
        ("image/png", "image/png", "inline"),
        ("video/mp4", "video/mp4", "inline"),
        ("audio/x-wav", "audio/x-wav", "inline"),
        ("text/plain", "text/plain; charset=utf-8", "inline"),
        ("text/html", "text/plain; charset=utf-8", "attachment"),
        ("TEXT/HTML", "text/plain; charset=utf-8", "attachment"),
        ("application/xhtml+xml", "text/plain; charset=utf-8", "attachment"),
        ("image/svg+xml", "text/plain; charset=utf-8", "attachment"),
        ("text/xml", "text/plain; charset=utf-8", "attachment"),
        ("text/javascript", "text/plain; charset=utf-8", "attachment"),
        ("text/html; charset=utf-8", "text/plain; charset=utf-8", "attachment"),
        ("text/html\r\nX-Evil: 1", "text/plain; charset=utf-8", "attachment"),
        ("application/pdf", "application/pdf", "attachment"),
        ("application/x-shockwave-flash", "application/octet-stream", "attachment"),
        ("multipart/x-mixed-replace", "application/octet-stream", "attachment"),
        ("video", "application/octet-stream", "attachment"),
        ("image/png, text/html", "application/octet-stream", "attachment"),
        (None, "application/octet-stream", "attachment"),
    ],
)
def test_nothing_leaves_as_what_a_browser_runs(
    client: TestClient, stranger: Callable[[Any], str], media_type: Any, sent: str, way: str
) -> None:
    answer = client.get(stranger(media_type))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].partition(";")[0] == sent.partition(";")[0]
    assert answer.headers["Content-Disposition"].partition(";")[0] == way
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "X-Evil" not in answer.headers


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.mp4", "a.mp4"),
        ('a"; filename="b.exe', "a; filename=b.exe"),
        ("å b%20.mp4", "_ b%20.mp4"),
        ("a\r\nX-Evil: 1.mp4", "aX-Evil: 1.mp4"),
        ("..\\..\\a.mp4", "....a.mp4"),
        ("n" * 200 + ".mp4", "n" * 116 + ".mp4"),
    ],
)
def test_names_of_files(client: TestClient, lake: Lake, tmp_path: Path, name: str, safe: str) -> None:
    answer = client.get(local(lake, tmp_path, name, b"x"))
    said = answer.headers["Content-Disposition"]
    assert said.startswith(f"inline; filename=\"{safe}\"; filename*=UTF-8''")
    assert "X-Evil" not in answer.headers


def test_bytes_come_in_chunks(address: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = address + local(lake, tmp_path, "large.bin", LARGE)
    sizes: list[int] = []
    part = LocalStore.part

    def watched(self: LocalStore, found: Found, start: int, length: int) -> Iterator[bytes]:
        for chunk in part(self, found, start, length):
            sizes.append(len(chunk))
            yield chunk

    monkeypatch.setattr(LocalStore, "part", watched)
    assert requests.get(url, timeout=10).content == LARGE
    assert (max(sizes), sum(sizes)) == (CHUNK_BYTES, len(LARGE))


def test_a_client_that_leaves_ends_the_reading(
    address: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = local(lake, tmp_path, "large.bin", b"x" * 10)
    told: list[str] = []

    def endless(self: LocalStore, found: Found, start: int, length: int) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * CHUNK_BYTES
        finally:
            told.append("closed")

    monkeypatch.setattr(LocalStore, "part", endless)
    monkeypatch.setattr(
        "raycluster.serve.media.original", lambda uri, *_, **__: (LocalStore(), Found(uri, "1", 1 << 40))
    )
    host, port = urlsplit(address).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert not told
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told == ["closed"]


def test_a_store_that_fails_midway_ends_the_connection(
    address: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = address + local(lake, tmp_path, "large.bin", LARGE)

    def broken(self: LocalStore, found: Found, start: int, length: int) -> Iterator[bytes]:
        yield LARGE[:CHUNK_BYTES]
        raise OSError("the connection broke")

    monkeypatch.setattr(LocalStore, "part", broken)
    answer = requests.get(url, timeout=10, stream=True)
    assert answer.status_code == 200
    seen = bytearray()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        seen.extend(byte for chunk in answer.iter_content(1 << 16) for byte in chunk)
    assert LARGE.startswith(bytes(seen)), "and no error in JSON among them"


def test_a_store_that_fails_at_once_is_told(
    client: TestClient, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LocalStore, found: Found, start: int, length: int) -> Iterator[bytes]:
        raise PermissionError(13, "Permission denied")
        yield b""

    monkeypatch.setattr(LocalStore, "part", broken)
    answer = client.get(media(ids["clip.mp4"]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unreachable")


def test_a_cell_of_a_table_cannot_be_served(client: TestClient, lake: Lake, tmp_path: Path) -> None:
    save(tmp_path, {"t.parquet": Raw(b"x", "image", "image/png")})
    (tmp_path / "cells").mkdir()
    cell = tmp_path / "cells" / "t.parquet#5"  # stands in for the cell while its row is made
    cell.write_bytes(b"x")
    rows = rows_of({"x": cell.as_uri()}, {"x": Raw(b"", "image", "image/png", (Piece(),))})
    uri = f"{(tmp_path / 't.parquet').as_uri()}#5"
    at = rows.schema.get_field_index("uri")
    put(lake, "cells", rows.set_column(at, rows.schema.field(at), pa.array([uri])))
    answer = client.get(media(rows["id"][0].as_py(), "cells"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "unserved")
    assert f"row 5 of {uri.partition('#')[0]}" in answer.json()["error"]["fix"]


def test_who_may_see_original_bytes(ask: Callable[..., Any], ids: dict[str, str], told: Any) -> None:
    assert ask("ann", media(ids["clip.mp4"])).status_code == 200
    assert ask("bob", media(ids["red.png"])).status_code == 200
    assert ask("bob", media(ids["clip.mp4"])).status_code == 404, "the row is hidden"
    masked = ask("cid", media(ids["red.png"]))
    assert (masked.status_code, masked.json()["error"]["code"]) == (403, "forbidden")
    assert ask("dan", media(ids["red.png"])).status_code == 403
    assert ask("eve", media(ids["red.png"])).status_code == 401
    for way in ("link=true", "ticket=new"):
        assert ask("bob", f"{media(ids['clip.mp4'])}?{way}").status_code == 404
        assert ask("cid", f"{media(ids['red.png'])}?{way}").status_code == 403
        assert ask("dan", f"{media(ids['red.png'])}?{way}").status_code == 403
    tag = ask("ann", media(ids["clip.mp4"]), method="HEAD").headers["ETag"]
    assert ask("bob", media(ids["clip.mp4"]), headers={"If-None-Match": tag}).status_code == 404
    told.allowed["ann"]["gallery"] = Access(masks={"label": "NULL"})
    assert ask("ann", media(ids["clip.mp4"])).status_code == 403


def test_a_ticket_needs_no_credentials(ask: Callable[..., Any], client: TestClient, ids: dict[str, str]) -> None:
    answer = ask("bob", f"{media(ids['red.png'])}?ticket=new").json()
    ends = datetime.fromisoformat(answer["expires_at"])
    assert abs((ends - datetime.now(UTC)).total_seconds() - SECONDS) < 5
    found = client.get(answer["url"], headers={"Range": "bytes=0-7"})
    assert (found.status_code, found.content) == (206, b"\x89PNG\r\n\x1a\n")
    assert client.head(answer["url"]).status_code == 200
    assert client.get(media(ids["red.png"])).status_code == 401
    ticket = answer["url"].partition("ticket=")[2]
    for other in (ids["clip.mp4"], ids["blue.png"]):
        assert client.get(f"{media(other)}?ticket={ticket}").status_code == 401
    assert client.get(f"/v1/datasets/gallery/rows/{ids['red.png']}/thumbnail?ticket={ticket}").status_code == 401
    assert client.get(f"{answer['url']}&link=true").status_code == 400
    assert client.get(f"{answer['url']}&version=1").status_code == 401


def test_a_ticket_ends_with_its_row_and_its_policy(
    ask: Callable[..., Any], client: TestClient, ids: dict[str, str], told: Any, folder: Path
) -> None:
    url = ask("ann", f"{media(ids['red.png'])}?ticket=new").json()["url"]
    told.revision = "2"
    assert client.get(url).status_code == 401
    told.revision = "1"
    assert client.get(url).status_code == 200
    (folder / "photos/red.png").unlink()
    assert client.get(url).status_code == 410


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of an S3 server of its own."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield boto3.resource("s3").create_bucket(Bucket=f"media-{time.monotonic_ns()}")
    server.stop()


def test_an_object_of_a_bucket_and_links_to_it(client: TestClient, lake: Lake, bucket: Any) -> None:
    bucket.put_object(Key="films/a b#1.mp4", Body=LARGE)
    url = one_row(lake, f"s3://{bucket.name}/films/a b#1.mp4")
    assert client.get(url).content == LARGE
    part = client.get(url, headers={"Range": f"bytes={CHUNK_BYTES}-"})
    assert (part.status_code, part.content) == (206, LARGE[CHUNK_BYTES:])
    answer = client.get(f"{url}?link=true").json()
    assert 290 < (datetime.fromisoformat(answer["expires_at"]) - datetime.now(UTC)).total_seconds() < 301
    linked = requests.get(answer["url"], headers={"Range": "bytes=10-19"}, timeout=10)
    assert (linked.status_code, linked.content) == (206, LARGE[10:20])
    assert linked.headers["Content-Type"] == "video/mp4"
    assert linked.headers["Content-Disposition"].startswith('inline; filename="a b#1.mp4"')
    there = client.get(f"{url}?link=redirect", follow_redirects=False)
    assert there.status_code == 307
    assert requests.get(there.headers["Location"], timeout=10).content == LARGE
    time.sleep(1.1)  # S3 tells times in whole seconds
    bucket.put_object(Key="films/a b#1.mp4", Body=b"another")
    for way in ("", "?link=true"):
        assert client.get(url + way).status_code == 410
    bucket.Object("films/a b#1.mp4").delete()
    assert client.get(url).status_code == 410


def test_stores_without_links(client: TestClient, ids: dict[str, str]) -> None:
    answer = client.get(f"{media(ids['red.png'])}?link=true")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "link")
    assert client.get(f"{media(ids['red.png'])}?link=maybe").status_code == 400


def test_an_object_of_another_store(client: TestClient, lake: Lake) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/films/ü.mp4", FILM)
    url = one_row(lake, "memory:///films/ü.mp4")
    assert client.get(url, headers={"Range": "bytes=-9"}).content == FILM[-9:]
    assert quote("ü.mp4") in client.head(url).headers["Content-Disposition"]
    fsspec.filesystem("memory").rm("/films", recursive=True)
    assert client.get(url).status_code == 410
