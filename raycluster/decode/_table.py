"""CSV and Parquet tables become recordings: one column is the clock, the numeric ones are channels.

A table with a row for every sensor and moment (`sensor, time, value`) becomes one channel a sensor.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.decode._clock import Clock, find_clock
from raycluster.decode._encoding import find_encoding
from raycluster.decode._series import Block, Recording, Samples
from raycluster.errors import BadMedia

_BLOCK = 1 << 20  # bytes of CSV read at once; the first block decides on the columns' types
_ROWS = 1 << 16  # rows of Parquet read at once
_HEAD = 1 << 16  # bytes that decide on delimiter and header
_SERIES = 64  # values above which a text column names no series

_MISSING = ["", "NA", "N/A", "n/a", "na", "NaN", "nan", "NAN", "null", "NULL", "None", "none", "-", "--", "#N/A", "?"]
_MISSING += ["ERR", "ERROR", "error", "Error", "missing", "inf", "-inf", "Infinity"]
_DELIMITERS = ",;\t| "
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,:eE+\-/TZ ]*\s*")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
_CONVERSION = re.compile(r"CSV column #(\d+): (?:Row #(\d+): )?.*?invalid value '(.*)'", re.DOTALL)


def read_csv(open_file: Callable[[], BinaryIO], *, time: str | None, by: str | None) -> Recording:
    """Return the recording in a CSV file, whatever its delimiter, encoding and decimal mark.

    Raises:
        BadMedia: `corrupt` with the line, `truncated` inside the last row, `empty`, or `unsupported` without numbers.
    """
    with open_file() as file:
        encoding = find_encoding(file)
        head = file.read(_HEAD).decode(encoding, "replace")
    layout = _layout(head)
    types = _types(open_file, encoding, layout)
    return _recording(_csv_batches(open_file, encoding, layout, types), time, by)


def _layout(head: str) -> dict[str, Any]:
    """Return how a CSV file is laid out: lines to skip, delimiter, whether it has a header, decimal mark."""
    lines = head.splitlines()
    skipped = next((number for number, line in enumerate(lines) if line.strip() and line.lstrip()[0] != "#"), 0)
    lines = [line for line in lines[skipped : skipped + 50] if line.strip()]
    if not lines:
        raise BadMedia("empty", "it holds no rows")
    delimiter = max(_DELIMITERS, key=lambda mark: _regularity(lines[:-1] or lines, mark))
    cells = list(csv.reader(lines, delimiter=delimiter))
    commas = sum(bool(_DECIMAL_COMMA.fullmatch(cell)) for row in cells for cell in row)
    return {
        "skipped": skipped,
        "delimiter": delimiter,
        "header": not all(_NUMBER.fullmatch(cell) or cell in _MISSING for cell in cells[0]),
        "decimal": "," if delimiter != "," and commas else ".",
    }


def _regularity(lines: list[str], delimiter: str) -> tuple[float, int, int]:
    counts = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter))
    columns, rows = counts.most_common(1)[0]
    if columns < 2:
        return 0.0, 0, 0
    return rows / len(lines), columns, -_DELIMITERS.index(delimiter)


def _open(file: BinaryIO, encoding: str, layout: dict[str, Any], options: dict[str, Any]) -> Any:
    from pyarrow import csv as arrow

    return arrow.open_csv(
        file,
        read_options=arrow.ReadOptions(
            use_threads=False,
            block_size=_BLOCK,
            skip_rows=layout["skipped"],
            autogenerate_column_names=not layout["header"],
            encoding="utf8" if encoding.startswith("utf-8") else encoding,
        ),
        parse_options=arrow.ParseOptions(
            delimiter=layout["delimiter"], invalid_row_handler=options.get("refuse"), newlines_in_values=False
        ),
        convert_options=arrow.ConvertOptions(
            null_values=_MISSING, decimal_point=layout["decimal"], column_types=options.get("types")
        ),
    )


def _types(open_file: Callable[[], BinaryIO], encoding: str, layout: dict[str, Any]) -> dict[str, pa.DataType]:
    """Return the columns' types as the first block shows them; whole numbers may get a fraction later."""
    with open_file() as file:
        try:
            # Rows that do not fit are skipped here: reading proper says which they are.
            schema = _open(file, encoding, layout, {"refuse": lambda _: "skip"}).schema
        except pa.ArrowInvalid as error:
            raise BadMedia("corrupt", f"not readable as CSV: {error}") from error
    if len(set(schema.names)) < len(schema.names):
        twice = next(name for name, count in Counter(schema.names).items() if count > 1)
        raise BadMedia("corrupt", f"two columns are called {twice!r}")
    loose = {field.name: pa.float64() for field in schema if pa.types.is_null(field.type)}
    # Epochs in nanoseconds need all their digits: a number named after time stays whole.
    whole = {field.name: pa.float64() for field in schema if pa.types.is_integer(field.type)}
    whole = {name: kind for name, kind in whole.items() if not re.search("time|epoch|stamp|^ts$", name.lower())}
    return {field.name: field.type for field in schema} | loose | whole


