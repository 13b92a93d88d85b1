"""A window of samples becomes figures, one line of text to search by, and a plot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from raycluster.decode._series import Cut, Floats, Recording, Window

_GAP = 3.0  # steps of this many times the usual spacing are gaps
_OUTLIER = 3.5  # robust z-score above which a value is an outlier (Iglewicz and Hoaglin, 1993)
_MAD = 1.4826  # median absolute deviation -> standard deviation of normal noise
_TREND = 0.7  # correlation with time from which on a channel is said to rise or fall
_SPOKEN = 24  # channels that the text names; more make it no easier to find


def channel_figures(seconds: Floats, values: Floats) -> dict[str, Any]:
    """Return the statistics of one channel in one window, over the values that are known."""
    known = np.isfinite(values)
    values, seconds = values[known], seconds[known]
    if not len(values):
        return {"samples": 0, "mean": None, "std": None, "minimum": None, "maximum": None}
    return {
        "samples": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
    }


def outliers(values: Floats) -> int:
    """Count values that lie far from the rest."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0
    distance = np.abs(values - np.median(values))
    spread = _MAD * float(np.median(distance))
    return int((distance > _OUTLIER * spread).sum()) if spread > 0 else 0


def gaps(seconds: Floats, before: float, spacing: float) -> Floats:
    """Return the lengths of the holes in time that end in this window."""
    steps: Floats = np.diff(seconds, prepend=before if np.isfinite(before) else seconds[0])
    return steps[steps > _GAP * spacing] if spacing > 0 else steps[:0]


def window_figures(window: Window, cut: Cut, counted: Any) -> dict[str, Any]:
    """Return the features of one window."""
    measured = {name: samples for name, samples in window.channels.items() if name not in counted}
    holes = [
        gaps(samples.seconds, window.before[name], spacing_of(cut, name)) for name, samples in window.channels.items()
    ]
    values = [samples.values for samples in measured.values()]
    total = sum(map(len, values))
    missing = sum(int(np.isnan(part).sum()) for part in values)
    spacing = float(np.median([spacing_of(cut, name) for name in window.channels]))
    return {
        "channels": len(window.channels),
        "samples": sum(len(samples.seconds) for samples in window.channels.values()),
        "spacing": spacing,
        "rate": round(1 / spacing) if 0 < spacing < 2 else None,
        "gaps": max(map(len, holes)),
        "longest_gap": max((float(hole.max()) for hole in holes if len(hole)), default=0.0),
        "missing": missing / total if total else 0.0,
        "outliers": sum(map(outliers, values)) / max(total - missing, 1),
        "statistics": [
            {"channel": name, **channel_figures(samples.seconds, samples.values)} for name, samples in measured.items()
        ],
    }


def spacing_of(cut: Cut, name: str) -> float:
    """Return how many seconds usually lie between two samples of a channel; 0 where that is unknown."""
    return cut.spacing.get(name, 0.0)


def spoken(window: Window, figures: Mapping[str, Any], recording: Recording, cut: Cut) -> str:
    """Return a window in words: when it was, and what each channel did."""
    seconds = [samples.seconds for samples in window.channels.values()]
    when = _when(min(part[0] for part in seconds), max(part[-1] for part in seconds), recording.origin)
    parts = [_channel(window, row, recording, cut) for row in figures["statistics"][:_SPOKEN]]
    for name in recording.counted & window.channels.keys():
        parts.append(f"{name} {_count(len(window.channels[name].seconds), 'message')}")
    rest = len(window.channels) - len(parts)
    return f"{when}: {'; '.join(parts)}" + (f"; and {rest} more channels" if rest > 0 else "")


def _when(start: float, end: float, origin: datetime | None) -> str:
    if origin is None:
        return f"{start:g} s to {end:g} s"
    first, last = origin + timedelta(seconds=start), origin + timedelta(seconds=end)
    # Daily values need no hours.
    form = "%Y-%m-%d" if first.time() == last.time() and last.day != first.day else "%Y-%m-%d %H:%M:%S"
    return f"{first.strftime(form)} to {last.strftime(form)}"


def _channel(window: Window, row: Mapping[str, Any], recording: Recording, cut: Cut) -> str:
    name = row["channel"]
    if not row["samples"]:
        return f"{name} missing"
    samples = window.channels[name]
    holes = len(gaps(samples.seconds, window.before[name], spacing_of(cut, name)))
    variable = re.split(r" \(|\[", name)[0]  # a channel may be one place of a variable, or its mean
    title = recording.titles.get(variable, "")
    unit = recording.units.get(variable, "")
    known = _count(row["samples"], "sample") + (", " + _count(holes, "gap") if holes else "")
    figures = f"mean {_show(row['mean'])}, minimum {_show(row['minimum'])}, maximum {_show(row['maximum'])}"
    trend = _trend(samples.seconds, samples.values)
    return f"{name}{title and f' ({title})'} {figures}{unit and ' ' + unit}{trend} ({known})"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _show(value: float) -> str:
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def _trend(seconds: Floats, values: Floats) -> str:
    known = np.isfinite(values)
    seconds, values = seconds[known], values[known]
    if len(values) < 3 or np.ptp(values) == 0 or np.ptp(seconds) == 0:
        return ""
    correlation = np.corrcoef(seconds, values)[0, 1]
    return ", rising" if correlation > _TREND else ", falling" if correlation < -_TREND else ""


def drawn(window: Window, recording: Recording, cut: Cut) -> bytes:
    """Return a plot of the window's channels, broken where time has a gap."""
    from raycluster.decode._thumbnail import plot

    series = []
    for name, (seconds, values) in window.channels.items():
        spacing = spacing_of(cut, name)
        holes = np.flatnonzero(np.diff(seconds) > _GAP * spacing) + 1 if spacing else np.zeros(0, int)
        if name not in recording.counted:
            series.append(np.insert(values, holes, np.nan))
    return plot(series or [np.ones(len(samples.seconds)) for samples in window.channels.values()])
