"""The share of speech is what silero-vad itself says, without its package's code."""

import subprocess
import sys

import numpy as np
import pytest

from raycluster.decode import _voice
from raycluster.errors import MissingPackage
from raycluster.resample import resample

_CODE = """
import sys
import numpy as np
from silero_vad import load_silero_vad
model = load_silero_vad(sequence=True)
for name, sound in np.load(sys.argv[1]).items():
    chances = model.audio_forward(sound)
    print(name, float((chances >= 0.5).mean()))
"""


def test_it_is_silero_vads(tmp_path, babble) -> None:
    noise = np.random.default_rng(1).normal(size=400_000).astype(np.float32) * 0.1
    long = np.concatenate([babble(12), noise[:64_000], babble(9, seed=2), noise[:7]])  # more than one call
    sounds = {"speech": babble(6), "noise": noise, "long": long, "short": babble(6)[:700], "one": noise[:1]}
    np.savez(tmp_path / "sounds.npz", **sounds)
    # in a process of its own: its package limits torch to one thread
    done = subprocess.run(
        [sys.executable, "-c", _CODE, tmp_path / "sounds.npz"], capture_output=True, text=True, check=True
    )
    expected = {name: float(share) for name, share in map(str.split, done.stdout.splitlines())}
    assert 0.3 < expected["long"] < 0.95
    share = _voice.voice(16_000)
    assert {name: share(sound) for name, sound in sounds.items()} == expected


def test_other_rates_are_resampled(babble) -> None:
    sound = babble(6)
    share = _voice.voice(16_000)(sound)
    assert _voice.voice(48_000)(resample(sound, 16_000, 48_000)) == pytest.approx(share, abs=0.02)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(MissingPackage, match=r"silero_vad is not installed\n.*pip install \"raycluster\[speech\]\""):
        _voice.voice(16_000)
