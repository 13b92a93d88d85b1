"""Samples become one loudness: ITU-R BS.1770-4, as torchaudio computes it in double precision, by ffmpeg's filters."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from raycluster.resample import Samples

_GATE_SECONDS, _STEPS = 0.4, 4  # of one block; blocks overlap, and one begins at each quarter of another
_OFFSET_DB = -0.691  # so that a sine of 1 kHz reads its level
_ABSOLUTE_LUFS, _RELATIVE_LU = -70.0, -10.0  # what is quieter counts for nothing
# The K-weighting, for any rate: a shelf, as of a head, and a high pass.
_WEIGHTING = {
    "highshelf": {"frequency": "1500", "gain": "4", "width_type": "q", "width": repr(0.5**0.5)},
    "highpass": {"frequency": "38", "width_type": "q", "width": "0.5"},
}


def loudness(samples: Samples, rate: int) -> float | None:
    """Return integrated loudness in LUFS; None where the sound is too short or too quiet for one."""
    if len(samples) < _GATE_SECONDS * rate:
        return None
    sound = samples.astype(np.float64)
    for name, options in _WEIGHTING.items():
        sound = _filtered(sound, rate, name=name, options=options)
        np.clip(sound, -1, 1, out=sound)  # torchaudio's, too
    gate = round(_GATE_SECONDS * rate)
    # power: (block,)
    power = np.lib.stride_tricks.sliding_window_view(np.square(sound), gate)[:: round(gate / _STEPS)].mean(axis=1)
    loud = power[power > _power(_ABSOLUTE_LUFS)]
    if not len(loud):  # of what is not a number, too
        return None
    loud = loud[loud > loud.mean() * 10 ** (_RELATIVE_LU / 10)]
    return float(_OFFSET_DB + 10 * np.log10(loud.mean()))


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET_DB) / 10))


def _filtered(
    sound: npt.NDArray[np.float64], rate: int, *, name: str, options: Mapping[str, str]
) -> npt.NDArray[np.float64]:
    """Return what a filter of ffmpeg, fresh from silence, makes of a sound (time,)."""
    import av
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_abuffer(sample_rate=rate, format="dblp", layout="mono", time_base=Fraction(1, rate))
    graph.link_nodes(source, graph.add(name, **options), graph.add("abuffersink")).configure()
    frame = av.AudioFrame.from_ndarray(sound[None], "dblp", "mono")
    frame.rate = rate
    graph.push(frame)
    filtered: npt.NDArray[np.float64] = graph.pull().to_ndarray()[0]
    return filtered
