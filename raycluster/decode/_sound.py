"""A stream of sound becomes mono samples at one rate, a second at a time, with no seams between the seconds.

The audio decoder cuts windows out of what comes from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from raycluster.decode import _container

Samples = npt.NDArray[np.float32]

# A filter bank larger than this (rates without a common divisor, as 44,099 Hz) would fill memory.
_KERNEL_VALUES = 4_000_000
_COMMON_RATE = 48_000


class Tape:
    """Samples wait in order until as many as needed have come."""

    def __init__(self) -> None:
        self._parts: list[Samples] = []
        self.length = self.taken = 0

    @property
    def total(self) -> int:
        """Return how many samples were ever put on it."""
        return self.length + self.taken

    def append(self, samples: Samples) -> None:
        """Put samples at the end."""
        self._parts.append(samples)
        self.length += len(samples)

    def take(self, count: int) -> Samples:
        """Remove the first `count` samples, or all where fewer wait, and return them."""
        whole = np.concatenate(self._parts)
        first, rest = whole[:count], whole[count:]
        self._parts = [rest]
        self.length -= len(first)
        self.taken += len(first)
        return first


def workable(source: int, target: int) -> int:
    """Return the rate at which ffmpeg hands over: the source's own, unless torchaudio's filters would be huge."""
    common = gcd(source, target)
    # Each of `target / common` filters spans about 14 samples of the lower rate (torchaudio's width 6, both sides).
    values = (target // common) * (source // common) * (1 + 14 / min(source // common, target // common))
    return source if values <= _KERNEL_VALUES else _COMMON_RATE


def blocks(container: Any, stream: Any, rate: int) -> Iterator[Samples]:
    """Decode a stream into blocks of about a second: (channel, time) float32."""
    import av

    def converter() -> Any:
        return av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=rate)

    convert = converter()
    parts: list[Samples] = []
    for frame in _container.decoded(container, stream):
        try:
            converted = convert.resample(frame)
        except ValueError:
            # The stream changed its format midway, as radio recordings do.
            parts += [part.to_ndarray() for part in convert.resample(None)]
            convert = converter()
            converted = convert.resample(frame)
        parts += [part.to_ndarray() for part in converted]
        if sum(part.shape[1] for part in parts) >= rate:
            yield np.concatenate(parts, axis=1)
            parts = []
    parts += [part.to_ndarray() for part in convert.resample(None)]
    if parts:
        yield np.concatenate(parts, axis=1)


def downmix(channels: Sequence[str]) -> Samples:
    """Return the weight of each channel in the mono sum, 1 together, so that nothing clips.

    Source: ITU-R BS.775-4, annex 4; without the low-frequency effects, as there.
    """
    known = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "LFE": 0.0, "LFE2": 0.0}
    # weights: (channel,) float32
    weights: Samples = np.array([known.get(name, 0.5) for name in channels], np.float32)
    if not weights.any():
        weights[:] = 1
    weights /= weights.sum()
    return weights


class Resampler:
    """Changes the rate of a stream, block by block, to exactly what resampling the whole at once would give.

    A block is filtered together with the samples around it that its filter reaches, and cut at multiples of the
    period in which source and target samples coincide.
    """

    def __init__(self, source: int, target: int) -> None:
        from torchaudio.transforms import Resample

        common = gcd(source, target)
        self._in, self._out = source // common, target // common
        self._transform = Resample(source, target) if source != target else None
        width = self._transform.width if self._transform is not None else 0
        # Units: periods. `width` samples on both sides are what one output sample sees.
        self._context = ceil(width / self._in) + 1
        self._waiting: Samples = np.zeros(self._context * self._in, np.float32)

    def push(self, samples: Samples) -> Samples:
        """Add samples (time,) and return those of the new rate that are settled: (time,) float32."""
        if self._transform is None:
            return samples
        waiting = np.concatenate([self._waiting, samples])
        periods = len(waiting) // self._in - 2 * self._context
        if periods <= 0:
            self._waiting = waiting
            return np.zeros(0, np.float32)
        self._waiting = waiting[periods * self._in :]
        return self._filter(waiting[: (periods + 2 * self._context) * self._in], periods)

    def finish(self) -> Samples:
        """Return what is left after the last block."""
        if self._transform is None:
            return np.zeros(0, np.float32)
        rest = len(self._waiting) - self._context * self._in
        periods = ceil(rest / self._in)
        # Behind the end is silence, as before the beginning.
        padded = np.zeros((periods + 2 * self._context) * self._in, np.float32)
        padded[: len(self._waiting)] = self._waiting
        return self._filter(padded, periods)[: ceil(rest * self._out / self._in)]

    def _filter(self, samples: Samples, periods: int) -> Samples:
        import torch

        assert self._transform is not None
        with torch.inference_mode():
            resampled: Samples = self._transform(torch.from_numpy(samples)).numpy()
        skip = self._context * self._out
        return resampled[skip : skip + periods * self._out]