def _csv_batches(
    open_file: Callable[[], BinaryIO], encoding: str, layout: dict[str, Any], types: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    with open_file() as file:
        try:
            yield from _open(file, encoding, layout, {"types": types, "refuse": refuse})
        except pa.ArrowInvalid as error:
            raise _verdict(error, ragged, list(types), open_file) from error


def _verdict(error: Exception, ragged: list[Any], names: list[str], open_file: Callable[[], BinaryIO]) -> BadMedia:
    if ragged:
        row = ragged[0]
        cells = f"it has {row.actual_columns} columns instead of {row.expected_columns}: {row.text[:80]!r}"
        with open_file() as file:
            file.seek(0, io.SEEK_END)
            file.seek(max(0, file.tell() - len(row.text) * 4 - 8))
            is_last = file.read().endswith(row.text.encode()[-40:])
        if is_last and row.actual_columns < row.expected_columns:
            return BadMedia("truncated", f"it ends inside line {row.number}: {cells}")
        return BadMedia("corrupt", f"line {row.number}: {cells}")
    if found := _CONVERSION.search(str(error)):
        line = f"line {found[2]}: " if found[2] else ""
        return BadMedia("corrupt", f"{line}column {names[int(found[1])]!r} holds {found[3]!r} among numbers or dates")
    return BadMedia("corrupt", f"not readable as CSV: {error}")


def read_parquet(open_file: Callable[[], BinaryIO], *, time: str | None, by: str | None) -> Recording:
    """Return the recording in a Parquet file."""
    from pyarrow import parquet

    file = open_file()
    head = file.read(4)
    file.seek(-4, io.SEEK_END)
    if file.read(4) != head:
        raise BadMedia("truncated", "it ends before Parquet's table of contents")
    if head == b"PARE":
        raise BadMedia("unsupported", "the Parquet file is encrypted: decrypt it first")
    try:
        table = parquet.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadMedia("corrupt", f"not readable as Parquet: {error}") from error
    return _recording(_parquet_batches(file, table), time, by)


def _parquet_batches(file: BinaryIO, table: Any) -> Iterator[pa.RecordBatch]:
    with file:
        try:
            yield from table.iter_batches(_ROWS)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadMedia("corrupt", f"its Parquet pages cannot be read: {error}") from error


def _recording(batches: Iterator[pa.RecordBatch], time: str | None, by: str | None) -> Recording:
    first = next((batch for batch in batches if batch.num_rows), None)
    if first is None:
        raise BadMedia("empty", "it has no rows")
    clock = find_clock(first, time)
    used = clock.columns if clock else ()
    channels = [field.name for field in first.schema if field.name not in used and _is_number(field.type)]
    others = [name for name in first.schema.names if name not in used and name not in channels]
    if not channels:
        raise BadMedia("unsupported", f"no column of numbers to measure: it has {', '.join(first.schema.names)}")
    if clock is None and others:
        raise BadMedia(
            "unsupported",
            f"a table, not a series: no column holds time, and {', '.join(map(repr, others[:3]))} holds no numbers. "
            "Name the time column as `time` of decode.sensor if there is one",
        )
    group = _series_column(first, clock, by)
    return Recording(
        blocks=_blocks(chain([first], batches), clock, channels, group),
        clock=f"column {clock.name}" if clock else "row number at 1 Hz",
        origin=clock.origin if clock else None,
    )


def _is_number(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(is_kind(kind) for is_kind in kinds)


def _series_column(batch: pa.RecordBatch, clock: Clock | None, by: str | None) -> str | None:
    """Return the text column that names the series: without it, moments come more than once."""
    if by is not None:
        if by not in batch.schema.names:
            raise BadMedia("unsupported", f"no column {by!r}: it has {', '.join(batch.schema.names)}")
        return by
    if clock is None:
        return None
    seconds = pa.array(clock.read(batch))
    if len(seconds.unique()) == len(seconds):
        return None
    for field in batch.schema:
        if field.name in clock.columns or not pa.types.is_string(field.type):
            continue
        names = batch.column(field.name)
        series = len(names.unique())
        if 1 < series <= _SERIES and series < batch.num_rows / 2:
            pairs = pa.table({"seconds": seconds, "name": names}).group_by(["seconds", "name"]).aggregate([])
            if pairs.num_rows == batch.num_rows:
                return str(field.name)
    return None


def _blocks(
    batches: Iterator[pa.RecordBatch], clock: Clock | None, channels: list[str], group: str | None
) -> Iterator[Block]:
    rows = 0
    for batch in batches:
        # seconds: (row,) float64
        seconds = clock.read(batch) if clock else np.arange(rows, rows + batch.num_rows, dtype=np.float64)
        rows += batch.num_rows
        values = {name: _values(batch.column(name)) for name in channels}
        if group is None:
            yield {name: Samples(seconds, column) for name, column in values.items()}
            continue
        names = batch.column(group).cast(pa.string())
        block: dict[str, Samples] = {}
        for series in names.unique().drop_null().to_pylist():
            mine = pc.fill_null(pc.equal(names, series), False).to_numpy(zero_copy_only=False)
            block |= {f"{name} {series}": Samples(seconds[mine], column[mine]) for name, column in values.items()}
        yield block


def _values(column: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    # values: (row,) float64, NaN where one is missing
    kind = column.type
    column = column.cast(pa.int8()) if pa.types.is_boolean(kind) else column
    values: np.ndarray[Any, np.dtype[np.float64]] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(values), values, np.nan)
