"""Recordings in every format become windows whose figures can be checked by hand; broken ones say where."""

from __future__ import annotations

import io
import json
import random
from datetime import UTC, datetime, timedelta

import netCDF4
import numpy as np
import pyarrow as pa
import pytest
from mcap.writer import CompressionType, Writer
from PIL import Image
from pyarrow import parquet
from pydantic import TypeAdapter, ValidationError

from raycluster.decode.sensor import Sensor

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def table(rows: int = 180, *, step: float = 1.0, form: str = "%Y-%m-%d %H:%M:%S", mark: str = ",") -> str:
    """A temperature that climbs by 0.1 a row, and a level that alternates between 1 and 3."""
    lines = [f"time{mark}temperature{mark}level"]
    for row in range(rows):
        at = (START + timedelta(seconds=row * step)).strftime(form)
        lines.append(f"{at}{mark}{20 + row / 10:.1f}{mark}{1 + row % 2 * 2}")
    return "\n".join(lines) + "\n"


def figures(row, channel: str) -> dict:
    return next(found for found in row.features["statistics"] if found["channel"] == channel)


def test_a_minute_of_rows_is_one_window(pieces):
    rows = pieces(Sensor(), table().encode())
    assert [row.position for row in rows] == [0, 1, 2]
    assert [(row.start_seconds, row.end_seconds) for row in rows] == [(0, 59), (60, 119), (120, 179)]
    second = rows[1]
    assert figures(second, "temperature") == {
        "channel": "temperature",
        "samples": 60,
        "mean": pytest.approx(28.95),
        "std": pytest.approx(np.std(np.arange(60) / 10)),
        "minimum": 26.0,
        "maximum": 31.9,
    }
    assert second.text == (
        "2026-03-01 12:01:00 to 2026-03-01 12:01:59: temperature mean 28.95, minimum 26, maximum 31.9, rising "
        "(60 samples); level mean 2, minimum 1, maximum 3 (60 samples)"
    )
    assert second.features["recorded_at"] == START + timedelta(minutes=1)
    assert second.features["clock"] == "column time"
    assert (second.features["channels"], second.features["samples"], second.features["rate"]) == (2, 120, 1)
    assert (second.features["gaps"], second.features["missing"], second.features["outliers"]) == (0, 0, 0)
    assert Image.open(io.BytesIO(second.thumbnail)).width == 256


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S+0000",
        "%Y/%m/%d %H:%M:%S",
        "%m/%d/%Y %H:%M:%S",
        "%d.%m.%Y %H:%M:%S",
        "%d-%b-%Y %H:%M:%S",
        "%s",
        "%s000",
        "%s000000000",
    ],
)
def test_delimiters_and_dates_are_recognised(pieces, mark, form, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    rows = pieces(Sensor(), table(form=form, mark=mark).encode())
    assert [row.features["recorded_at"] for row in rows] == [START + timedelta(minutes=minute) for minute in range(3)]
    assert figures(rows[1], "temperature")["mean"] == pytest.approx(28.95)
    assert rows[1].features["channels"] == 2


def test_dates_that_read_both_ways_are_read_in_order_of_time(pieces):
    lines = [f"{day:02d}/{month:02d}/2026,{day}" for month in (1, 2, 3) for day in range(1, 13)]
    rows = pieces(Sensor(), ("date,value\n" + "\n".join(lines)).encode())
    assert rows[0].features["recorded_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert sum(row.features["samples"] for row in rows) == 36


def test_a_date_column_and_a_time_column_are_one_clock(pieces):
    lines = ["date,time,value", *(f"2026-03-01,12:{row // 60:02d}:{row % 60:02d},{row}" for row in range(120))]
    rows = pieces(Sensor(), "\n".join(lines).encode())
    assert [row.features["recorded_at"] for row in rows] == [START, START + timedelta(minutes=1)]
    assert rows[0].features["channels"] == 1


def test_decimal_commas_preambles_and_encodings_are_read(pieces):
    lines = ["# Wetterstation Zürich", "# Gerät 7", "zeit;größe;time"]
    lines += [f"x;{20 + row},5;2026-03-01T12:00:{row:02d}" for row in range(30)]
    (row,) = pieces(Sensor(), "\r\n".join(lines).encode("cp1252"))
    assert figures(row, "größe")["mean"] == 35.0


def test_a_table_of_numbers_alone_counts_its_rows(pieces):
    rows = pieces(Sensor(window=10.0), "\n".join(f"{row},{row * 2}" for row in range(30)).encode())
    assert [row.start_seconds for row in rows] == [0, 10, 20]
    assert rows[0].features["clock"] == "row number at 1 Hz"
    assert rows[0].features["recorded_at"] is None
    assert figures(rows[2], "f1")["maximum"] == 58


def test_whole_numbers_may_get_a_fraction_later(pieces):
    body = "\n".join(f"{row},{row if row < 150_000 else row + 0.5}" for row in range(160_000))
    rows = pieces(Sensor(window=80_000.0), f"seconds,value\n{body}\n".encode())
    assert figures(rows[1], "value")["maximum"] == 159_999.5


def test_gaps_missing_values_and_outliers_are_counted(pieces):
    lines = table(120).splitlines()
    del lines[20:35]  # a hole: rows 19 to 33 are gone
    lines[5] = lines[5].rpartition(",")[0] + ","
    lines[40] = lines[40].rpartition(",")[0] + ",NaN"
    noisy = np.random.default_rng(5).normal(size=120)
    lines = [f"{line},{'noise' if not number else noisy[number]}" for number, line in enumerate(lines)]
    lines[30] = lines[30].rpartition(",")[0] + ",1000"
    (row, _) = pieces(Sensor(), "\n".join(lines).encode())
    assert row.features["gaps"] == 1
    assert row.features["longest_gap"] == 16
    assert row.features["missing"] == pytest.approx(2 / 135)
    assert row.features["outliers"] == pytest.approx(1 / 133)
    assert "1 gap" in row.text
    assert figures(row, "level")["samples"] == 43


def test_a_gap_that_spans_windows_belongs_to_the_window_in_which_it_ends(pieces):
    lines = table(300).splitlines()
    del lines[61:250]
    rows = pieces(Sensor(), "\n".join(lines).encode())
    assert [(row.position, row.start_seconds, row.end_seconds) for row in rows] == [(0, 0, 59), (1, 249, 299)]
    assert [row.features["gaps"] for row in rows] == [0, 1]
    assert rows[1].features["longest_gap"] == 190


def test_daily_values_get_windows_that_hold_enough_of_them(pieces):
    rows = pieces(Sensor(), table(200, step=86400, form="%Y-%m-%d").encode())
    assert [figures(row, "level")["samples"] for row in rows] == [64, 64, 64, 8]
    assert rows[0].features["rate"] is None
    assert rows[0].features["spacing"] == 86400
    assert rows[0].text.startswith("2026-03-01 to 2026-05-03: ")


def test_rows_of_several_sensors_become_channels(pieces):
    lines = ["sensor,time,value"]
    for at in range(120):
        moment = f"{START + timedelta(seconds=at):%Y-%m-%d %H:%M:%S}"
        lines += [f"north,{moment},{at}", f"south,{moment},{at + 1000}"]
    rows = pieces(Sensor(), "\n".join(lines).encode())
    assert len(rows) == 2
    assert figures(rows[0], "value north")["maximum"] == 59
    assert figures(rows[0], "value south")["minimum"] == 1000
    # The same, one sensor after the other: its time begins anew.
    rows_sorted = pieces(Sensor(by="sensor"), "\n".join([lines[0], *sorted(lines[1:])]).encode())
    assert [row.features for row in rows_sorted] == [row.features for row in rows]


def test_a_declared_time_column_wins(pieces, verdict):
    content = "time,taken,value\n" + "\n".join(f"{row},{row * 10},{row}" for row in range(60))
    (row,) = pieces(Sensor(window=600.0), content.encode())
    assert row.end_seconds == 59
    (row,) = pieces(Sensor(window=600.0, time="taken"), content.encode())
    assert row.end_seconds == 590
    refused = verdict(Sensor(time="when"), content.encode())
    assert refused.code == "unsupported"
    assert "no column 'when': it has time, taken, value" in refused.message


def parquet_bytes(rows: int = 180) -> bytes:
    times = [START + timedelta(seconds=row) for row in range(rows)]
    out = io.BytesIO()
    warmth, opened = [20 + row / 10 for row in range(rows)], [row % 2 == 0 for row in range(rows)]
    parquet.write_table(pa.table({"at": times, "temperature": warmth, "open": opened}), out, row_group_size=50)
    return out.getvalue()


def test_parquet_is_read_row_group_by_row_group(pieces):
    rows = pieces(Sensor(), parquet_bytes())
    assert len(rows) == 3
    assert figures(rows[1], "temperature")["mean"] == pytest.approx(28.95)
    assert figures(rows[1], "open")["mean"] == 0.5
    assert rows[1].features["recorded_at"] == START + timedelta(minutes=1)


def netcdf_bytes(path, *, form: str = "NETCDF4", steps: int = 48, units: str = "hours since 2026-03-01 12:00") -> bytes:
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("time", steps)
        file.createDimension("station", 2)
        file.createDimension("cell", 40)
        time = file.createVariable("time", "f8", ("time",))
        time.units = units
        time[:] = np.arange(steps)
        wind = file.createVariable("wind", "f4", ("time", "station"), fill_value=-999.0)
        wind.units, wind.long_name = "m s-1", "wind speed"
        values = np.arange(steps)[:, None] + np.array([0, 100])
        wind[:] = np.ma.masked_equal(values, 3)
        sea = file.createVariable("sea", "f4", ("cell", "time"))
        sea[:] = np.ones((40, 1)) * np.arange(steps)
        file.createVariable("depth", "f4", ("cell",))[:] = 1
    return path.read_bytes()


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"])
def test_netcdf_variables_along_time_are_channels(pieces, tmp_path, form):
    content = netcdf_bytes(tmp_path / "a.nc", form=form)
    for source in (content, tmp_path / "a.nc"):
        (row,) = pieces(Sensor(window=48 * 3600.0), source)
        assert row.features["recorded_at"] == START
        assert row.end_seconds == 47 * 3600
        assert figures(row, "wind[0]")["samples"] == 47
        assert figures(row, "wind[1]")["mean"] == pytest.approx(123.5)
        assert figures(row, "sea (mean over cell)")["maximum"] == 47
        assert "wind[1] (wind speed) mean 123.5, minimum 100, maximum 147 m s-1, rising (48 samples)" in row.text
        assert "depth" not in row.text


def test_a_calendar_without_real_dates_has_relative_time(pieces, tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", 60)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar = "days since 0001-01-01", "360_day"
        time[:] = np.arange(60)
        file.createVariable("x", "f4", ("time",))[:] = 1
    (row,) = pieces(Sensor(), tmp_path / "a.nc")
    assert row.features["recorded_at"] is None
    assert row.end_seconds == 59 * 86400


def mcap_bytes(messages: int = 200, compression: CompressionType = CompressionType.ZSTD) -> bytes:
    out = io.BytesIO()
    writer = Writer(out, compression=compression, chunk_size=2000)
    writer.start()
    schema = writer.register_schema("Imu", "jsonschema", b'{"type": "object"}')
    imu = writer.register_channel("/imu", "json", schema)
    camera = writer.register_channel("/camera", "cdr", writer.register_schema("Image", "ros2msg", b""))
    start = int(START.timestamp()) * 10**9
    for number in range(messages):
        at = start + number * 10**9
        body = {"stamp": {"sec": number}, "acceleration": {"x": number, "y": [0, -number]}, "label": "a"}
        writer.add_message(imu, log_time=at, publish_time=at, data=json.dumps(body).encode())
        if number % 10 == 0:
            writer.add_message(camera, log_time=at + 1, publish_time=at, data=b"\0\1\2")
    writer.finish()
    return out.getvalue()


@pytest.mark.parametrize("compression", list(CompressionType))
def test_mcap_messages_become_channels_by_topic(pieces, compression):
    rows = pieces(Sensor(window=100.0), mcap_bytes(compression=compression))
    assert len(rows) == 2
    assert figures(rows[1], "/imu.acceleration.x")["mean"] == 149.5
    assert figures(rows[1], "/imu.acceleration.y[1]")["minimum"] == -199
    assert "/camera 10 messages" in rows[1].text
    assert "stamp" not in rows[1].text
    assert rows[1].features["recorded_at"] == START + timedelta(seconds=100)
    assert rows[1].features["channels"] == 4


def test_slight_disorder_is_sorted_and_a_jump_back_is_refused(pieces, verdict, monkeypatch):
    monkeypatch.setattr("raycluster.decode._series._PEEK", 1)
    monkeypatch.setattr("raycluster.decode._table._ROWS", 100)
    times = [START + timedelta(seconds=row) for row in range(1000)]

    def write(order) -> bytes:
        out = io.BytesIO()
        parquet.write_table(pa.table({"at": [times[row] for row in order], "x": [float(row) for row in order]}), out)
        return out.getvalue()

    in_order = pieces(Sensor(), write(range(1000)))
    swapped = [row + 1 if row % 2 == 0 else row - 1 for row in range(1000)]
    assert [row.features for row in pieces(Sensor(), write(swapped))] == [row.features for row in in_order]
    refused = verdict(Sensor(), write([*range(500, 1000), *range(500)]))
    assert (refused.code, "sort it by time" in refused.message) == ("corrupt", True)


def test_windows_do_not_depend_on_how_the_file_is_cut_into_blocks(pieces, monkeypatch):
    content = parquet_bytes(3000)
    whole = pieces(Sensor(), content)
    monkeypatch.setattr("raycluster.decode._series._PEEK", 1)
    monkeypatch.setattr("raycluster.decode._table._ROWS", 70)
    assert pieces(Sensor(), content) == whole
    assert sum(row.features["samples"] for row in whole) == 6000


def test_a_window_must_last():
    with pytest.raises(ValidationError):
        TypeAdapter(Sensor).validate_json('{"window": "0s"}')
    assert TypeAdapter(Sensor).validate_json('{"window": "5min", "time": "t"}').window == 300


def broken_csv(change) -> bytes:
    lines = table(100).splitlines()
    change(lines)
    return "\n".join(lines).encode()


def ragged(lines):
    lines[41] += ",7,8"


def wordy(lines):
    lines[41] = lines[41].rpartition(",")[0] + ",high"


def late_words(lines):
    lines += [lines[-1]] * 60_000
    lines[50_000] = lines[50_000].rpartition(",")[0] + ",high"


NOISE = random.Random(3).randbytes(4000)
BROKEN = {
    "zero bytes": (b"", "empty", "no bytes"),
    "header only": (b"time,value\n", "empty", "no rows"),
    "ragged": (broken_csv(ragged), "corrupt", "line 42: it has 5 columns instead of 3"),
    "words among numbers": (broken_csv(late_words), "corrupt", "line 50001: column 'level' holds 'high'"),
    "cut": (table(100).encode()[:-5], "truncated", "ends inside line 101: it has 2 columns instead of 3"),
    "noise": (NOISE, "corrupt", "binary"),
    "words": (b"name,city\nAnna,Rome\nBerta,Oslo\n", "unsupported", "no column of numbers"),
    "people": (b"name,age\nAnna,31\nBerta,44\n", "unsupported", "a table, not a series"),
    "same name": (b"time,a,a\n1,2,3\n2,3,4\n", "corrupt", "two columns are called 'a'"),
    "long": (table(1200).encode(), "too_large", "max_rows"),
    "cut parquet": (parquet_bytes()[:-100], "truncated", "table of contents"),
    "holed parquet": (parquet_bytes()[:200] + bytes(400) + parquet_bytes()[600:], "corrupt", "Parquet"),
    "encrypted parquet": (b"PARE" + NOISE + b"PARE", "unsupported", "encrypted"),
    "hollow parquet": (b"PAR1" + NOISE + b"PAR1", "corrupt", "not readable as Parquet"),
    "cut mcap": (mcap_bytes()[:-1], "truncated", "end mark"),
    "holed mcap": (mcap_bytes()[:200] + bytes(200) + mcap_bytes()[400:], "corrupt", "not readable as MCAP"),
    "empty mcap": (mcap_bytes(0), "empty", "no message"),
    "hdf of noise": (b"\x89HDF\r\n\x1a\n\x09" + NOISE, "corrupt", "not readable as NetCDF"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_recordings_say_where(verdict, case):
    content, code, says = BROKEN[case]
    refused = verdict(Sensor(max_rows=1000 if case == "long" else 100_000), content)
    assert (refused.code, says in refused.message) == (code, True), refused.message


def test_a_column_that_turns_wordy_early_is_no_channel(pieces):
    (row, _) = pieces(Sensor(), broken_csv(wordy))
    assert [found["channel"] for found in row.features["statistics"]] == ["temperature"]


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_cut_netcdf_is_truncated(verdict, tmp_path, form, share):
    content = netcdf_bytes(tmp_path / "a.nc", form=form, steps=5000)
    part = content[: int(len(content) * share)]
    assert verdict(Sensor(), part).code == "truncated"
    (tmp_path / "b.nc").write_bytes(part)
    assert verdict(Sensor(), tmp_path / "b.nc").code == "truncated"


@pytest.mark.parametrize(
    ("units", "says"), [("months since 2026-01-01", "its time is in"), ("parsecs since 2026-01-01", "its time is in")]
)
def test_time_in_a_unit_without_a_length_is_refused(verdict, tmp_path, units, says):
    refused = verdict(Sensor(), netcdf_bytes(tmp_path / "a.nc", units=units))
    assert (refused.code, says in refused.message) == ("unsupported", True), refused.message


def test_netcdf_without_time_is_refused(verdict, tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("x", 3)
        file.createVariable("x", "f4", ("x",))[:] = 1
    refused = verdict(Sensor(), tmp_path / "a.nc")
    assert (refused.code, "its dimensions are x" in refused.message) == ("unsupported", True), refused.message
