"""Ids that never change, media in memory and on disk, and the one struct of all that decoders measure."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster import stage
from raycluster.decode import batch_of
from raycluster.errors import BadMedia
from raycluster.row import PAYLOAD, Media, Piece, features_type, object_id, row_id, row_schema, with_errors

WHOLE = {"object_id": "o", "uri": "u", "sha256": "s", "modality": "text", "media_type": "text/plain"}


def test_ids_are_what_they_were_when_the_first_dataset_was_made() -> None:
    # printf 'file:///corpus/a.png\0%s' 12-34 | sha256sum
    identity = "bca6b348dce72226b5b7af45a35b9c4dce352f53f2a150d8934c5b3d52ed4487"
    assert object_id("file:///corpus/a.png", "12-34") == identity
    # printf '%s\0image\0%s' $identity 7 | sha256sum
    assert row_id(identity, "image", 7) == "5ee7ae14136038289e34f8f6c86522704ea09a0a9d58ab58e2a7e73e48145f17"


def test_ids_tell_apart_what_differs() -> None:
    assert object_id("a", "bc") != object_id("ab", "c")
    ids = {
        row_id(one, modality, place) for one in ("a", "b") for modality in ("audio", "video") for place in (0, 1, 10)
    }
    assert len(ids) == 12
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in ids)


@pytest.mark.parametrize("content", [b"", b"some bytes \x00 of it"])
def test_media_are_the_same_in_memory_and_in_a_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "media"
    file.write_bytes(content)
    for media in (
        Media(**WHOLE, content=content),
        Media(**WHOLE, content=memoryview(content)),
        Media(**WHOLE, path=str(file)),
    ):
        assert media.size == len(content)
        assert bytes(media.read()) == content
        with media.open() as opened:
            assert opened.read(4) == content[:4]
            opened.seek(0)
            assert opened.read() == content


def test_features_are_the_sum_of_all_decoders() -> None:
    fields = {field.name: field.type for field in features_type()}
    for name in stage.names("decode"):
        for feature, kind in stage.find("decode", name).features.items():
            assert fields.pop(feature, kind) == kind
    assert not fields


def test_two_decoders_that_disagree_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    text = stage.find("decode", "text")
    monkeypatch.setattr(text, "features", text.features | {"sharpness": pa.string()})
    with pytest.raises(TypeError, match=r"text\.py measures 'sharpness' as string, another decoder as float"):
        features_type.__wrapped__()


def test_a_row_starts_with_the_columns_of_a_dataset_and_ends_with_payloads() -> None:
    names = row_schema().names
    assert names[-len(PAYLOAD) :] == PAYLOAD.names
    assert len(set(names)) == len(names)


def test_verdicts_are_put_beside_earlier_ones() -> None:
    rows = batch_of(Media(**WHOLE), [Piece(position=place, text=str(place)) for place in range(4)])
    assert with_errors(rows, {}) is rows
    once = with_errors(rows, {1: BadMedia("corrupt", "one")})
    twice = with_errors(once, {3: BadMedia("timeout", "three")})
    assert twice.column("error").to_pylist() == [
        None,
        {"code": "corrupt", "message": "one"},
        None,
        {"code": "timeout", "message": "three"},
    ]
    assert twice.drop_columns(["error"]) == rows.drop_columns(["error"])
    assert rows.column("error").null_count == 4  # what came in is as it was


def test_the_object_id_is_plain_sha256() -> None:
    assert object_id("é", "") == hashlib.sha256("é\0".encode()).hexdigest()
