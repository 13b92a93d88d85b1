"""What nodes have laid into the inbox becomes usage, and its windows become costs; done twice, it changes nothing.

A window is priced as a whole, all nodes of its cluster together, and again when a node's lines come late or change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.price import Window, gone, price, windows
from raycluster.declare.prices import Prices
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS, USAGE, Ledger
from raycluster.lake.maintain import tend_ledger
from raycluster.lake.sql import any_of, instant, quoted
from raycluster.units import NanoUsd

_FILES_AT_ONCE = 2000  # some 30,000 lines. A window that is cut in two is priced twice
_TRIES = 5  # while others settle the same windows
_SPANS_AT_ONCE = 50  # in one question to the ledger

Span = tuple[datetime, datetime]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was done: files of the inbox, lines of usage, windows priced."""

    files: int = 0
    lines: int = 0
    windows: int = 0


def settle(lake: Lake, prices: Prices) -> Settled:
    """Move the inbox into `_usage`, and price what is new in it.

    Raises:
        InvalidUse: a node has no price. Its usage is kept, and waits in the inbox to be priced by a mended list.
    """
    ledger = lake.ledger()
    done = Settled()
    for start in range(0, len(names := ledger.inbox_names()), _FILES_AT_ONCE):
        part = names[start : start + _FILES_AT_ONCE]
        lines = _versioned(ledger.inbox_lines(part), lake)
        if not set(part) <= set(ledger.inbox_names()):  # another settler was faster: it may know better by now
            part = [name for name in part if name in ledger.inbox_names()]
            lines = _versioned(ledger.inbox_lines(part), lake)
        ledger.put_usage(lines)
        touched = windows(lines)
        if not _price(ledger, touched, prices):  # others go on adding to these windows: later
            continue
        ledger.clear(part)
        done = Settled(
            files=done.files + len(part), lines=done.lines + lines.num_rows, windows=done.windows + len(touched)
        )
    if done.files:
        tend_ledger(lake)
    return done


def lines_of(lake: Lake, run_id: str) -> pa.Table:
    """Return a run's lines of cost, as far as they are settled."""
    return pa.Table.from_batches(lake.ledger().costs(f"run_id = {quoted(run_id)}"), COSTS)


def unexplained(lake: Lake, clusters: Iterable[str], *, since: datetime) -> float:
    """Return the share of all CPU time since a moment that the kernel counted and no process showed."""
    ledger = lake.ledger()
    wheres = (f"{own} AND ended_at > {instant(since)}" for own in any_of("cluster", clusters))
    whole = unseen = 0.0
    for batch in (one for where in wheres for one in ledger.usage(where, columns=["kind", "cpu_seconds"])):
        whole += pc.sum(batch.column("cpu_seconds")).as_py() or 0.0
        unseen += pc.sum(batch.filter(pc.equal(batch.column("kind"), "unexplained"))["cpu_seconds"]).as_py() or 0.0
    return unseen / whole if whole else 0.0


def cost_of(lake: Lake, run_id: str) -> NanoUsd:
    """Return what a run has cost so far, its part of shared lines included, as far as it is settled."""
    found = lake.ledger().costs(f"run_id = {quoted(run_id)}", columns=["nanousd"])
    return sum(pc.sum(batch.column("nanousd")).as_py() or 0 for batch in found)


def _versioned(lines: pa.Table, lake: Lake) -> pa.Table:
    """Return lines with the dataset version that each run has made, where it has ended."""
    ids = [one for one in pc.unique(lines["run_id"]).to_pylist() if one]
    made = {run.run_id: run.version for run in lake.runs().several(ids)}
    version = pa.array([made.get(one) for one in lines["run_id"].to_pylist()], pa.int64())
    return lines.set_column(USAGE.get_field_index("version"), USAGE.field("version"), version)


def _price(ledger: Ledger, touched: list[Window], prices: Prices) -> bool:
    """Price windows as they stand in the ledger, and again while other settlers add to it; tell if none does."""
    for _ in range(_TRIES):
        before = ledger.version()
        for cluster in {window.cluster for window in touched}:
            where = _within(cluster, _spans(ledger, [window for window in touched if window.cluster == cluster]))
            usage = pa.Table.from_batches(ledger.usage(where), USAGE)
            known = pa.Table.from_batches(ledger.costs(where), COSTS)  # whatever the prices: a window is paid once
            made = price(usage, prices)
            ledger.put_costs(made)
            ledger.remove_costs(gone(known, made))
        if ledger.version() == before:
            return True
    return False


def _spans(ledger: Ledger, own: list[Window]) -> list[Span]:
    """Return the times in which windows are to be priced: these, and those of other nodes that overlap them."""
    spans: list[Span] = []
    more = _merged([(one.started_at, one.ended_at) for one in own])
    while more != spans:
        spans = more
        found = ledger.usage(_within(own[0].cluster, spans), columns=["started_at", "ended_at"])
        there = {span for batch in found for span in zip(*(column.to_pylist() for column in batch), strict=True)}
        more = _merged([*spans, *there])
    return spans


def _merged(spans: list[Span]) -> list[Span]:
    """Join spans of time that overlap or touch; all where there are too many to ask for one by one."""
    merged: list[Span] = []
    for started, ended in sorted(spans):
        if merged and started <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(ended, merged[-1][1])
        else:
            merged.append((started, ended))
    return merged if len(merged) <= _SPANS_AT_ONCE else [(merged[0][0], merged[-1][1])]


def _within(cluster: str, spans: list[Span]) -> str:
    """Return an SQL condition on lines whose window has some of these times in it."""
    parts = []
    for span in spans:
        started, ended = map(instant, span)
        parts.append(f"(started_at < {ended} AND ended_at > {started})")
    return f"cluster = {quoted(cluster)} AND ({' OR '.join(parts)})"
