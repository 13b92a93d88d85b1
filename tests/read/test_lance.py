"""Rows of any Lance table become objects: bytes, blobs of both kinds, URIs; names that outlive appends."""

import io
import shutil
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from raycluster.errors import BadMedia, InvalidUse, NotFound
from raycluster.read import Reference, Source
from raycluster.read.lance import Lance


def references(source: Source) -> list[Reference]:
    return [Reference(**one) for batch in source.objects() for one in batch.to_pylist()]


def jpeg(color: str = "red") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(file, "JPEG")
    return file.getvalue()


def photos(count: int) -> list[bytes]:
    return [jpeg() + str(number).encode() for number in range(count)]


def verdict(source: Source, reference: Reference) -> BadMedia:
    with pytest.raises(BadMedia) as caught:
        source.get(reference)
    return caught.value


def named(source: Lance) -> dict[str, Reference]:
    found = references(source)
    assert len({one.uri for one in found}) == len(found)
    return {one.uri.partition("#")[2]: one for one in found}


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Write 100 photos in three fragments."""
    uri = str(tmp_path / "photos.lance")
    lance.write_dataset(
        pa.table({"key": [f"k{row}" for row in range(100)], "image": photos(100)}), uri, max_rows_per_file=40
    )
    return uri


def test_bytes(table: str) -> None:
    source = Lance(uri=table, column="image")
    found = references(source)
    assert all(one.uri.startswith(f"{Path(table).as_uri()}#") for one in found)
    assert len({one.uri for one in found}) == 100
    assert sum(one.size for one in found) > 0
    fetched = [media for _, media in source.fetch(found)]
    assert [media.content for media in fetched] == photos(100)
    assert {media.media_type for media in fetched} == {"image/jpeg"}
    assert source.peek(found[50], 3) == jpeg()[:3]
    assert references(source) == found


def test_an_append_changes_no_other_row(table: str) -> None:
    for identifier in ("key", None):
        source = Lance(uri=table, column="image", id=identifier)
        before = named(source)
        number = len(before)
        more = pa.table({"key": [f"new{number}"], "image": [jpeg("blue")]})
        lance.write_dataset(more, table, mode="append")
        after = named(source)
        assert len(after) == number + 1
        assert {name: after[name].version for name in before} == {name: one.version for name, one in before.items()}


def test_rows_go_and_change(table: str) -> None:
    source = Lance(uri=table, column="image", id="key")
    before = named(source)
    dataset = lance.dataset(table)
    dataset.delete("key = 'k3'")
    changed = pa.table({"key": ["k50"], "image": [jpeg("blue")]})
    dataset.merge_insert("key").when_matched_update_all().execute(changed)
    after = named(source)
    assert set(before) - set(after) == {"k3"}
    assert [name for name in after if after[name].version != before[name].version] == ["k50"]
    assert source.get(after["k50"]).content == jpeg("blue")
    assert source.get(after["k4"]).content == photos(100)[4]
    # What was listed is still what is read: a reference holds its version of the table.
    assert source.get(before["k50"]).content == photos(100)[50]
    by_row = named(Lance(uri=table, column="image"))
    assert sorted(source.get(one).content for one in by_row.values()) == sorted(
        [*(one for row, one in enumerate(photos(100)) if row not in (3, 50)), jpeg("blue")]
    )


def test_versions_and_tags(table: str) -> None:
    dataset = lance.dataset(table)
    dataset.tags.create("first", dataset.version)
    dataset.delete("key != 'k0'")
    assert len(references(Lance(uri=table, column="image"))) == 1
    assert len(references(Lance(uri=table, column="image", version="first"))) == 100
    assert len(references(Lance(uri=table, column="image", version=1))) == 100
    with pytest.raises(NotFound, match="no version 99"):
        Lance(uri=table, column="image", version=99).objects()


def test_blobs(tmp_path: Path) -> None:
    contents: list[bytes | None] = [jpeg(), None, jpeg() + bytes(300_000), b""]
    old, new = str(tmp_path / "old.lance"), str(tmp_path / "new.lance")
    schema = pa.schema([pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})])
    lance.write_dataset(pa.table({"image": contents}, schema), old, data_storage_version="2.1")
    blobs = pa.table({"image": lance.blob_array(contents)}, pa.schema([lance.blob_field("image")]))
    lance.write_dataset(blobs, new, data_storage_version="2.2")
    for uri in (old, new):
        source = Lance(uri=uri, column="image", memory_bytes=100_000)
        small, null, large, empty = references(source)
        assert (small.size, large.size) == (len(jpeg()), len(jpeg()) + 300_000)
        assert source.get(small).content == jpeg()
        media = source.get(large)
        assert Path(media.path).read_bytes() == contents[2]
        assert verdict(source, null).code == "empty"
        assert verdict(source, empty).code == "empty"
        assert verdict(Lance(uri=uri, column="image", max_bytes=1000), large).code == "too_large"
        assert source.peek(large, 3) == jpeg()[:3]


def test_a_field_of_a_struct(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.lance")
    lance.write_dataset(pa.table({"image": [{"bytes": one, "path": "x"} for one in photos(20)]}), uri)
    source = Lance(uri=uri, column="image.bytes")
    assert [media.content for _, media in source.fetch(references(source))] == photos(20)
    with pytest.raises(InvalidUse, match="neither bytes nor URIs"):
        Lance(uri=uri, column="image").objects()


def test_uris(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg() + name.encode())
    uri = str(tmp_path / "a.lance")
    links = [str(tmp_path / "b.jpg"), str(tmp_path / "a.jpg"), None, str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg")]
    lance.write_dataset(pa.table({"link": links}), uri)
    source = Lance(uri=uri, column="link")
    found = {one.uri.rpartition("/")[2]: one for one in references(source)}
    assert set(found) == {"a.jpg", "b.jpg", "c.jpg", "a.lance#2"}
    assert source.get(found["a.jpg"]).content == jpeg() + b"a"
    assert source.peek(found["b.jpg"], 3) == jpeg()[:3]
    assert verdict(source, found["c.jpg"]).code == "unreadable"
    assert verdict(source, found["a.lance#2"]).code == "empty"


def test_bad_cells(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.lance")
    lance.write_dataset(pa.table({"image": [jpeg(), None, b"", bytes(range(256)) * 9]}), uri)
    source = Lance(uri=uri, column="image")
    found = references(source)
    assert source.get(found[0]).content == jpeg()
    assert [verdict(source, one).code for one in found[1:]] == ["empty", "empty", "unsupported"]


def test_a_table_that_vanishes(table: str) -> None:
    found = references(Lance(uri=table, column="image"))
    shutil.rmtree(table)
    assert verdict(Lance(uri=table, column="image"), found[0]).code == "unreadable"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"uri": "nowhere.lance"}, "no dataset at"),
        ({"column": "imag"}, "no column 'imag'"),
        ({"id": "kye"}, "no column 'kye'"),
        ({"column": "key", "id": "key"}, "`id` has no use"),
    ],
)
def test_wrong_use(table: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidUse, match=message):
        Lance(**{"uri": table, "column": "image", **keys}).objects()


def test_ids_that_name_nothing(table: str) -> None:
    lance.write_dataset(pa.table({"key": ["k7"], "image": [jpeg()]}), table, mode="append")
    with pytest.raises(InvalidUse, match="has 'k7' twice"):
        references(Lance(uri=table, column="image", id="key"))


def test_on_s3(bucket: Any) -> None:
    uri = f"s3://{bucket.name}/photos.lance"
    lance.write_dataset(pa.table({"key": list(range(50)), "image": photos(50)}), uri)
    source = Lance(uri=uri, column="image", id="key")
    found = references(source)
    assert found[7].uri == f"{uri}#7"
    assert [media.content for _, media in source.fetch(found)] == photos(50)
