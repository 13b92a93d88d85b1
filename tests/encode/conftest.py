"""Payloads become rows: what every encoder's tests share."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from raycluster.decode import batch_of
from raycluster.encode import Sound
from raycluster.errors import MissingPackage
from raycluster.fetch import FetchFailed, Package, fetch
from raycluster.row import Media, Piece

Rows = Callable[..., pa.RecordBatch]

PHOTOS = Package(
    client="pypi",
    name="scikit-image",
    version="0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    licence="per file",
)
PROMPTS = (
    Package(
        client="apt",
        name="asterisk-core-sounds-en-wav",
        version="1.6.1-1",
        sha256="2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        licence="CC-BY-SA-3.0",
    ),
    Package(
        client="apt",
        name="asterisk-core-sounds-en",
        version="1.6.1-1",
        sha256="973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        licence="CC-BY-SA-3.0",
    ),
)


class Prompt(NamedTuple):
    """One recorded sentence and what is said in it."""

    sound: Sound
    said: str


def rows_of(payloads: list[Any]) -> pa.RecordBatch:
    """Make a batch as decoders do: str is text, an array pixels, a Sound samples, bytes a page, None nothing."""
    media = Media(object_id="o", uri="file:///o", sha256="", modality="text", media_type="")
    return batch_of(media, [_piece(position, payload) for position, payload in enumerate(payloads)])


def _piece(position: int, payload: Any) -> Piece:
    match payload:
        case str():
            return Piece(position=position, text=payload)
        case Sound():
            return Piece(position=position, samples=payload.samples, sample_rate=payload.rate)
        case bytes():
            return Piece(position=position, page=payload)
        case np.ndarray():
            return Piece(position=position, pixels=payload)
    return Piece(position=position)


@pytest.fixture(scope="session")
def rows() -> Rows:
    return rows_of


@pytest.fixture(scope="session")
def photo() -> Callable[..., np.ndarray]:
    """Give a photograph by its name, in a square of any side."""
    from PIL import Image

    folder = fetch(PHOTOS) / "skimage" / "data"
    return lambda name, side=224: np.asarray(Image.open(folder / name).convert("RGB").resize((side, side)))


def _wav(path: Path) -> Sound:
    import wave

    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return Sound(samples.astype(np.float32) / 2**15, file.getframerate())


@pytest.fixture(scope="session")
def prompts() -> dict[str, Prompt]:
    """Give recorded telephone prompts with their wording."""
    try:
        sounds, texts = (fetch(package) for package in PROMPTS)
    except (MissingPackage, FetchFailed) as error:
        pytest.skip(f"the recorded prompts come through apt: {error}")
    with gzip.open(texts / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz", "rt") as file:
        lines = [line.strip().partition(": ") for line in file if ": " in line and not line.startswith(";")]
    folder = sounds / "usr/share/asterisk/sounds/en_US_f_Allison"
    return {
        name: Prompt(_wav(folder / f"{name}.wav"), said)
        for name, _, said in lines
        if (folder / f"{name}.wav").is_file() and said[0] not in "[("  # tones and silences
    }


@pytest.fixture(scope="session")
def silences() -> dict[str, Sound]:
    """Give ten seconds each of what is no speech."""
    time = np.arange(160_000, dtype=np.float32) / 16_000
    noise = np.random.default_rng(0).standard_normal(len(time)).astype(np.float32)
    chord = sum(np.sin(2 * np.pi * note * time) * np.exp(-4 * (time % 0.5)) for note in (220, 277, 330, 440))
    sounds = {"nothing": time * 0, "noise": noise * 0.1, "hiss": noise * 0.003, "music": chord * 0.15}
    return {name: Sound(np.asarray(samples, np.float32), 16_000) for name, samples in sounds.items()}
