"""Samples at another rate are torchaudio's, whole or in blocks."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torchaudio.transforms import Resample

from raycluster.resample import Resampler, _bank, resample

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


@pytest.mark.parametrize("source", RATES)
@pytest.mark.parametrize("target", [8_000, 16_000, 24_000, 44_100])
def test_the_values_are_those_of_torchaudio(source: int, target: int) -> None:
    sound = np.random.default_rng(source).uniform(-1, 1, source + 37).astype(np.float32)
    # `functional.resample` computes its filters in single precision: 5e-6 off
    theirs = Resample(source, target)
    expected = theirs(torch.from_numpy(sound)).numpy()
    mine = resample(sound, source, target)
    assert mine.dtype == np.float32
    assert mine.shape == expected.shape
    assert np.abs(mine - expected).max() < 1e-6  # sums of up to 960 products in another order
    if source != target:
        assert np.array_equal(_bank(source, target).filters.T, theirs.kernel.numpy()[:, 0])


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (48_000, 16_000), (8_000, 24_000), (16_000, 16_000)])
def test_blocks_give_what_the_whole_gives(source: int, target: int) -> None:
    random = np.random.default_rng(source)
    sound = random.uniform(-1, 1, source * 2 + 37).astype(np.float32)
    cuts = np.sort(random.integers(0, len(sound), 9))
    cuts[4:7] = cuts[4] + np.arange(3)  # blocks too short to settle anything
    resampler = Resampler(source, target)
    streamed = np.concatenate([*(resampler.push(part) for part in np.split(sound, cuts)), resampler.finish()])
    assert np.abs(streamed - resample(sound, source, target)).max() < 1e-6


@pytest.mark.parametrize("length", [0, 1, 2, 440, 441, 442])
def test_hardly_a_sound(length: int) -> None:
    assert len(resample(np.ones(length, np.float32), 44_100, 16_000)) == -(-length * 160 // 441)


def test_it_needs_no_torch() -> None:
    code = "import sys; import raycluster.resample; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
