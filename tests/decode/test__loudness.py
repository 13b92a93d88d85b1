"""Loudness is that of the standard, and torchaudio's."""

import warnings

import numpy as np
import pytest
import torch
from torchaudio import functional

from raycluster.decode._loudness import loudness

SECONDS = 4
SOUNDS = {
    "noise": lambda time, random: 0.05 * random.normal(size=len(time)),
    "clipping": lambda time, random: random.normal(size=len(time)).clip(-1, 1),
    "beyond full scale": lambda time, random: 3 * random.normal(size=len(time)),
    "sine": lambda time, _: 0.8 * np.sin(time * 2 * np.pi * 440),
    "bass": lambda time, _: 0.9 * np.sin(time * 2 * np.pi * 45),
    "offset": lambda time, random: 0.5 + 0.01 * random.normal(size=len(time)),
    "drum": lambda time, _: np.exp(-(time % 1) * 8) * np.sin(time * 2 * np.pi * 55),
    "mostly silence": lambda time, random: random.normal(size=len(time)) * (time > SECONDS - 0.7) * 0.1,
}


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 96_000])
@pytest.mark.parametrize("name", SOUNDS)
def test_it_is_torchaudios(name: str, rate: int) -> None:
    sound = SOUNDS[name](np.arange(SECONDS * rate) / rate, np.random.default_rng(1)).astype(np.float32)
    mine, wave = loudness(sound, rate), torch.from_numpy(sound)[None]
    assert mine == pytest.approx(float(functional.loudness(wave.double(), rate)), abs=1e-6)
    if rate <= 16_000:  # at high rates its single precision is off by up to 0.01 LU below 100 Hz
        assert mine == pytest.approx(float(functional.loudness(wave, rate)), abs=1e-3)


def test_what_has_none() -> None:
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    assert loudness(noise[:6_399], 16_000) is None
    assert loudness(noise[:6_400], 16_000) is not None
    with warnings.catch_warnings(action="error"):
        assert loudness(noise * 1e-5, 16_000) is None
        assert loudness(np.zeros(16_000, np.float32), 16_000) is None
        assert loudness(np.full(16_000, np.nan, np.float32), 16_000) is None
        assert loudness(np.full(16_000, np.inf, np.float32), 16_000) is None
