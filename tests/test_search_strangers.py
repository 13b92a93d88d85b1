"""A dataset and a question may come from strangers: neither runs code, opens a file or ends in a traceback."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from raycluster.errors import InvalidUse
from raycluster.lake.columns import dataset_schema
from raycluster.lake.lake import Lake
from raycluster.lake.table import Table
from raycluster.search import TRUSTED, Question, ask

MARKING = {"use": "private_stages:Marking"}


def dataset(folder: Path, *encoders: dict[str, Any]) -> Table:
    """Return an empty dataset that says it was made by these encoders."""
    table = Lake(str(folder / "lake")).table("d")
    table.create_or_check(dataset_schema(pa.schema([("mark", pa.string())])), list(encoders))
    return table


def refused(table: Table, **asked: Any) -> InvalidUse:
    with pytest.raises(InvalidUse) as caught:
        ask(table, Question(version=1, **asked))
    return caught.value


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    return file.getvalue()


def recording() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(32_000))
    return file.getvalue()


@pytest.mark.parametrize(
    "asked", [{"text": "cat"}, {"image": picture()}, {"audio": recording()}], ids=lambda one: next(iter(one))
)
def test_a_private_stage_is_not_run_unless_its_module_is_named(tmp_path, monkeypatch, asked: dict[str, Any]) -> None:
    table = dataset(tmp_path, MARKING)
    for trusted in (None, "", "1", "private", "private_stages:Marking", "other,private_stages.deep"):
        monkeypatch.delenv(TRUSTED, raising=False)
        if trusted is not None:
            monkeypatch.setenv(TRUSTED, trusted)
        error = refused(table, **asked)
        assert "private stage 'private_stages:Marking'" in error.message
        assert f"{TRUSTED}=private_stages" in error.fix
    monkeypatch.setenv(TRUSTED, "other,private_stages")
    assert "private stage" not in refused(table, **asked).message  # it is asked now, and writes no vector


def test_a_module_that_a_dataset_names_is_not_even_imported(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "private stage" in refused(dataset(tmp_path, {"use": "evil:Stage"}), text="cat").message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("family", ["encode", "decode", "read", "../evil", None, 7])
def test_trust_in_a_module_makes_no_function_a_stage(tmp_path, monkeypatch, family: Any) -> None:
    monkeypatch.setenv(TRUSTED, "subprocess")
    use = {"use": "subprocess:getoutput", "cmd": f"touch {tmp_path}/ran", "family": family}
    refused(dataset(tmp_path, use), text="cat")
    assert not (tmp_path / "ran").exists()


def test_full_text_search_needs_no_stage(tmp_path) -> None:
    assert ask(dataset(tmp_path, MARKING), Question(version=1, text="cat", mode="text"))["hits"] == []


def test_options_of_another_version_are_told(tmp_path) -> None:
    error = refused(dataset(tmp_path, {"use": "minilm", "widht": 7}), text="cat")
    assert "stage 'minilm' has options that this version does not take" in error.message


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"audio": b"#EXTM3U\n#EXTINF:1.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"}, " is not an audio format"),
        ({"audio": b"ffconcat version 1.0\nfile http://127.0.0.1:1/x.ts\n"}, " is not an audio format"),
        ({"audio": picture()}, "image/png is not an audio format"),
        ({"image": recording()}, " is not an image format"),
        ({"image": b"<svg"}, "the image"),
        ({"image": b""}, "it has no bytes (empty)"),
        ({"image": picture()[:100]}, "the image cannot be used"),
    ],
)
def test_what_is_no_such_medium_is_refused_before_it_is_decoded(tmp_path, asked: dict[str, bytes], says: str) -> None:
    assert says in refused(dataset(tmp_path, {"use": "minilm"}), **asked).message


def test_good_media_get_as_far_as_the_encoders(tmp_path) -> None:
    table = dataset(tmp_path, {"use": "minilm"})
    assert "no encoder of pictures" in refused(table, image=picture()).message
    assert "nothing in this recording can be searched for" in refused(table, audio=recording()).message
