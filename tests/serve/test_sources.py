"""What may be posted by uri: what lies below an allowed prefix, however it is written, and nothing else."""

from pathlib import Path

import pytest

from raycluster.errors import Forbidden, InvalidUse
from raycluster.serve.sources import admitted

SOURCES = ("s3://bucket/a", "https://Media.example.org/public/", "gs://whole", "hf://datasets/x")


@pytest.mark.parametrize(
    ("uri", "read"),
    [
        ("s3://bucket/a/b.jpg", "s3://bucket/a/b.jpg"),
        ("S3://bucket/a/b c%41#1?.jpg", "s3://bucket/a/b c%41#1?.jpg"),  # keys are raw
        ("s3://bucket/a", "s3://bucket/a"),
        ("gs://whole/x", "gs://whole/x"),
        ("https://media.example.org/public/x.jpg", "https://media.example.org/public/x.jpg"),
        ("HTTPS://MEDIA.example.org:443/public/x.jpg?a=1#part", "https://media.example.org/public/x.jpg?a=1"),
        ("https://media.example.org/p%75blic/%C3%BC%20x.jpg", "https://media.example.org/public/%C3%BC%20x.jpg"),
        ("https://media.example.org/public/ü.jpg", "https://media.example.org/public/%C3%BC.jpg"),
        ("https://media.example.org/public/100%25.jpg", "https://media.example.org/public/100%25.jpg"),
    ],
)
def test_below_a_prefix(uri: str, read: str) -> None:
    assert admitted(uri, SOURCES) == read


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/ab/x.jpg",
        "s3://bucket2/a/x.jpg",
        "s3://bucket/A/x.jpg",
        "s3://bucket/x.jpg",
        "gs://bucket/a/x.jpg",
        "http://media.example.org/public/x.jpg",
        "https://media.example.org:8443/public/x.jpg",
        "https://media.example.org/private/x.jpg",
        "https://media.example.org/publication/x.jpg",
        "https://media.example.org.evil.org/public/x.jpg",
        "https://evil.org/public/?https://media.example.org/public/x.jpg",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "/etc/passwd",
        "hf://datasets/xy/a.jpg",
        "memory://x",
    ],
)
def test_elsewhere(uri: str) -> None:
    with pytest.raises(Forbidden, match="may not be read here") as caught:
        admitted(uri, SOURCES, where="objects.3.uri")
    assert (caught.value.where, caught.value.status) == ("objects.3.uri", 403)
    assert "s3://bucket/a" in caught.value.fix


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a/../b/x.jpg",
        "s3://bucket/a/./x.jpg",
        "s3://bucket/a/..",
        "https://media.example.org/public/../private/x.jpg",
        "https://media.example.org/public/%2e%2e/private/x.jpg",
        "https://media.example.org/public/%252E%252e/private/x.jpg",
        "https://media.example.org/public/..%2fprivate/x.jpg",
        "https://media.example.org/public%2fx.jpg",
        "https://media.example.org/public/..\\private/x.jpg",
        "https://media.example.org\\@evil.org/public/x.jpg",
        "https://media.example.org@evil.org/public/x.jpg",
        "https://ann:word@media.example.org/public/x.jpg",
        "s3://key:word@bucket/a/x.jpg",
        "https://media.example.org:99999/public/x.jpg",
        "https://medi\u0430.example.org/public/x.jpg",  # a Cyrillic letter
        "https:///public/x.jpg",
        "https://[::1/x",
        "s3:///a/x.jpg",
        "s3://bucket/a/x\n.jpg",
        "s3://bucket/a/\0.jpg",
        "ht\ttps://media.example.org/public/x.jpg",
        "relative/x.jpg",
        "",
        "://x",
        "sch eme://x/y",
        "file://other/etc/passwd",
        "file:///data/%00",
        "s3://bucket/a/" + "x" * 5000,
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(uri: str) -> None:
    with pytest.raises(InvalidUse, match="cannot be taken") as caught:
        admitted(uri, SOURCES)
    assert caught.value.status == 400
    assert len(caught.value.message) < 400


def test_nothing_is_allowed_unless_named() -> None:
    with pytest.raises(Forbidden) as caught:
        admitted("https://media.example.org/public/x.jpg", ())
    assert "upload the bytes instead" in caught.value.fix


def test_local_files_are_what_their_links_lead_to(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside, tmp_path / "inside"):
        folder.mkdir()
        (folder / "ü 1.txt").write_text("words")
    (inside / "there.txt").symlink_to(inside / "ü 1.txt")
    (inside / "away.txt").symlink_to(outside / "ü 1.txt")
    (inside / "up").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(inside)
    real = (inside / "ü 1.txt").as_uri()
    for uri in (f"{inside}/ü 1.txt", real, f"{inside}/there.txt", f"{inside}/../in/ü 1.txt"):
        assert admitted(uri, (str(inside),)) == real
        assert admitted(uri, (f"file://{tmp_path}/link/",)) == real
    for uri in (f"{inside}/away.txt", f"{inside}/up/out/ü 1.txt", f"{inside}/../out/ü 1.txt", f"{inside}side/ü 1.txt"):
        with pytest.raises(Forbidden):
            admitted(uri, (str(inside),))
    with pytest.raises(Forbidden):
        admitted(real, SOURCES)
