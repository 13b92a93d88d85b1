"""Rows of Parquet files become objects: bytes in any shape, URIs, and files that are damaged."""

import hashlib
import io
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference, Source
from raycluster.read.parquet import Parquet


def references(source: Source) -> list[Reference]:
    return [Reference(**one) for batch in source.objects() for one in batch.to_pylist()]


def jpeg(color: str = "red") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(file, "JPEG")
    return file.getvalue()


def photos(count: int, size: int = 0) -> list[bytes]:
    draw = random.Random(count)
    return [jpeg() + draw.randbytes(size) + str(number).encode() for number in range(count)]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=40)
    return path


def verdict(source: Source, reference: Reference) -> BadMedia:
    with pytest.raises(BadMedia) as caught:
        source.get(reference)
    return caught.value


def test_bytes_named_by_row(tmp_path: Path) -> None:
    contents = photos(100)
    path = write(tmp_path / "a b.parquet", image=contents)
    source = Parquet(paths=(str(tmp_path),), column="image")
    found = references(source)
    assert [one.uri for one in found] == [f"{path.as_uri()}#{row}" for row in range(100)]
    assert [one.locator for one in found] == [f"{row // 40}:{row % 40}" for row in range(100)]
    assert {one.version for one in found} == {f"{path.stat().st_size}-{path.stat().st_mtime_ns}"}
    assert sum(one.size for one in found) == pytest.approx(sum(map(len, contents)), rel=0.1)
    fetched = [media for _, media in source.fetch(found)]
    assert [media.content for media in fetched] == contents
    assert [media.sha256 for media in fetched] == [hashlib.sha256(one).hexdigest() for one in contents]
    assert {media.media_type for media in fetched} == {"image/jpeg"}
    assert len({media.object_id for media in fetched}) == 100
    assert source.peek(found[50], 4) == jpeg()[:4]


def test_bytes_named_by_id(tmp_path: Path) -> None:
    contents = photos(3)
    path = write(tmp_path / "a.parquet", image=contents, key=["x/1", "ü", "a#b"])
    found = references(Parquet(paths=(str(path),), column="image", id="key"))
    assert [one.uri.partition("#")[2] for one in found] == ["x%2F1", "%C3%BC", "a%23b"]
    write(path, image=contents[::-1], key=["a#b", "ü", "x/1"])
    source = Parquet(paths=(str(path),), column="image", id="key")
    again = {one.uri: one for one in references(source)}
    assert [source.get(again[one.uri]).content for one in found] == contents
    assert {one.version for one in again.values()}.isdisjoint(one.version for one in found)
    assert "has changed" in verdict(source, found[0]).message


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["a", None, "b"]])
def test_ids_that_name_nothing(tmp_path: Path, keys: list[str | None]) -> None:
    path = write(tmp_path / "a.parquet", image=photos(3), key=keys)
    with pytest.raises(InvalidUse, match="id column 'key'"):
        references(Parquet(paths=(str(path),), column="image", id="key"))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_types_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    contents = photos(3)
    write(tmp_path / "a.parquet", image=pa.array(contents, pa.binary()).cast(kind))
    source = Parquet(paths=(str(tmp_path),), column="image")
    assert [media.content for _, media in source.fetch(references(source))] == contents


def test_a_field_of_a_struct(tmp_path: Path) -> None:
    contents = photos(60)
    write(tmp_path / "a.parquet", image=[{"bytes": one, "path": "x.jpg"} for one in contents])
    source = Parquet(paths=(str(tmp_path),), column="image.bytes")
    assert [media.content for _, media in source.fetch(references(source))] == contents
    assert references(source)[0].size > 0
    with pytest.raises(InvalidUse, match="neither bytes nor URIs") as caught:
        Parquet(paths=(str(tmp_path),), column="image").objects()
    assert "image.bytes" in caught.value.fix


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    for name in "abc":
        (tmp_path / f"x/{name}.jpg").write_bytes(jpeg() + name.encode())
    uris = [str(tmp_path / "x/a.jpg"), None, (tmp_path / "x/b.jpg").as_uri(), "x/c.jpg", "x/a.jpg", "x/none.jpg", ""]
    path = write(tmp_path / "a.parquet", link=uris)
    monkeypatch.chdir(tmp_path)
    source = Parquet(paths=(str(path),), column="link")
    found = {one.uri: one for one in references(source)}
    files = [(tmp_path / f"x/{name}.jpg").as_uri() for name in "abc"]
    missing = (tmp_path / "x/none.jpg").as_uri()
    assert set(found) == {*files, missing, f"{path.as_uri()}#1", f"{path.as_uri()}#6"}
    assert [source.get(found[uri]).content for uri in files] == [jpeg() + name for name in (b"a", b"b", b"c")]
    assert source.peek(found[files[0]], 3) == jpeg()[:3]
    assert verdict(source, found[missing]).code == "unreadable"
    assert verdict(source, found[f"{path.as_uri()}#1"]).code == "empty"
    with pytest.raises(InvalidUse, match="`id` has no use"):
        Parquet(paths=(str(path),), column="link", id="link").objects()


