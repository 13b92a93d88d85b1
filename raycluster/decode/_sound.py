"""A stream of sound becomes blocks of about a second, and what is cut from them waits on a tape.

The audio decoder cuts windows out of what comes from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import numpy as np

from raycluster.decode import _container
from raycluster.resample import CROSSINGS, Samples

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
    """Return the rate at which ffmpeg hands over: the source's own, unless the filters to resample it would be huge."""
    common = gcd(source, target)
    # Each of `target / common` filters spans a period and the crossings on both sides, in samples of the lower rate.
    reach = 2 * (CROSSINGS + 1) / min(source // common, target // common)
    values = (target // common) * (source // common) * (1 + reach)
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
