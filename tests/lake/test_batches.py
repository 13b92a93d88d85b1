"""What was posted: its bytes in the lake, its row once, on a disk and on S3."""

import io
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest

from raycluster.errors import LakeError, NotFound
from raycluster.lake import batches
from raycluster.lake.batches import Batch
from raycluster.lake.lake import Lake
from raycluster.read import Reference
from raycluster.read.posted import Posted


def batch(batch_id: str, *uris: str, **more: Any) -> Batch:
    made = {"dataset": "d", "workload": "w", "by": "ann", "at": datetime.now(UTC), "digest": "1", **more}
    return Batch(batch_id=batch_id, objects=tuple({"uri": uri} for uri in uris), **made)


def files(*names: str) -> list[tuple[str, IO[bytes]]]:
    return [(name, io.BytesIO(f"these are the words of {name}".encode())) for name in names]


def test_files_lie_under_their_names_and_are_read_by_their_uris(place: Lake) -> None:
    names = ("a b.txt", "blå 日本 100'.txt", "a b.txt", "x&y=z+1.txt")
    uris = place.batches().land("d", files(*names))
    place.batches().claim(batch("1", *uris, run_id="r1"))
    source = Posted(lake=place.uri, dataset="d", run="r1")
    found = [Reference(**one) for rows in source.objects() for one in rows.to_pylist()]
    assert [one.uri for one in found] == uris
    assert len(set(uris)) == 4
    for one, name in zip(found, names, strict=True):
        media = source.get(one)
        assert media.content == f"these are the words of {name}".encode()
        assert media.modality == "text"
        assert source.peek(one, 5) == b"these"
    assert place.datasets() == []  # what begins with an underscore is none


def test_discarded_bytes_are_gone_and_no_others(place: Lake, tmp_path: Path) -> None:
    kept, gone = place.batches().land("d", files("kept.txt", "gö ne.txt"))
    outside = tmp_path / "outside.txt"
    outside.write_text("words")
    other = place.batches().land("e", files("other.txt"))
    assert place.batches().discard("d", [gone, outside.as_uri(), *other, "http://127.0.0.1:9/x"]) == 1
    assert place.batches().discard("d", [gone]) == 0
    assert outside.exists()
    place.batches().claim(batch("1", kept, gone, *other))
    source = Posted(lake=place.uri, dataset="d")
    versions = [one["version"] for rows in source.objects() for one in rows.to_pylist()]
    assert [version == "absent" for version in versions] == [False, True, False]


@pytest.mark.parametrize("up", ["../../..", "%2e%2e/%2E%2E/..", "0/../../../.."])
def test_a_stranger_s_uri_leads_nowhere_else(lake: Lake, up: str) -> None:
    (uri,) = lake.batches().land("d", files("a.txt"))
    outside = Path(lake.uri).parent / "outside.txt"
    outside.write_text("words")
    landed = f"{Path(lake.uri).as_uri()}/_landed/d"
    assert lake.batches().discard("d", [f"{landed}/{up}/outside.txt"]) == 0
    assert outside.exists()
    assert lake.batches().discard("d", [uri]) == 1


def test_a_file_that_breaks_off_leaves_none_of_its_batch(lake: Lake) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError("the disk is gone")

    with pytest.raises(LakeError, match="the disk is gone"):
        lake.batches().land("d", [*files("a.txt"), ("b.txt", Broken(b"x"))])
    assert [one for one in Path(lake.uri, "_landed").rglob("*") if one.is_file()] == []


def test_bytes_of_no_batch_go_after_a_day(place: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.batches().sweep("d") == 0
    (kept,) = place.batches().land("d", files("kö pt.txt"))
    place.batches().claim(batch("1", kept))
    place.batches().land("d", files("orphan ö.txt", "orphan 2.txt"))
    assert place.batches().sweep("d") == 0
    monkeypatch.setattr(batches, "_YOUNG", timedelta(seconds=-2))
    assert place.batches().sweep("d") == 2
    assert place.batches().sweep("d") == 0
    source = Posted(lake=place.uri, dataset="d")
    assert [one["version"] != "absent" for rows in source.objects() for one in rows.to_pylist()] == [True]


def test_of_many_claims_of_one_id_at_once_one_is_the_first(place: Lake) -> None:
    claimed: list[Batch] = []

    def claim(by: str) -> None:
        claimed.append(place.batches().claim(batch("1", by=by)))

    threads = [threading.Thread(target=claim, args=(f"p{number}",)) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (winner,) = {one.by for one in claimed}
    assert len(claimed) == 6
    assert place.batches().require("1").by == winner
    assert len(place.batches().landed()) == 1


def test_what_is_to_be_run_is_told_oldest_first(lake: Lake) -> None:
    posted = lake.batches()
    assert posted.landed() == []
    assert posted.get("1") is None
    with pytest.raises(NotFound, match="no batch '1'"):
        posted.require("1")
    for number in (2, 1, 3):
        at = datetime(2026, 1, number, tzinfo=UTC)
        posted.claim(batch(str(number), f"s3://b/{number}", at=at, run_id=f"r{number}"))
    posted.put(batch("2", "s3://b/2", state="done", run_id="r2"))
    assert [one.batch_id for one in posted.landed()] == ["1", "3"]
    assert [one.batch_id for one in posted.landed("r3")] == ["3"]
    assert sorted(posted.uris("d")) == ["s3://b/1", "s3://b/2", "s3://b/3"]
    assert list(posted.uris("d", "r2")) == ["s3://b/2"]
    assert list(posted.uris("e")) == []
    assert posted.require("2").objects == ({"uri": "s3://b/2"},)
