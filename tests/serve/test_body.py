"""An object's bytes as an answer, where its store does not say how many there are."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from raycluster.errors import Gone
from raycluster.read._local import LocalStore
from raycluster.read._store import Found
from raycluster.serve.body import body

HEADERS = {"ETag": '"x"', "Content-Type": "video/mp4"}


def test_an_object_of_unknown_size_comes_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    found = Found((tmp_path / "a").as_uri())
    answer = TestClient(body(LocalStore(), found, ("GET", Headers({"Range": "bytes=2-3"})), HEADERS)).get("/")
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["Accept-Ranges"] == "none"
    assert not {"content-length", "content-range"} & set(answer.headers)


def test_one_that_went_since_it_was_looked_up(tmp_path: Path) -> None:
    found = Found((tmp_path / "a").as_uri(), "5-1", 5)
    with pytest.raises(Gone, match="changed just now"):
        body(LocalStore(), found, ("GET", Headers()), HEADERS)
