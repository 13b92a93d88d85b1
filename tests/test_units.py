"""Quantities are written with a unit and come back as they were."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raycluster.units import Bytes, Hertz, Resources, Seconds, nano_usd, show_bytes, show_seconds, show_usd

SECONDS: TypeAdapter[Any] = TypeAdapter(Seconds)
BYTES: TypeAdapter[Any] = TypeAdapter(Bytes)


def read(adapter: TypeAdapter[Any], text: str) -> Any:
    return adapter.validate_json(f'"{text}"', strict=True)


def text_of(adapter: TypeAdapter[Any], value: float) -> str:
    return str(adapter.dump_python(value, mode="json"))


@given(st.floats(min_value=0, max_value=1e15, allow_subnormal=False))
def test_seconds_come_back(value: float) -> None:
    assert read(SECONDS, text_of(SECONDS, value)) == value


@given(st.integers(min_value=0, max_value=2**53))
def test_bytes_come_back(value: int) -> None:
    found = read(BYTES, text_of(BYTES, value))
    assert found == value
    assert type(found) is int


@pytest.mark.parametrize(
    ("adapter", "text", "value"),
    [
        (SECONDS, "10s", 10.0),
        (SECONDS, "500ms", 0.5),
        (SECONDS, "20us", 2e-5),
        (SECONDS, " 1.5 min ", 90.0),
        (SECONDS, "2m", 120.0),
        (SECONDS, "2h", 7200.0),
        (SECONDS, "1d", 86400.0),
        (BYTES, "7B", 7),
        (BYTES, "2GiB", 2 << 30),
        (BYTES, "1.5 kB", 1500),
        (BYTES, "1MB", 10**6),
        (BYTES, "1TiB", 1 << 40),
    ],
)
def test_units(adapter: TypeAdapter[Any], text: str, value: float) -> None:
    assert read(adapter, text) == value


@pytest.mark.parametrize("value", [10.0, 0.5, 86400.0, 1e-5, 1e9])
def test_seconds_are_written_for_people(value: float) -> None:
    text = text_of(SECONDS, value)
    assert "e" not in text
    assert text == text.replace(".0s", "s")


@pytest.mark.parametrize("adapter", [SECONDS, BYTES], ids=["seconds", "bytes"])
@pytest.mark.parametrize("text", ['"10"', "10", "10.5", "null", '"-1s"', '"-1B"', '"1 parsec"', '"s"', '""', '"1e3s"'])
def test_what_has_no_unit_or_a_wrong_one_is_refused(adapter: TypeAdapter[Any], text: str) -> None:
    with pytest.raises(ValidationError, match=r"write it like (10s|2GiB)"):
        adapter.validate_json(text, strict=True)


@pytest.mark.parametrize("text", ["0", "-1", '"16kHz"', "1.5"])
def test_rates_are_whole_positive_numbers(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Hertz).validate_json(text, strict=True)


def test_half_a_byte_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"1\.5 bytes are not a whole number"):
        read(BYTES, "1.5B")


def test_resources_are_read_strictly() -> None:
    adapter = TypeAdapter(Resources)
    found = adapter.validate_json('{"gpu": 0.25, "memory": "4GiB"}', strict=True)
    assert found == Resources(cpu=1.0, gpu=0.25, memory=4 << 30)
    assert adapter.validate_json(adapter.dump_json(found), strict=True) == found
    with pytest.raises(ValidationError):
        adapter.validate_json('{"gpu": -1}', strict=True)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_400_000, "3.4 MB"), (5e12, "5.0 TB"), (5e15, "5000.0 TB")],
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert show_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (60, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (3599.6, "1 h 00 min"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "amount"),
    [("25.00", 25 * 10**9), ("0.1", 10**8), ("0.000000001", 1), ("0", 0), ("999999999.999999999", 10**18 - 1)],
)
def test_amounts_are_exact(text: str, amount: int) -> None:
    assert nano_usd(text) == amount


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1_000", "$25", "25 USD", ".5", "nan", "9999999999", "٣"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        nano_usd(text)


def test_an_amount_below_a_nano_dollar_is_refused_and_not_rounded() -> None:
    with pytest.raises(ValueError, match="nine decimals"):
        nano_usd("0.0000000015")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (412_300, "$0.000412"),
        (9_999_999, "$0.01000"),
        (14_900_000, "$0.0149"),
        (100_000_000, "$0.10"),
        (21_300_000_000, "$21.30"),
        (1_250_000_000_000, "$1,250.00"),
        (-5_000_000, "-$0.00500"),
    ],
)
def test_money_for_people(amount: int, text: str) -> None:
    assert show_usd(amount) == text
