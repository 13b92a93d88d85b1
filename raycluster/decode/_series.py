"""A recording of measurements becomes windows of time: what all sensor formats are turned into, and how it is cut.

Formats yield blocks of samples as they read; only the samples of the windows still open are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raycluster.errors import BadMedia

Floats = npt.NDArray[np.float64]

# Samples read before the first window is cut: they tell the spacing, and a file up to this long may be in any order.
_PEEK = 1_000_000
# A window with fewer samples has no statistics worth a row: daily or yearly series get windows of `_WIDE` samples.
_FEW, _WIDE = 8, 64


class Samples(NamedTuple):
    """One channel's measurements: seconds since the recording's origin, and values, NaN where one is missing."""

    seconds: Floats  # (sample,)
    values: Floats  # (sample,)


Block = Mapping[str, Samples]


@dataclass(frozen=True)
class Recording:
    """What a file of measurements holds."""

    blocks: Iterator[Block]
    clock: str  # where time is read from, in words
    origin: datetime | None = None  # the moment of second 0, UTC; None where time is only relative
    units: Mapping[str, str] = field(default_factory=dict)  # of variables that say theirs
    titles: Mapping[str, str] = field(default_factory=dict)  # what people call a variable, likewise
    counted: Set[str] = frozenset()  # channels whose messages are only counted: their values mean nothing


class Window(NamedTuple):
    """The samples of one stretch of time, and each channel's last sample before it (NaN where none)."""

    channels: dict[str, Samples]
    before: dict[str, float]


@dataclass(frozen=True)
class Cut:
    """A recording's windows: when the first begins, how long each is, and how far apart samples usually are."""

    start: float
    width: float
    spacing: dict[str, float]
    windows: Iterator[Window]


def cut(recording: Recording, width: float, *, max_rows: int) -> Cut:
    """Cut a recording into windows of `width` seconds, wider where samples are too far apart for that.

    Raises:
        BadMedia: `empty` without a sample, `too_large` over `max_rows`, `corrupt` where time jumps back too far.
    """
    blocks = _limited(recording.blocks, max_rows)
    first: list[Block] = []
    for block in blocks:
        first.append(block)
        if sum(_length(held) for held in first) >= _PEEK:
            break
    joined = _join(first)
    if not joined:
        raise BadMedia("empty", "it holds no measurement")
    start = min(float(samples.seconds[0]) for samples in joined.values())
    spacing = {name: _spacing(samples.seconds) for name, samples in joined.items()}
    usual = float(np.median(list(spacing.values())))
    if usual * _FEW > width:
        width = usual * _WIDE
    return Cut(start, width, spacing, _windows(chain([joined], blocks), start, width))


def _limited(blocks: Iterator[Block], max_rows: int) -> Iterator[Block]:
    rows = 0
    for block in blocks:
        rows += _length(block)
        if rows > max_rows:
            raise BadMedia("too_large", f"more than {max_rows} rows: split it, or raise `max_rows` of decode.sensor")
        yield block


def _length(block: Block) -> int:
    return max((len(samples.seconds) for samples in block.values()), default=0)


def _join(blocks: list[Block]) -> dict[str, Samples]:
    """Return the samples of all blocks by channel, in the order of time; channels without one are left out."""
    joined: dict[str, Samples] = {}
    for name in dict.fromkeys(name for block in blocks for name in block):
        parts = [block[name] for block in blocks if name in block]
        # seconds, values: (sample,) float64
        seconds = np.concatenate([part.seconds for part in parts])
        values = np.concatenate([part.values for part in parts])
        timed = np.isfinite(seconds)
        order = np.argsort(seconds[timed], kind="stable")
        if len(order):
            joined[name] = Samples(seconds[timed][order], values[timed][order])
    return joined


def _spacing(seconds: Floats) -> float:
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 0.0


def _windows(blocks: Iterator[Block], start: float, width: float) -> Iterator[Window]:
    held: list[Block] = []
    last: dict[str, float] = {}
    done = 0  # windows before this number are closed
    for block in blocks:
        if not _length(block):
            continue
        held.append(block)
        if _number(min(np.nanmin(samples.seconds) for samples in block.values()), start, width) < done:
            raise BadMedia("corrupt", "its time jumps back by more than a window: sort it by time first")
        newest = _number(max(np.nanmax(samples.seconds) for samples in block.values()), start, width)
        if newest - 1 <= done:
            continue
        # The newest window and the one before it stay open: loggers write a little out of order.
        done = newest - 1
        closed, rest = _part(_join(held), start + done * width)
        held = [rest]
        yield from _close(closed, start, width, last=last)
    yield from _close(_join(held), start, width, last=last)


def _part(joined: dict[str, Samples], until: float) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Part samples into those before `until` and the rest."""
    closed: dict[str, Samples] = {}
    rest: dict[str, Samples] = {}
    for name, (seconds, values) in joined.items():
        end = int(np.searchsorted(seconds, until))
        if end:
            closed[name] = Samples(seconds[:end], values[:end])
        if end < len(seconds):
            rest[name] = Samples(seconds[end:], values[end:])
    return closed, rest


def _number(seconds: Any, start: float, width: float) -> int:
    return int((seconds - start) // width)


def _close(joined: dict[str, Samples], start: float, width: float, *, last: dict[str, float]) -> Iterator[Window]:
    """Iterate over the windows of `joined` that hold a sample; `last`, each channel's latest, is kept up to date."""
    parts: dict[int, dict[str, Samples]] = {}
    for name, (seconds, values) in joined.items():
        # numbers: (sample,) int64, the window of each sample
        numbers = ((seconds - start) // width).astype(np.int64)
        edges = [*np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1)), len(numbers)]
        for low, high in pairwise(edges):
            parts.setdefault(int(numbers[low]), {})[name] = Samples(seconds[low:high], values[low:high])
    for _, channels in sorted(parts.items()):
        yield Window(channels, {name: last.get(name, np.nan) for name in channels})
        last.update({name: float(samples.seconds[-1]) for name, samples in channels.items()})
