"""What nodes have laid into the inbox becomes usage, and its windows become costs; done twice, it changes nothing.

A window is priced as a whole, all nodes of its cluster together, and again when a node's lines come late or change.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.price import Window, gone, price, windows
from raycluster.declare.prices import Prices
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS, USAGE, Ledger
from raycluster.lake.sql import quoted
from raycluster.units import NanoUsd

_FILES_AT_ONCE = 500  # some 20,000 lines
_TRIES = 5  # while others settle the same windows


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
        ledger.put_usage(lines)
        touched = windows(lines)
        _price(ledger, touched, prices)
        ledger.clear(part)
        done = Settled(
            files=done.files + len(part), lines=done.lines + lines.num_rows, windows=done.windows + len(touched)
        )
    return done


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


def _price(ledger: Ledger, touched: list[Window], prices: Prices) -> None:
    """Price windows as they stand in the ledger; once more if another settler has added to it meanwhile."""
    for _ in range(_TRIES):
        before = ledger.version()
        for cluster in {window.cluster for window in touched}:
            own = [window for window in touched if window.cluster == cluster]
            where = _between(cluster, min(one.started_at for one in own), max(one.ended_at for one in own))
            usage = pa.Table.from_batches(ledger.usage(where), USAGE)
            known = pa.Table.from_batches(ledger.costs(where), COSTS)  # whatever the prices: a window is paid once
            made = price(usage, prices)
            ledger.put_costs(made)
            ledger.remove_costs(gone(known, made))
        if ledger.version() == before:
            return


def _between(cluster: str, started: datetime, ended: datetime) -> str:
    """Return an SQL condition on lines whose window has some of this time in it."""
    first, last = (f"timestamp '{moment:%Y-%m-%d %H:%M:%S.%f}'" for moment in (started, ended))
    return f"cluster = {quoted(cluster)} AND started_at < {last} AND ended_at > {first}"