def test_a_uri_that_many_files_and_rows_name_is_one_object(site: Any, tmp_path: Path) -> None:
    site.files = {f"/{name}.jpg": jpeg() + name.encode() for name in "abc"}
    url = {name: f"{site.url}/{name}.jpg" for name in "abc"}
    write(tmp_path / "1.parquet", link=[url["a"], url["b"], url["a"], None])
    write(tmp_path / "2.parquet", link=[url["b"], url["b"] + "#part", url["c"]])
    write(tmp_path / "3.parquet", link=[url["a"]])
    found = [one.uri for one in references(Parquet(paths=(str(tmp_path),), column="link"))]
    null = f"{(tmp_path / '1.parquet').as_uri()}#3"
    assert sorted(found) == sorted([*url.values(), null])
    assert sorted(site.asked) == [f"HEAD /{name}.jpg" for name in "abc"]  # and the server is asked once about each


def test_bad_cells(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=[jpeg(), None, b"", os.urandom(300), jpeg() + bytes(500)])
    source = Parquet(paths=(str(tmp_path),), column="image", max_bytes=len(jpeg()) + 400)
    found = references(source)
    assert source.get(found[0]).content == jpeg()
    assert [verdict(source, one).code for one in found[1:]] == ["empty", "empty", "unsupported", "too_large"]


def test_a_large_cell_becomes_a_file(tmp_path: Path) -> None:
    contents = [jpeg() + bytes(200_000), jpeg()]
    write(tmp_path / "a.parquet", image=contents)
    source = Parquet(paths=(str(tmp_path),), column="image", memory_bytes=100_000)
    large, small = (media for _, media in source.fetch(references(source)))
    assert Path(large.path).read_bytes() == contents[0]
    assert small.content == contents[1]


def test_damaged_files_do_not_stop_the_others(tmp_path: Path) -> None:
    good = write(tmp_path / "b.parquet", image=photos(3))
    (tmp_path / "a.parquet").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "c.parquet").write_bytes(b"")
    footer = bytearray(good.read_bytes())
    footer[-60:-8] = os.urandom(52)
    (tmp_path / "d.parquet").write_bytes(footer)
    source = Parquet(paths=(str(tmp_path),), column="image")
    found = references(source)
    assert len(found) == 6
    judged = [media.code if isinstance(media, BadMedia) else "good" for _, media in source.fetch(found)]
    assert judged == ["corrupt", "good", "good", "good", "corrupt", "corrupt"]


def test_damaged_pages_cost_their_rows_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", image=photos(80, size=2000))
    broken = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    broken[start : start + 60] = b"\xff" * 60
    path.write_bytes(broken)
    source = Parquet(paths=(str(path),), column="image")
    media = [media for _, media in source.fetch(references(source))]
    assert {one.code for one in media[:40]} == {"corrupt"}
    assert {one.modality for one in media[40:]} == {"image"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"paths": ()}, "names no Parquet files"),
        ({"paths": ("nowhere.parquet",)}, "does not exist"),
        ({"include": ("*.pq",)}, "no Parquet file in"),
        ({"column": "imgae"}, "no column 'imgae'"),
        ({"column": "number"}, "neither bytes nor URIs"),
        ({"id": "nmae"}, "no column 'nmae'"),
    ],
)
def test_wrong_use(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.parquet", image=photos(1), number=[1], name=["x"])
    with pytest.raises(InvalidUse, match=message) as caught:
        Parquet(**{"paths": (str(tmp_path),), "column": "image", **keys}).objects()
    assert caught.value.fix


def bytes_read() -> int:
    """Return how many bytes this process has asked the system for."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar: "))


def test_listing_reads_no_payload_and_a_shard_reads_each_row_group_once(tmp_path: Path) -> None:
    contents = photos(400, size=50_000)
    path = write(tmp_path / "a.parquet", image=contents, key=[f"k{row}" for row in range(400)])
    size = path.stat().st_size
    source = Parquet(paths=(str(path),), column="image", id="key")
    before = bytes_read()
    found = references(source)
    assert bytes_read() - before < size / 20
    before = bytes_read()
    assert [media.content for _, media in source.fetch(found)] == contents
    assert bytes_read() - before < 1.2 * size


def test_a_large_row_group_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(path, schema, write_batch_size=8, use_dictionary=False) as writer:
        writer.write_table(pa.table({"image": photos(400, size=500_000)}, schema), row_group_size=400)
    source = Parquet(paths=(str(path),), column="image")
    found = references(source)
    pool = pa.default_memory_pool()
    most = held = pa.total_allocated_bytes()
    tracemalloc.start()
    for _, media in source.fetch(found):
        assert media.modality == "image"
        most = max(most, pool.bytes_allocated())
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 200_000_000
    assert most - held < 80_000_000
    assert python < 20_000_000


def test_on_s3(bucket: Any, tmp_path: Path) -> None:
    contents = photos(100)
    bucket.upload_file(str(write(tmp_path / "a.parquet", image=contents)), "tables/a.parquet")
    source = Parquet(paths=(f"s3://{bucket.name}/tables",), column="image")
    found = references(source)
    assert found[7].uri == f"s3://{bucket.name}/tables/a.parquet#7"
    assert [media.content for _, media in source.fetch(found)] == contents


def test_over_http(site: Any, tmp_path: Path) -> None:
    contents = photos(50)
    site.files["/a.parquet"] = write(tmp_path / "a.parquet", image=contents).read_bytes()
    source = Parquet(paths=(f"{site.url}/a.parquet",), column="image")
    assert [media.content for _, media in source.fetch(references(source))] == contents
