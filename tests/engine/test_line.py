"""Objects become worked rows, whole or not at all, however many and however large."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raycluster.decode import batch_of
from raycluster.engine import line
from raycluster.engine.line import Job, Line, gather, whole
from raycluster.errors import BadMedia, MissingClient, MissingPackage
from raycluster.read import Reference
from raycluster.row import PAYLOAD, Media, Piece

MEDIA = Media(object_id="o", uri="file:///o", sha256="s", modality="video", media_type="video/mp4", content=b"x")
Units = Callable[[Job], pa.Table]


def pieces(count: int, *, start: int = 0, side: int = 32) -> list[Piece]:
    """Make pieces with pixels, each told apart by its position."""
    return [
        Piece(position=place, pixels=np.full((side, side, 3), place % 251, np.uint8), text=f"frame {place}")
        for place in range(start, start + count)
    ]


def frames(count: int, *, start: int = 0) -> pa.RecordBatch:
    """Make rows of such pieces."""
    return batch_of(MEDIA, pieces(count, start=start))


def positions(batches: list[pa.RecordBatch]) -> list[int]:
    return [place for batch in batches for place in batch.column("position").to_pylist()]


def names(table: pa.Table | pa.RecordBatch) -> list[str]:
    return [uri.rpartition("/")[2] for uri in table.column("uri").to_pylist()]


def worked(work: Job, listed: pa.Table) -> list[dict[str, Any]]:
    """Return the worked rows in the order of their uris; a line hands objects on in the order that suits it."""
    rows = pa.Table.from_batches(Line(work, 0).run(listed)).to_pylist()
    return sorted(rows, key=lambda row: (row["uri"], row["position"]))


# --- whole -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 10_000, 1 << 30], ids=["every batch to disk", "some to disk", "all in memory"])
def test_an_object_comes_back_in_order_and_intact_whatever_went_to_disk(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(line, "_HELD_BYTES", limit)
    come = list(whole(MEDIA, (pieces(3, start=start) for start in range(0, 30, 3)), "video"))
    assert positions(come) == list(range(30))
    rows = pa.Table.from_batches([batch.drop_columns(["pieces", "stage"]) for batch in come])
    assert rows == pa.Table.from_batches([frames(3, start=start) for start in range(0, 30, 3)])
    assert {count for batch in come for count in batch.column("pieces").to_pylist()} == {30}
    assert {stage for batch in come for stage in batch.column("stage").to_pylist()} == {None}


def test_nothing_is_handed_on_before_the_last_row_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_HELD_BYTES", 10_000)
    seen = []

    def stream() -> Iterator[list[Piece]]:
        for start in range(5):
            yield pieces(1, start=start)
            seen.append(start)

    next(whole(MEDIA, stream(), "video"))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("limit", [1, 1 << 30], ids=["on disk", "in memory"])
def test_an_error_at_the_end_leaves_only_the_error(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(line, "_HELD_BYTES", limit)
    error = BadMedia("truncated", "it ends after 9 s")
    (come,) = whole(MEDIA, iter([pieces(5), pieces(5, start=5), error]), "video")
    assert come.num_rows == 1
    assert come.column("error")[0].as_py() == {"code": "truncated", "message": "it ends after 9 s"}
    assert (come.column("pieces")[0].as_py(), come.column("stage")[0].as_py()) == (1, "video")


def test_nothing_comes_of_nothing() -> None:
    assert list(whole(MEDIA, iter([]), "video")) == []


def test_what_waits_on_disk_is_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_HELD_BYTES", 1 << 20)
    before = pa.total_allocated_bytes()
    stream = whole(MEDIA, (pieces(8, start=start * 8, side=128) for start in range(64)), "video")  # 25 MB of pixels
    highest = 0
    for _ in stream:
        highest = max(highest, pa.total_allocated_bytes() - before)
    assert highest < 8 << 20


# --- gather ----------------------------------------------------------------------------------------------------------


def test_small_batches_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_GATHER_ROWS", 10)
    come = list(gather(frames(1, start=place) for place in range(25)))
    assert [batch.num_rows for batch in come] == [10, 10, 5]
    assert positions(come) == list(range(25))


def test_large_batches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_GATHER_ROWS", 10)
    come = list(gather(iter([frames(35), frames(2, start=35)])))
    assert max(batch.num_rows for batch in come) <= 10
    assert positions(come) == list(range(37))


def test_many_bytes_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_GATHER_BYTES", 7000)
    come = list(gather(frames(1, start=place) for place in range(6)))  # 3 kB each
    assert [batch.num_rows for batch in come] == [3, 3]
    assert list(gather(iter([]))) == []


# --- a line ----------------------------------------------------------------------------------------------------------


def test_references_become_rows_with_every_column(job: Any, units: Units, corpus: Path) -> None:
    for index in range(3):
        (corpus / f"t{index}.txt").write_text(f"word{index} and more\n")
    Image.new("RGB", (40, 30), "red").save(corpus / "p.png")
    work = job(decode="{text: {}, image: {size: 32}}")
    rows = pa.Table.from_batches(Line(work, 0).run(units(work)))
    assert names(rows) == ["p.png", "t0.txt", "t1.txt", "t2.txt"]
    assert rows["mark"].to_pylist() == [None, "word0", "word1", "word2"]
    assert rows["error"].null_count == 4
    assert rows["pieces"].to_pylist() == [1, 1, 1, 1]
    assert not {name for name in PAYLOAD.names if name != "error"} & set(rows.schema.names)  # nobody reads them again


def test_a_modality_nobody_asked_for(job: Any, units: Units, corpus: Path) -> None:
    (corpus / "a.txt").write_text("some words\n")
    Image.new("RGB", (40, 30), "red").save(corpus / "p.png")
    work = job()
    rows = worked(work, units(work))
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "unsupported"]
    assert "image/png is image, and this workload decodes only text" in rows[1]["error"]["message"]
    assert (rows[1]["stage"], rows[1]["modality"]) == ("read", "image")


def test_what_cannot_be_read_or_decoded_is_a_row_too(job: Any, units: Units, corpus: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(corpus / "a.png")
    (corpus / "b.png").write_bytes((corpus / "a.png").read_bytes()[:60])
    (corpus / "c.txt").write_bytes(b"")
    (corpus / "d.txt").write_text("gone before it is read\n")
    (corpus / "e.txt").write_text("it will RAISE here\n")
    work = job(decode="{text: {}, image: {size: 32}}")
    listed = units(work)
    (corpus / "d.txt").unlink()
    rows = worked(work, listed)
    told = [(row["error"] or {}).get("code") for row in rows]
    assert told == [None, "truncated", "empty", "unreadable", "model_error"]
    assert [row["stage"] for row in rows] == [None, "image", "read", "read", "private_stages"]
    assert [row["object_id"] for row in rows] == listed["object_id"].to_pylist()


def test_stages_are_opened_when_first_wanted(job: Any, units: Units, corpus: Path) -> None:
    (corpus / "a.txt").write_text("some words\n")
    work = job(decode="{text: {}, image: {}, video: {}, audio: {}}", encode="[{use: whisper}, {use: ocr}]")
    made = Line(work, 0)
    list(made.run(units(work)))
    opened = [stage.name for stage in (*work.workload.decode, *made.stages) if id(stage) in made._opened]
    assert opened == ["text"]


def _missing(self: Any) -> Any:
    raise MissingPackage("no_such_package is not installed", fix="pip install it")


def test_a_missing_package_costs_only_its_own_rows(
    job: Any, units: Units, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "a.txt").write_text("some words\n")
    Image.new("RGB", (40, 30), "red").save(corpus / "p.png")
    work = job(decode="{text: {}, image: {size: 32}}")
    made = Line(work, 0)
    monkeypatch.setattr(type(made.stages[0]), "open", _missing)
    first, second = pa.Table.from_batches(made.run(units(work))).to_pylist()
    assert first["error"] == {"code": "unsupported", "message": "no_such_package is not installed: pip install it"}
    assert (first["stage"], first["mark"]) == ("private_stages", None)
    assert second["error"] is None
    assert made.missing == {"private_stages"}


def test_a_missing_decoder_package_costs_only_its_own_objects(
    job: Any, units: Units, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "a.txt").write_text("some words\n")
    Image.new("RGB", (40, 30), "red").save(corpus / "p.png")
    work = job(decode="{text: {}, image: {size: 32}}")
    monkeypatch.setattr(type(work.workload.decode[1]), "decoder", _missing)
    first, second = worked(work, units(work))
    assert (first["error"], first["mark"]) == (None, "some")
    assert (second["error"]["code"], second["stage"], second["modality"]) == ("unsupported", "image", "image")


def test_weights_that_cannot_be_fetched_end_the_run(
    job: Any, units: Units, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "a.txt").write_text("some words\n")

    def no_client(self: Any) -> Any:
        raise MissingClient("pip is not installed", fix="install it")

    work = job()
    made = Line(work, 0)
    monkeypatch.setattr(type(made.stages[0]), "open", no_client)
    with pytest.raises(MissingClient):
        list(made.run(units(work)))


def test_a_second_pool_works_on_rows_as_the_first_alone_would(job: Any, units: Units, corpus: Path) -> None:
    for index in range(3):
        (corpus / f"t{index}.txt").write_text(f"word{index} and more\n")
    (corpus / "u.txt").write_text("it will RAISE here\n")
    Image.new("RGB", (40, 30), "red").save(corpus / "p.png")
    (corpus / "v.png").write_bytes(b"")
    decode = "{text: {}, image: {size: 32}}"
    together = job(decode=decode)
    apart = job(decode=decode, encode="[{use: 'private_stages:Marking', actors: 1}]")
    assert (len(together.pools), len(apart.pools)) == (1, 2)
    one = pa.Table.from_batches(Line(together, 0).run(units(together)))
    between = pa.Table.from_batches(Line(apart, 0).run(units(apart)))
    assert "mark" not in between.schema.names
    assert "pixels" not in between.schema.names  # text is all that the second pool reads
    two = pa.Table.from_batches(Line(apart, 1).run(between))
    assert two.select(one.schema.names) == one


def test_blank_rows_have_the_columns_of_worked_ones(job: Any, units: Units, corpus: Path) -> None:
    (corpus / "a.txt").write_text("some words\n")
    work = job()
    made = Line(work, 0)
    worked = next(iter(made.run(units(work))))
    blank = made.blank(line.failed(made_reference(units(work)), "o", BadMedia("timeout", "too long"), "text"))
    assert blank.schema.equals(worked.schema)
    assert blank.column("mark").null_count == 1


def made_reference(listed: pa.Table) -> Reference:
    one = listed.to_pylist()[0]
    return Reference(**{name: one[name] for name in ("uri", "version", "size", "locator")})


def test_an_earlier_verdict_is_not_overwritten_by_a_missing_package(
    job: Any, units: Units, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "a.txt").write_text("it will RAISE here\n")
    work = job(encode="[{use: 'private_stages:Marking'}, {use: minilm}]")
    made = Line(work, 0)
    monkeypatch.setattr(type(made.stages[1]), "open", _missing)
    (row,) = pa.Table.from_batches(made.run(units(work))).to_pylist()
    assert (row["error"]["code"], row["stage"]) == ("model_error", "private_stages")
