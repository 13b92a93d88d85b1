"""Objects of a real S3 server become references and media; so do those of any store of fsspec."""

import gc
import hashlib
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference, Source
from raycluster.read._arrow import ArrowStore
from raycluster.read.files import Files


def references(source: Source) -> list[Reference]:
    return [Reference(**one) for batch in source.objects() for one in batch.to_pylist()]


def jpeg(color: str = "red") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(file, "JPEG")
    return file.getvalue()


def put(bucket: Any, **files: bytes) -> None:
    for key, content in files.items():
        bucket.put_object(Key=key, Body=content)


def test_a_bucket(bucket: Any) -> None:
    keys = ["photos/a b.jpg", "photos/x/ü%20.jpg", "photos/x.jpg", "photos/x-y/z.jpg", "other/o.jpg"]
    put(bucket, **{key: jpeg() + key.encode() for key in keys})
    root = f"s3://{bucket.name}"
    source = Files(paths=(f"{root}/photos/",))
    found = references(source)
    assert [one.uri for one in found] == sorted(f"{root}/{key}" for key in keys[:4])
    for reference, media in source.fetch(found):
        content = jpeg() + reference.uri.removeprefix(f"{root}/").encode()
        assert media.content == content
        assert media.sha256 == hashlib.sha256(content).hexdigest()
        assert reference.size == len(content)
    assert source.peek(found[0], 4) == jpeg()[:4]
    assert source.peek(found[0], 10**6) == jpeg() + b"photos/a b.jpg"
    everything = references(Files(paths=(root, f"{root}/photos")))
    assert sorted(one.uri for one in everything) == sorted(f"{root}/{key}" for key in keys)


def test_folders_are_listed_side_by_side_and_come_in_order(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{folder}/{inner}/{name}" for folder in "abcd" for inner in "xy" for name in ("1.jpg", "2.jpg")]
    put(bucket, **dict.fromkeys(keys, jpeg()))
    root = f"s3://{bucket.name}"
    together = threading.Barrier(4, timeout=20)  # breaks where one waits for another
    children = ArrowStore.children

    def beside(store: ArrowStore, uri: str) -> Any:
        if uri.count("/") == 3:
            together.wait()
        return children(store, uri)

    monkeypatch.setattr(ArrowStore, "children", beside)
    assert [one.uri for one in references(Files(paths=(root,)))] == [f"{root}/{key}" for key in keys]
    first = Files(paths=(f"{root}/*/x/*",)).objects()  # looks for one match before anything is listed
    assert next(first)["uri"].to_pylist() == [f"{root}/{key}" for key in keys if "/x/" in key]


def test_globs_and_single_objects(bucket: Any) -> None:
    put(bucket, **{"a/1.jpg": jpeg(), "a/2.png": jpeg(), "b/[3].jpg": jpeg()})
    root = f"s3://{bucket.name}"
    assert [one.uri for one in references(Files(paths=(f"{root}/*/*.jpg",)))] == [
        f"{root}/a/1.jpg",
        f"{root}/b/[3].jpg",
    ]
    assert [one.uri for one in references(Files(paths=(f"{root}/b/[3].jpg",)))] == [f"{root}/b/[3].jpg"]
    assert [one.uri for one in references(Files(paths=(root,), exclude=("a",)))] == [f"{root}/b/[3].jpg"]


def test_a_changed_object_has_a_new_version(bucket: Any) -> None:
    put(bucket, **{"a.jpg": jpeg()})
    source = Files(paths=(f"s3://{bucket.name}",))
    (before,) = references(source)
    assert references(source) == [before]
    time.sleep(1.1)  # S3 tells times in whole seconds
    put(bucket, **{"a.jpg": jpeg("blue")})
    with pytest.raises(BadMedia, match="has changed since it was listed") as caught:
        source.get(before)
    assert caught.value.code == "unreadable"
    (after,) = references(source)
    assert (after.uri, after.version != before.version) == (before.uri, True)
    assert source.get(after).content == jpeg("blue")
    bucket.Object("a.jpg").delete()
    with pytest.raises(BadMedia, match="no such file"):
        source.get(after)


def test_a_large_object_is_spooled_and_removed(bucket: Any) -> None:
    content = jpeg() + os.urandom(3 << 20)
    put(bucket, **{"large.jpg": content, "small.jpg": jpeg()})
    source = Files(paths=(f"s3://{bucket.name}",), memory_bytes=1 << 20)
    large, small = (media for _, media in source.fetch(references(source)))
    assert small.path is None
    assert large.content is None
    assert large.media_type == "image/jpeg"
    path = Path(large.path)
    assert path.read_bytes() == content
    assert large.sha256 == hashlib.sha256(content).hexdigest()
    del large
    gc.collect()
    assert not path.exists()
    with pytest.raises(BadMedia) as caught:
        Files(max_bytes=2 << 20).get(references(source)[0])
    assert caught.value.code == "too_large"
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("path", ["s3://no-such-bucket-here", "s3://no-such-bucket-here/a/b"])
def test_a_missing_bucket(bucket: Any, path: str) -> None:
    with pytest.raises(InvalidUse, match=r"no-such-bucket-here.* does not exist"):
        Files(paths=(path,)).objects()


def test_a_missing_key(bucket: Any) -> None:
    with pytest.raises(InvalidUse, match=r"nothing\.jpg does not exist"):
        Files(paths=(f"s3://{bucket.name}/nothing.jpg",)).objects()


def test_access_denied(s3_server: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moto checks signatures and policies from here on; the user it knows may do nothing."""
    import boto3
    import requests

    put(bucket, **{"a.jpg": jpeg()})
    users = boto3.client("iam")
    users.create_user(UserName=bucket.name)
    key = users.create_access_key(UserName=bucket.name)["AccessKey"]
    allowed = references(Files(paths=(f"s3://{bucket.name}",)))
    requests.post(f"{s3_server}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        denied = Files(timeout=59.0)  # another timeout, another client: the first one keeps its credentials
        with pytest.raises(InvalidUse, match=r"ACCESS_DENIED|denied"):
            list(Files(paths=(f"s3://{bucket.name}",), timeout=59.0).objects())
        with pytest.raises(BadMedia, match=r"ACCESS_DENIED|denied") as caught:
            denied.get(allowed[0])
        assert caught.value.code == "unreadable"
    finally:
        requests.post(f"{s3_server}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_any_store_of_fsspec() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/media/a.jpg": jpeg(), "/media/x/b.jpg": jpeg("blue"), "/media/x/c.txt": b"words"})
    source = Files(paths=("memory://media",), include=("*.jpg",), memory_bytes=100)
    found = references(source)
    assert [one.uri for one in found] == ["memory:///media/a.jpg", "memory:///media/x/b.jpg"]
    assert references(source) == found
    media = source.get(found[1])
    assert Path(media.path).read_bytes() == jpeg("blue")
    assert source.peek(found[0], 3) == jpeg()[:3]
    time.sleep(0.01)
    memory.pipe("/media/a.jpg", jpeg("green"))
    assert references(source)[0].version != found[0].version
    memory.rm("/media", recursive=True)
    with pytest.raises(BadMedia, match="no such file"):
        source.get(found[0])
    with pytest.raises(InvalidUse, match="does not exist"):
        source.objects()
