"""Lines of cost become sums: one line a group, in whole nano-dollars that add up to the total exactly.

Under `bill.py`. Lines are streamed once; `scratch.py` groups them on disk, so memory depends on the answer's length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raycluster import stage
from raycluster.account.question import COLUMNS, MOMENTS, local
from raycluster.account.scratch import Scratch
from raycluster.lake.ledger import COSTS
from raycluster.lake.sql import quoted

# What is added up; `peak_rss` and `gpu_memory` are heights, which do not add up.
QUANTITIES = (
    "calls",
    "cpu_seconds",
    "wall_seconds",
    "gpu_seconds",
    "memory_byte_seconds",
    "bytes_read",
    "bytes_written",
    "rows_in",
    "rows_out",
)
_MONEY = ("nanousd", "direct_nanousd", "shared_nanousd")
_NEEDED = ("started_at", "run_id", "stage", "kind", "prices", "is_shared", "nanousd", *QUANTITIES)
_WHOLE = frozenset(name for name in QUANTITIES if COSTS.field(name).type == pa.int64())
_BORNE = "SELECT kind, sum(nanousd) AS nanousd FROM part WHERE is_shared AND kind IS NOT NULL GROUP BY 1"
_NAMED = "SELECT DISTINCT prices FROM part WHERE prices IS NOT NULL"
_SUMMED = ", ".join(f"sum({name}) AS {name}" for name in (*_MONEY, *QUANTITIES))


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The sums of lines of cost.

    `lines`: the keys, then money, `share` (percent), QUANTITIES, `rows` and unit costs; the dearest first or, where the
    first key is a time, the earliest. `rows` counts each row once, though every stage puts it out: of each run the most
    that any step put out, where all decoders together are one step, since a row comes out of one of them.
    `total`: the same of all lines together.
    """

    lines: pa.Table
    total: dict[str, Any]
    shared: dict[str, int]  # kind -> nano-dollars of shared lines
    prices: tuple[str, ...]  # name@version of each price file that was applied


def columns(by: Sequence[str]) -> list[str]:
    """Return the columns of COSTS that `add_up` reads."""
    return list(dict.fromkeys([*_NEEDED, *(COLUMNS[key] for key in by if key in COLUMNS)]))


def add_up(lines: Iterable[pa.RecordBatch], by: Sequence[str]) -> Sums:
    """Group lines of cost by keys; of no lines, the sums are 0."""
    timed = [key for key in by if key in MOMENTS]
    schema = pa.schema([COSTS.field(name) for name in columns(by)] + [pa.field(key, pa.string()) for key in timed])
    with Scratch() as scratch:
        queries = {"parts": _part(by), "borne": _BORNE, "named": _NAMED}
        scratch.fill(queries, _dated(lines, timed), schema)
        _reduce(scratch, (), "total")
        _reduce(scratch, by, "lines")
        (total,) = scratch.table(_answer((), "total")).to_pylist()
        shared = scratch.table("SELECT kind, sum(nanousd)::BIGINT FROM borne GROUP BY 1 ORDER BY 1")
        prices = scratch.table("SELECT DISTINCT prices FROM named ORDER BY 1")
        return Sums(
            lines=scratch.table(_answer(by, "lines")),
            total=total,
            shared=dict(zip(*(column.to_pylist() for column in shared.columns), strict=True)),
            prices=tuple(prices.column(0).to_pylist()),
        )


def _dated(lines: Iterable[pa.RecordBatch], timed: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Write beside each line the local day, hour or month in which its window began."""
    for batch in lines:
        for key in timed:
            batch = batch.append_column(key, local(batch.column("started_at"), key))
        yield batch


def _part(by: Sequence[str]) -> str:
    """Return the query that adds up a few batches: by the keys, and by the run and step that `rows` is about."""
    keys = [f'{COLUMNS.get(key, key)} AS "{key}"' for key in by]
    decoders = ", ".join(map(quoted, stage.names("decode")))
    step = f"CASE WHEN stage IN ({decoders}) THEN '' ELSE stage END AS _step"
    sums = [
        "sum(nanousd) AS nanousd",
        "sum(CASE WHEN is_shared THEN 0 ELSE nanousd END) AS direct_nanousd",
        "sum(CASE WHEN is_shared THEN nanousd ELSE 0 END) AS shared_nanousd",
        *(f"coalesce(sum({name}), 0) AS {name}" for name in QUANTITIES),
    ]
    return f"SELECT {', '.join([*keys, 'run_id AS _run', step, *sums])} FROM part GROUP BY ALL"


def _reduce(scratch: Scratch, by: Sequence[str], name: str) -> None:
    """Make a table of the sums by these keys, with `rows`: first by step, of which the run's `rows` is the most."""
    keys = "".join(f'"{key}", ' for key in by)
    steps = f"SELECT {keys}_run, _step, {_SUMMED} FROM parts GROUP BY ALL"
    runs = f"SELECT {keys}_run, {_SUMMED}, max(rows_out) AS rows FROM {name}_steps GROUP BY ALL"
    scratch.run(f"CREATE TABLE {name}_steps AS {steps}")  # one step groups: see compare.py
    scratch.run(f"CREATE TABLE {name}_runs AS {runs}")
    scratch.run(f"CREATE TABLE {name} AS SELECT {keys}{_SUMMED}, sum(rows) AS rows FROM {name}_runs GROUP BY ALL")


def _answer(by: Sequence[str], name: str) -> str:
    """Return the query for the sums in a table: with shares and unit costs, in order."""
    figures = [f'"{key}"' for key in by]
    figures += [f"coalesce({one}, 0)::BIGINT AS {one}" for one in _MONEY]
    figures += ["CASE WHEN whole <> 0 THEN 100.0::DOUBLE * nanousd / whole END AS share"]
    figures += [f"coalesce({one}, 0)::{'BIGINT' if one in _WHOLE else 'DOUBLE'} AS {one}" for one in QUANTITIES]
    figures += [
        "coalesce(rows, 0)::BIGINT AS rows",
        "CASE WHEN rows > 0 THEN round(nanousd * 1e3::DOUBLE / rows)::BIGINT END AS nanousd_per_1000_rows",
        "CASE WHEN bytes_read > 0 THEN round(nanousd * 1e9::DOUBLE / bytes_read)::BIGINT END AS nanousd_per_gb_read",
    ]
    earliest = [f'"{by[0]}"'] if by and by[0] in MOMENTS else []
    order = ", ".join([*earliest, "nanousd DESC", *(f'"{key}"' for key in by)])
    whole = "(SELECT nanousd AS whole FROM total) AS _whole"
    return f"SELECT {', '.join(figures)} FROM {name}, {whole} ORDER BY {order}"
