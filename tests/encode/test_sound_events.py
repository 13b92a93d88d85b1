"""Sounds become vectors in which the same kind of sound is near."""

import numpy as np
import pytest

from raycluster.encode import Sound
from raycluster.encode.sound_events import _FRAME, _HOP, _MELS, SoundEvents, _patches, _spectrogram


@pytest.fixture(scope="module")
def encode():
    return SoundEvents().encoder()


def struck(pitch: float, seed: int, rate: int = 44_100) -> Sound:
    """Make a bell: partials that die away, struck every half second."""
    generator = np.random.default_rng(seed)
    time = np.arange(2 * rate) / rate
    partials = sum(np.sin(2 * np.pi * pitch * step * time + generator.uniform(0, 6)) / step for step in (1, 2.76, 5.4))
    return Sound((0.2 * partials * np.exp(-6 * (time % 0.5))).astype(np.float32), rate)


def hiss(seed: int, rate: int = 44_100) -> Sound:
    return Sound((0.1 * np.random.default_rng(seed).standard_normal(2 * rate)).astype(np.float32), rate)


def test_alike_sounds_are_near(encode) -> None:
    bell, other_bell, rain, other_rain = encode([struck(440, 0), struck(460, 1), hiss(2), hiss(3)])["sound_events"]
    assert min(bell @ other_bell, rain @ other_rain) > 0.9
    assert max(bell @ rain, other_bell @ other_rain) < 0.8
    assert np.linalg.norm(bell) == pytest.approx(1, abs=1e-5)


def test_speech_is_not_rain(encode, prompts) -> None:
    names = ("agent-pass", "basic-pbx-ivr-main")
    first, second, rain = encode([*(prompts[name].sound for name in names), hiss(0)])["sound_events"]
    assert first @ second > first @ rain


def test_the_rate_does_not_matter(encode) -> None:
    low, high = encode([struck(440, 0, 44_100), struck(440, 0, 48_000)])["sound_events"]
    assert low @ high > 0.99


def test_neighbours_in_a_batch_do_not_matter(encode) -> None:
    sounds = [struck(300, 0), hiss(1, 16_000), hiss(2)]
    together = encode(sounds)["sound_events"]
    assert np.abs(np.stack(together) - np.stack([encode([sound])["sound_events"][0] for sound in sounds])).max() < 1e-5


@pytest.mark.parametrize("length", [0, 1, 1025, 44_100])
def test_short_sounds_have_a_vector(length: int, encode) -> None:
    (vector,) = encode([Sound(np.full(length, 0.1, np.float32), 44_100)])["sound_events"]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("frames", "patches"), [(1, 1), (100, 1), (101, 2), (150, 2), (151, 3), (1000, 19)])
def test_patches_cover_every_frame(frames: int, patches: int) -> None:
    import torch

    counted = torch.arange(1.0, frames + 1)[:, None].expand(frames, 96)
    cut = _patches(counted)
    assert tuple(cut.shape) == (patches, 100, 96)
    assert set(range(1, frames + 1)) <= set(cut[:, :, 0].flatten().int().tolist())


def test_the_spectrogram_is_torchaudios() -> None:
    import torch
    from torchaudio.transforms import MelSpectrogram

    theirs = MelSpectrogram(44_100, n_fft=_FRAME, hop_length=_HOP, n_mels=_MELS, mel_scale="htk", power=2.0)
    theirs.mel_scale.fb /= theirs.mel_scale.fb.sum(0, keepdim=True)
    for sound in (struck(440, 0), hiss(1)):
        samples = torch.from_numpy(sound.samples)
        expected = torch.log10(1e4 * theirs(samples).T + 1) / 9.4578
        assert (_spectrogram()(samples) - expected).abs().max() < 1e-5
