"""Samples at one rate become samples at another, whole or block by block, to torchaudio's values.

Its windowed sinc, a bank of filters, in numpy: importing torch and torchaudio costs a process 1.2 CPU-seconds and 500
MiB. The decoder of recordings resamples by this, and whatever encoder hears at another rate.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

# torchaudio's defaults: zero crossings of the sinc on either side, and where below half the lower rate it cuts off.
CROSSINGS, _ROLLOFF = 6, 0.99


class _Bank(NamedTuple):
    """After `step` samples source and target coincide again: a period.

    filters: (width + step + width, output samples of a period) float32
    width: samples that a filter reaches beyond its period, on either side
    """

    filters: Samples
    width: int
    step: int


@lru_cache(maxsize=8)
def _bank(source: int, target: int) -> _Bank:
    """Return the filters between two rates.

    Source: torchaudio 2.11, `functional._get_sinc_resample_kernel`, with Hann's window.
    """
    step, count = source // gcd(source, target), target // gcd(source, target)
    base = min(step, count) * _ROLLOFF
    width = ceil(CROSSINGS * step / base)
    # times: (filter, tap) in zero crossings of the sinc; the first summand is single there, and rounds as it does
    times = (-np.arange(count) / count).astype(np.float32)[:, None] + np.arange(-width, width + step) / step
    times = (times * base).clip(-CROSSINGS, CROSSINGS)
    window = np.cos(times * np.pi / CROSSINGS / 2) ** 2
    filters = np.sinc(times) * window * (base / step)
    return _Bank(np.ascontiguousarray(filters.T, np.float32), width, step)


class Resampler:
    """Changes the rate of a stream, block by block, to what resampling the whole at once would give."""

    def __init__(self, source: int, target: int) -> None:
        self._bank = _bank(source, target) if source != target else None
        # Before the beginning is silence.
        self._waiting: Samples = np.zeros(self._bank.width if self._bank else 0, np.float32)

    def push(self, samples: Samples) -> Samples:
        """Add samples (time,) and return those of the new rate that are settled: (time,) float32."""
        if self._bank is None:
            return samples
        waiting = np.concatenate([self._waiting, samples])
        periods = max(0, len(waiting) - 2 * self._bank.width) // self._bank.step
        self._waiting = waiting[periods * self._bank.step :]
        return _filter(self._bank, waiting, periods)

    def finish(self) -> Samples:
        """Return what is left after the last block."""
        if self._bank is None:
            return np.zeros(0, np.float32)
        filters, width, step = self._bank
        rest = len(self._waiting) - width
        periods = ceil(rest / step)
        # Behind the end is silence, too.
        padded = np.zeros(periods * step + 2 * width, np.float32)
        padded[: len(self._waiting)] = self._waiting
        return _filter(self._bank, padded, periods)[: ceil(rest * filters.shape[1] / step)]


def _filter(bank: _Bank, samples: Samples, periods: int) -> Samples:
    """Return the output of so many periods; the first begins `width` samples after the first sample."""
    if not periods:
        return np.zeros(0, np.float32)
    # spans: (period, tap), overlapping; copied, because BLAS takes no overlapping rows
    spans = np.lib.stride_tricks.sliding_window_view(samples, len(bank.filters))[:: bank.step][:periods]
    filtered: Samples = np.ascontiguousarray(spans) @ bank.filters
    return filtered.reshape(-1)


def resample(samples: Samples, source: int, target: int) -> Samples:
    """Return the samples (time,) of a whole sound at another rate."""
    resampler = Resampler(source, target)
    return np.concatenate([resampler.push(samples), resampler.finish()])


__all__ = ["CROSSINGS", "Resampler", "Samples", "resample"]
