"""NetCDF becomes a recording: every variable along the time dimension is a channel.

A variable with few places beside time (stations, levels) is one channel a place; a field over many is its mean.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from raycluster.decode._series import Block, Floats, Recording, Samples
from raycluster.errors import BadMedia
from raycluster.stage import need

_STEPS = 1 << 14  # moments read at once
_PLACES = 16  # beyond, a variable is a field, and its mean is taken
_HDF5, _CLASSIC = b"\x89HDF\r\n\x1a\n", b"CDF"
_TIME_NAMES = ("time", "t", "date", "datetime", "record")


class _Time(NamedTuple):
    name: str  # of the dimension
    variable: Any  # None where it has no values: moments are counted
    factor: float  # seconds a unit
    origin: datetime | None


def read_netcdf(source: str | bytes) -> Recording:
    """Return the recording in a NetCDF file, given as a path or as bytes.

    Raises:
        BadMedia: `truncated`, `corrupt`, or `unsupported` without a time dimension or a number along it.
    """
    netcdf = need("netCDF4", '"raycluster[sensor]"')
    try:
        dataset = _open(netcdf, source)
    except (OSError, RuntimeError) as error:
        raise _verdict(source, error) from error
    time = _find_time(dataset)
    channels = {
        name: variable
        for name, variable in dataset.variables.items()
        if time.name in variable.dimensions and variable.dtype.kind in "iuf" and name != time.name
    }
    if not channels:
        dataset.close()
        raise BadMedia("unsupported", f"no variable of numbers along {time.name!r}")
    return Recording(
        blocks=_blocks(dataset, time, channels, source),
        clock=f"variable {time.name}" if time.variable is not None else "step number at 1 Hz",
        origin=time.origin,
        units=_attributes(channels, "units"),
        titles=_attributes(channels, "long_name"),
    )


def _open(netcdf: Any, source: str | bytes) -> Any:
    if isinstance(source, bytes):
        return netcdf.Dataset("memory", memory=source)
    with open(source, "rb") as file:
        if file.read(3) != _CLASSIC:
            return netcdf.Dataset(source)
        # From a path, the library reads zeros where a classic file is cut; from memory, it says so.
        return netcdf.Dataset("memory", memory=mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _verdict(source: str | bytes, error: Exception) -> BadMedia:
    if isinstance(source, bytes):
        head, size = source[:64], len(source)
    else:
        with open(source, "rb") as file:
            head, size = file.read(64), file.seek(0, 2)
    if head.startswith(_HDF5) and head[8] <= 3:
        # Where HDF5 says that the file ends, by the version of its superblock. Source: HDF5 file format, III.A.
        place = 40 if head[8] < 2 else 28
        if int.from_bytes(head[place : place + 8], "little") > size:
            return BadMedia("truncated", f"the NetCDF file ends early, after {size} bytes")
    elif head.startswith(_CLASSIC):
        # The classic library only says "Operation not permitted" when data ends before the header's promise.
        return BadMedia("truncated", f"the classic NetCDF file ends early, after {size} bytes")
    return BadMedia("corrupt", f"not readable as NetCDF: {error}")


def _find_time(dataset: Any) -> _Time:
    for name, variable in dataset.variables.items():
        units = str(getattr(variable, "units", ""))
        if variable.dimensions == (name,) and " since " in units and len(variable):
            return _dated(name, variable, units)
    names = [name for name in dataset.dimensions if name.lower() in _TIME_NAMES]
    names += [name for name, dimension in dataset.dimensions.items() if dimension.isunlimited()]
    if not names:
        shape = ", ".join(dataset.dimensions) or "none"
        dataset.close()
        raise BadMedia("unsupported", f"no time dimension: its dimensions are {shape}")
    variable = dataset.variables.get(names[0])
    is_number = variable is not None and variable.dtype.kind in "iuf" and variable.ndim == 1
    return _Time(names[0], variable if is_number else None, 1.0, None)


def _dated(name: str, variable: Any, units: str) -> _Time:
    """Return a time with CF units (`hours since 1800-01-01`) and its first moment."""
    cftime = need("cftime", '"raycluster[sensor]"')
    calendar = str(getattr(variable, "calendar", "standard"))
    try:
        zero, one, first = cftime.num2date([0, 1, float(variable[0])], units, calendar)
    except ValueError as error:
        raise BadMedia("unsupported", f"its time is in {units!r}: {error}") from error
    origin = None
    if first.calendar in ("standard", "gregorian", "proleptic_gregorian") and first.year > 0:
        midnight = datetime(first.year, first.month, first.day, tzinfo=UTC)
        origin = midnight + timedelta(
            hours=first.hour, minutes=first.minute, seconds=first.second, microseconds=first.microsecond
        )
    return _Time(name, variable, (one - zero).total_seconds(), origin)


def _attributes(channels: dict[str, Any], key: str) -> dict[str, str]:
    return {name: str(value) for name, variable in channels.items() if (value := getattr(variable, key, ""))}


def _blocks(dataset: Any, time: _Time, channels: dict[str, Any], source: str | bytes) -> Iterator[Block]:
    steps = len(dataset.dimensions[time.name])
    first = float(time.variable[0]) if time.variable is not None and steps else 0.0
    try:
        for start in range(0, steps, _STEPS):
            part = slice(start, min(start + _STEPS, steps))
            # seconds: (step,) float64
            numbers = np.arange(part.start, part.stop) if time.variable is None else time.variable[part]
            seconds = (_plain(numbers) - first) * time.factor
            block: dict[str, Samples] = {}
            for name, variable in channels.items():
                block |= {label: Samples(seconds, values) for label, values in _places(name, variable, time.name, part)}
            yield block
    except (OSError, RuntimeError) as error:
        raise _verdict(source, error) from error
    finally:
        dataset.close()


def _plain(numbers: Any) -> Floats:
    plain: Floats = np.ma.filled(np.ma.asarray(numbers).astype(np.float64), np.nan)
    return plain


def _places(name: str, variable: Any, time: str, part: slice) -> Iterator[tuple[str, Floats]]:
    """Iterate over one variable's channels: each place beside time, or the mean of all where they are many."""
    axis = variable.dimensions.index(time)
    index = tuple(part if number == axis else slice(None) for number in range(variable.ndim))
    # values: (step, place, ...) float64, NaN where the fill value stands
    values: Any = np.moveaxis(_plain(variable[index]), axis, 0)
    shape = values.shape[1:]
    if np.prod(shape, dtype=int) <= _PLACES:
        for place in itertools.product(*map(range, shape)):
            label = f"{name}[{','.join(map(str, place))}]" if place else name
            yield label, values[:, *place]
        return
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat).sum(axis=1)
    others = ", ".join(dimension for dimension in variable.dimensions if dimension != time)
    yield f"{name} (mean over {others})", np.nansum(flat, axis=1) / np.where(known, known, np.nan)
