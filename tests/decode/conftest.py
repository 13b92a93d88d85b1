"""Bytes become pieces or a verdict: what every decoder's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raycluster.decode import Decode, bad
from raycluster.errors import BadMedia
from raycluster.resample import Samples
from raycluster.row import Media, Piece

Pieces = Callable[..., list[Piece]]
Verdict = Callable[..., BadMedia]


def _media(stage: Decode, content: bytes | Path, media_type: str) -> Media:
    modality = type(stage).__module__.rpartition(".")[2]
    where = {"path": str(content)} if isinstance(content, Path) else {"content": memoryview(content)}
    return Media(object_id="o", uri="file:///o", sha256="", modality=modality, media_type=media_type, **where)


@pytest.fixture
def pieces() -> Pieces:
    """Decode bytes, or the file at a path, into all their pieces."""

    def decode(stage: Decode, content: bytes | Path, media_type: str = "") -> list[Piece]:
        return list(stage.decoder()(_media(stage, content, media_type)))

    return decode


@pytest.fixture
def verdict() -> Verdict:
    """Decode what cannot be decoded, and return the reason as a row would carry it; no reason is a failure."""

    def refuse(stage: Decode, content: bytes | Path, media_type: str = "") -> BadMedia:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any exception becomes a verdict
            list(stage.decoder()(_media(stage, content, media_type)))
        return bad(caught.value)

    return refuse


@pytest.fixture(scope="session")
def babble() -> Callable[..., Samples]:
    """Make so many seconds of something like speech."""

    def speak(seconds: float, rate: int = 16_000, seed: int = 1) -> Samples:
        """Noise bursts and gliding vowels over a falling pitch, through three formants (after Klatt 1980)."""
        random = np.random.default_rng(seed)
        vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)]
        parts, formants = [], np.array(vowels[0], float)
        while sum(map(len, parts)) < seconds * rate:
            count, target = int(rate * random.uniform(0.14, 0.28)), np.array(vowels[random.integers(5)], float)
            pitch = np.linspace(150, 110, count) * (1 - 0.05 * (len(parts) % 6))
            sound = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0) * 8 + random.normal(size=count) * 0.05
            sound[: rate // 20] = random.normal(size=rate // 20) * 0.8
            glide = np.clip(np.arange(count) / (count * 0.4), 0, 1)
            for start, end, width in zip(formants, target, (80, 100, 150), strict=True):
                radius = np.exp(-np.pi * width / rate)
                turn = 2 * radius * np.cos(2 * np.pi * (start + (end - start) * glide) / rate)
                one = two = 0.0
                for index in range(count):
                    gain = 1 - turn[index] + radius * radius
                    one, two = gain * sound[index] + turn[index] * one - radius * radius * two, one
                    sound[index] = one
            parts.append(sound * np.sqrt(np.sin(np.pi * np.arange(count) / count)))
            formants = target
        whole = np.concatenate(parts)[: int(seconds * rate)]
        return (whole / np.abs(whole).max() * 0.6).astype(np.float32)

    return speak
