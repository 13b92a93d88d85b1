"""A link to an object of a real S3 server is followed without credentials, whole and in part, and says when it ends."""

import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import requests

from raycluster.errors import InvalidUse
from raycluster.read._sign import sign

CONTENT = bytes(range(256)) * 40


def link(bucket: Any, key: str = "a b/ü#1?.mp4", seconds: int = 300) -> str:
    bucket.put_object(Key=key, Body=CONTENT)
    return sign(
        f"s3://{bucket.name}/{key}", seconds=seconds, media_type="video/mp4", disposition='inline; filename="a.mp4"'
    )


def signature(url: str, secret: str) -> str:
    """Return what Amazon would expect as X-Amz-Signature.

    Source: Authenticating Requests: Using Query Parameters (AWS Signature Version 4).
    """
    parts = urlsplit(url)
    asked = {key: value for key, value in parse_qsl(parts.query) if key != "X-Amz-Signature"}
    query = "&".join(f"{quote(key, safe='')}={quote(asked[key], safe='')}" for key in sorted(asked))
    canonical = "\n".join(["GET", parts.path, query, f"host:{parts.netloc}\n", "host", "UNSIGNED-PAYLOAD"])
    scope = asked["X-Amz-Credential"].partition("/")[2]
    said = "\n".join(["AWS4-HMAC-SHA256", asked["X-Amz-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, said.encode(), "sha256").hex()


def test_a_link_is_followed_without_credentials(bucket: Any) -> None:
    url = link(bucket)
    whole = requests.get(url, timeout=10)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["Content-Type"] == "video/mp4"
    assert whole.headers["Content-Disposition"] == 'inline; filename="a.mp4"'
    part = requests.get(url, headers={"Range": "bytes=100-199"}, timeout=10)
    assert (part.status_code, part.content) == (206, CONTENT[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(CONTENT)}"


def test_a_link_ends_and_its_end_is_signed(bucket: Any) -> None:
    """The server of these tests lets any signature pass; what Amazon would compare is worked out here."""
    url = link(bucket, seconds=300)
    asked = dict(parse_qsl(urlsplit(url).query))
    assert (asked["X-Amz-Expires"], asked["X-Amz-SignedHeaders"]) == ("300", "host")
    assert asked["X-Amz-Signature"] == signature(url, "test")
    longer = url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000")
    assert longer != url
    assert signature(longer, "test") != asked["X-Amz-Signature"]


@pytest.mark.parametrize("uri", ["gs://bucket/a", "file:///a", "https://host/a", "az://c/a"])
def test_other_stores_have_no_links(uri: str) -> None:
    with pytest.raises(InvalidUse, match="no links to") as caught:
        sign(uri, seconds=300, media_type="image/png", disposition="inline")
    assert caught.value.where == "link"
    assert "leave `link` out" in caught.value.fix


def test_without_credentials(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "true")
    with pytest.raises(InvalidUse, match="without credentials"):
        link(bucket)


def test_credentials_that_there_are_none_of(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_object(Key="a", Body=b"a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")  # another region, another client
    with pytest.raises(InvalidUse, match="cannot be signed"):
        sign(f"s3://{bucket.name}/a", seconds=300, media_type="image/png", disposition="inline")
