"""Text with a unit becomes a number: `10s`, `500ms`, `2GiB`, `16kHz`; and what a stage needs to run.

In YAML a duration or a size without its unit is an error; in Python the same fields are plain numbers in the
unit that the type's name says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]+)?")  # below 10^9 dollars: nano-dollars fit into 64 bits
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def _parser(units: dict[str, float] | dict[str, int], example: str) -> BeforeValidator:
    """Turn text such as `example` into a number of the unit whose factor is 1."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit: write it like {example} (units: {', '.join(units)})")
        found = _QUANTITY.fullmatch(value)
        if not found or found[2] not in units:
            raise ValueError(f"{value!r} is not a quantity: write it like {example} (units: {', '.join(units)})")
        return Decimal(found[1]) * Decimal(str(units[found[2]]))  # 20us is 2e-05, not 1.9999999999999998e-05

    return BeforeValidator(parse)


def _whole(value: Decimal) -> int:
    if value != int(value):
        raise ValueError(f"{value.normalize():f} bytes are not a whole number")
    return int(value)


def _seconds_text(value: float) -> str:
    """Write seconds so that exactly they are read back, without an exponent, which no unit could follow."""
    text = f"{Decimal(repr(float(value))):f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}s"


def _text_schema(units: dict[str, float] | dict[str, int], example: str) -> WithJsonSchema:
    pattern = rf"^\s*\d+(\.\d+)?\s*({'|'.join(units)})\s*$"
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


Seconds = Annotated[
    float,
    BeforeValidator(float),
    _parser(_SECONDS, "10s"),
    PlainSerializer(_seconds_text),
    _text_schema(_SECONDS, "10s"),
]
Bytes = Annotated[
    int, BeforeValidator(_whole), _parser(_BYTES, "2GiB"), PlainSerializer("{}B".format), _text_schema(_BYTES, "2GiB")
]
Hertz = Annotated[int, Field(gt=0)]  # DESIGN.md writes `rate: 16000`, as every audio tool does
NanoUsd = int


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage occupies: cores, GPUs (fractions allowed) and memory."""

    cpu: Annotated[float, Field(ge=0)] = 1.0
    gpu: Annotated[float, Field(ge=0)] = 0.0
    memory: Bytes = 0


def nano_usd(text: str) -> NanoUsd:
    """Return an amount of US dollars, as `25.00`, in whole nano-dollars.

    Raises:
        ValueError: not an amount, or finer than a nano-dollar.
    """
    if not _AMOUNT.fullmatch(text):
        raise ValueError(f"{text!r} is not an amount of US dollars: write it like 25.00")
    amount = Decimal(text).scaleb(9)
    if amount != int(amount):
        raise ValueError(f"{text} US dollars are not a whole number of nano-dollars: give nine decimals at most")
    return int(amount)


def show_usd(amount: NanoUsd) -> str:
    """Write an amount for people: `$1,250.00`, and below ten cents three figures that count: `$0.000412`."""
    sign, whole = "-" if amount < 0 else "", abs(amount)
    places = 2 if whole >= 10**8 or not whole else 12 - len(str(whole))
    return f"{sign}${Decimal(whole).scaleb(-9):,.{min(places, 9)}f}"


def show_bytes(size: float) -> str:
    """Write a number of bytes for people: `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def show_seconds(seconds: float) -> str:
    """Write a duration for people: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
