"""Sums by a key, by stage and by hour become what a picture shows: bars in layers, and amounts over time.

Under `picture.py`. A picture has room for some bars and some colours: the dearest have one each, the rest are together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from raycluster.account.question import MOMENTS

SHARED = "shared"  # the layer of what nobody used directly
REST = "other stages"
STAGES = 6  # layers of their own

_BARS = 12  # teams or runs, the dearest; one bar for all others would dwarf them
_DAILY_FROM = timedelta(days=4)  # a shorter time is drawn by the hour
_STEP = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn, in nano-dollars. Bars come from left to right, layers from the bottom up."""

    key: str
    bars: list[str]
    layers: dict[str, list[int]]  # stage (or `shared`) -> of each bar
    left_out: tuple[int, int]  # how many bars, and what they add up to
    unit: str  # hour | day
    times: list[datetime]  # local, without a gap
    paid: list[int]  # of each time
    shared: list[int]


def make_chart(key: str, sums: pa.Table) -> Chart:
    """Put the sums by `key`, `stage` and `hour` in the order in which they are drawn."""
    direct: dict[str, Any] = defaultdict(lambda: defaultdict(int))
    borne: dict[str, int] = defaultdict(int)
    paid: dict[datetime, int] = defaultdict(int)
    shared: dict[datetime, int] = defaultdict(int)
    for batch in sums.to_batches():
        for line in batch.to_pylist():
            bar = _named(line[key], key)
            direct[_named(line["stage"], "stage")][bar] += line["direct_nanousd"]
            borne[bar] += line["shared_nanousd"]
            hour = datetime.strptime(line["hour"], MOMENTS["hour"])
            paid[hour] += line["nanousd"]
            shared[hour] += line["shared_nanousd"]
    unit = "hour" if max(paid) - min(paid) < _DAILY_FROM else "day"
    times = list(_every(_STEP[unit], _floor(min(paid), unit), max(paid)))
    totals = _totals([*direct.values(), borne])
    bars = _bars(key, totals)
    return Chart(
        key=key,
        bars=bars,
        layers=_layers(direct, borne, bars),
        left_out=(len(totals.keys() - set(bars)), sum(totals.values()) - sum(totals.get(bar, 0) for bar in bars)),
        unit=unit,
        times=times,
        paid=_series(paid, times, unit),
        shared=_series(shared, times, unit),
    )


def _named(value: Any, key: str) -> str:
    return f"no {key}" if value is None else str(value)


def _totals(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for part in parts:
        for bar, amount in part.items():
            totals[bar] += amount
    return totals


def _floor(hour: datetime, unit: str) -> datetime:
    return hour.replace(hour=0) if unit == "day" else hour


def _every(step: timedelta, first: datetime, last: datetime) -> Iterable[datetime]:
    while first <= last:
        yield first
        first += step


def _series(amounts: Mapping[datetime, int], times: Sequence[datetime], unit: str) -> list[int]:
    sums: dict[datetime, int] = defaultdict(int)
    for hour, amount in amounts.items():
        sums[_floor(hour, unit)] += amount
    return [sums[time] for time in times]


def _bars(key: str, totals: Mapping[str, int]) -> list[str]:
    """Return the bars' names: times in their order and without a gap, others by their cost."""
    if key not in MOMENTS:
        return sorted(totals, key=lambda name: (-totals[name], name))[:_BARS]
    names, form = sorted(totals), MOMENTS[key]
    if key not in _STEP:
        return names
    ends = (datetime.strptime(names[0], form), datetime.strptime(names[-1], form))
    return [f"{moment:{form}}" for moment in _every(_STEP[key], *ends)]


def _layers(
    direct: Mapping[str, Mapping[str, int]], borne: Mapping[str, int], bars: Sequence[str]
) -> dict[str, list[int]]:
    """Return the layers, the dearest stage first: as many as there are colours, then the rest, then what is shared."""
    ranked = sorted(direct, key=lambda stage: (-sum(direct[stage].values()), stage))
    layers = {stage: [direct[stage].get(bar, 0) for bar in bars] for stage in ranked[:STAGES]}
    rest = _totals(direct[stage] for stage in ranked[STAGES:])
    layers[REST] = [rest.get(bar, 0) for bar in bars]
    layers[SHARED] = [borne.get(bar, 0) for bar in bars]
    return {name: layer for name, layer in layers.items() if any(layer)}
