"""Lines of `_usage` become costs under another price file: priced anew, in order of time, and stored nowhere.

Windows that overlap are priced together (`price.py`), so no window is read without those that it overlaps. The ledger
is not sorted; a sort on disk is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.price import price
from raycluster.account.question import Question
from raycluster.account.scratch import Scratch
from raycluster.declare.prices import Prices
from raycluster.lake.ledger import USAGE, Ledger
from raycluster.lake.sql import instant

_PRICED_LINES = 65_536  # at once, or windows that overlap where they have more: a thousand nodes write about 50,000


def restated(ledger: Ledger, prices: Prices, question: Question) -> Iterator[pa.Table]:
    """Yield what usage costs under `prices`: tables of schema COSTS, of all windows that a question may be about."""
    first, last = _ends(ledger, question)
    ends = [f"started_at >= {instant(first)}"] if first else []
    ends += [f"started_at < {instant(last)}"] if last else []
    with Scratch() as scratch:
        scratch.fill({"used": "FROM part"}, ledger.usage(" AND ".join(ends) or None), USAGE)
        for whole in windows(scratch.batches("FROM used ORDER BY started_at, ended_at")):
            yield price(whole.cast(USAGE), prices)


def windows(lines: Iterable[pa.RecordBatch], most: int = _PRICED_LINES) -> Iterator[pa.Table]:
    """Yield lines, in order of `started_at`, in tables of about `most` that part no windows that overlap."""
    held: list[pa.RecordBatch] = []
    for batch in lines:
        held.append(batch)
        if sum(one.num_rows for one in held) < most:
            continue
        table = pa.Table.from_batches(held).combine_chunks()
        starts, ends = (table[name].cast(pa.int64()) for name in ("started_at", "ended_at"))
        over = pc.greater_equal(starts[1:], pc.cumulative_max(ends)[:-1])  # all that began before a line has ended
        cuts = pc.indices_nonzero(over)
        if len(cuts):
            cut = cuts[-1].as_py() + 1
            yield table.slice(0, cut)
            held = table.slice(cut).to_batches()
    if held:
        yield pa.Table.from_batches(held)


def _ends(ledger: Ledger, question: Question) -> tuple[datetime | None, datetime | None]:
    """Return the times between which windows must be priced: no window lies across them."""
    first, last = question.since, question.until
    if "run" in question.only:
        runs = Question(only={"run": question.only["run"]}, since=first, until=last)
        began = _most(ledger, f"{runs.who} AND {runs.when or 'true'}", ("started_at", "min"))
        ended = _most(ledger, f"{runs.who} AND {runs.when or 'true'}", ("ended_at", "max"))
        first, last = began or first, ended or last
    while first and (wider := _most(ledger, _across(first), ("started_at", "min"))):
        first = wider
    while last and (wider := _most(ledger, _across(last), ("ended_at", "max"))):
        last = wider
    return first, last


def _across(moment: datetime) -> str:
    return f"started_at < {instant(moment)} AND ended_at > {instant(moment)}"


def _most(ledger: Ledger, where: str, end: tuple[str, str]) -> datetime | None:
    """Return the least (or greatest) moment of a column of usage."""
    column, side = end
    found = [pc.min_max(batch.column(0))[side].as_py() for batch in ledger.usage(where, columns=[column])]
    moments = [one for one in found if one is not None]
    return (min(moments) if side == "min" else max(moments)) if moments else None
