"""A table's time column is found, and its values become seconds.

Dates come in many spellings, epochs in many units. The column is chosen once, from the first batch of rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.decode._series import Floats
from raycluster.errors import BadMedia

# ISO 8601 is read by Arrow itself. Of spellings that fit alike, the first that puts time in order wins, else the first.
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y")
_SPELT_DAYS = ("%b %d %Y", "%d %b %Y", "%d-%b-%Y", "%B %d, %Y", "%Y%m%d")
_HOURS = (" %H:%M:%S", " %H:%M", "T%H:%M:%S", "")
_FORMATS = (*(day + hour for day in (*_DAYS, *_SPELT_DAYS) for hour in _HOURS), "%Y%m%d%H%M%S")
_NAMES = re.compile(r"(date|time|datetime|timestamp|ts|t|epoch|unix|clock|elapsed|seconds?|secs?|millis|month|day)s?")
_UNIT = re.compile(r"(?:^|[^a-z])(ns|us|ms|s|secs?|seconds?|millis(?:econds)?|min|minutes|h|hours|days?)\W*$")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "mi": 60.0, "h": 3600.0, "ho": 3600.0, "d": 86400.0, "da": 86400.0}
# Numbers above these are seconds, milliseconds, microseconds, nanoseconds since 1970 (from 1973 on), largest first.
_EPOCHS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0))
_DAY = 86_400_000_000  # microseconds
_ORDERED = 0.9  # share of steps that go forward in a number that counts time
_TRIED = 1000  # rows that a date format is tried on

Read = Callable[[pa.RecordBatch], Floats]


@dataclass(frozen=True)
class Clock:
    """Where a table's time comes from and how it is read; columns that it uses up are no channels."""

    name: str
    columns: tuple[str, ...]
    origin: datetime | None
    read: Read  # a batch -> seconds since the origin (row,) float64, NaN where there is none


def find_clock(batch: pa.RecordBatch, wanted: str | None) -> Clock | None:
    """Return the clock of a table: the column `wanted`, else the likeliest one, else None.

    Raises:
        BadMedia: the wanted column is absent or holds no time.
    """
    if wanted is not None:
        if wanted not in batch.schema.names:
            raise BadMedia("unsupported", f"no column {wanted!r}: it has {', '.join(batch.schema.names)}")
        clock = _dated(batch, wanted) or _numbered(batch, wanted)
        if clock is None:
            raise BadMedia("unsupported", f"column {wanted!r} holds no time: {batch.column(wanted)[0]}")
        return clock
    # Columns that are called after time come first.
    for name in sorted(batch.schema.names, key=lambda name: not _is_time_name(name)):
        if clock := _dated(batch, name):
            return clock
    for name in filter(_is_time_name, batch.schema.names):
        if (clock := _numbered(batch, name)) and _goes_forward(clock.read(batch)):
            return clock
    return None


def _is_time_name(name: str) -> bool:
    return any(_NAMES.fullmatch(word) for word in re.split(r"[^a-z]+", name.lower()))


def _goes_forward(seconds: Floats) -> bool:
    steps = np.diff(seconds[np.isfinite(seconds)])
    return bool(len(steps)) and float(np.mean(steps >= 0)) >= _ORDERED and bool((steps > 0).any())


def _dated(batch: pa.RecordBatch, name: str) -> Clock | None:
    """Return the clock of a column of dates, joined with a column of times of day if there is one."""
    parse = _parser(batch.column(name))
    if parse is None:
        return None
    whole = pc.drop_null(parse(batch.column(name)))
    if not len(whole):
        return None
    zero = whole[0].value
    hours = None
    if not np.any(_numbers(whole) % _DAY):
        hours = next((field.name for field in batch.schema if pa.types.is_time(field.type)), None)

    def read(batch: pa.RecordBatch) -> Floats:
        seconds: Floats = (_numbers(parse(batch.column(name))) - zero) / 1e6
        if hours is not None:
            seconds += _time_of_day(batch.column(hours))
        return seconds

    # Not datetime.fromtimestamp: it fails before 1970 on some systems.
    origin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=zero)
    return Clock(name, (name,) if hours is None else (name, hours), origin, read)


def _parser(column: pa.Array) -> Callable[[pa.Array], pa.Array] | None:
    """Return the function from a column of dates to timestamps in microseconds; None if it holds none."""
    micro = pa.timestamp("us")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return lambda values: values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False).cast(micro)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    sample = pc.drop_null(column[:_TRIED])
    sample = sample.filter(pc.not_equal(sample, ""))
    fitting = [form for form in _FORMATS if len(sample) and not pc.strptime(sample, form, "us", True).null_count]
    if not fitting:
        return None
    ordered = (form for form in fitting if _goes_forward(_numbers(pc.strptime(sample, form, "us"))))
    chosen = next(ordered, fitting[0])
    return lambda values: pc.strptime(values, chosen, "us", error_is_null=True)


def _numbers(stamps: pa.Array) -> Floats:
    numbers: Floats = stamps.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers


def _time_of_day(column: pa.Array) -> Floats:
    stamps = column.cast(pa.time64("us")).cast(pa.int64())
    seconds: Floats = stamps.to_numpy(zero_copy_only=False).astype(np.float64) / 1e6
    return seconds


def _numbered(batch: pa.RecordBatch, name: str) -> Clock | None:
    """Return the clock of a column of numbers: an epoch by its size, else seconds, else what its name says."""
    kind = batch.schema.field(name).type
    if pa.types.is_time(kind):
        return Clock(name, (name,), None, lambda batch: _time_of_day(batch.column(name)))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    known = pc.drop_null(batch.column(name))
    if not len(known):
        return None
    zero = float(known[0].as_py())
    unit = next((unit for above, unit in _EPOCHS if zero > above), None)
    if unit is None:
        found = _UNIT.search(name.lower())
        unit = _SECONDS.get(found[1][:2] if found else "", 1.0)
        return Clock(name, (name,), None, lambda batch: _plain(batch.column(name)) * unit)
    origin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=zero * unit)
    first = known[0]
    return Clock(name, (name,), origin, lambda batch: _plain(pc.subtract(batch.column(name), first)) * unit)


def _plain(column: pa.Array) -> Floats:
    numbers: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers
