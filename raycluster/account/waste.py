"""Lines of cost, the quarantine and a lake's files become what was paid for nothing, each kind with what it means.

Beside `bill.py`. Most of it is counted to the nano-dollar; what quarantined rows cost is estimated, and said to be.
Nothing is counted twice: what is shown but not in the sum says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.bill import lines, require_known
from raycluster.account.group import add_up, columns
from raycluster.account.question import Question
from raycluster.lake.gc import collect
from raycluster.lake.lake import Lake
from raycluster.units import NanoUsd

if TYPE_CHECKING:
    from raycluster.declare.prices import Prices

_BY = ("outcome", "kind", "run", "stage")
_GIB = 2**30

# What is shown -> the column that tells it, and what it means.
_MEANS = {
    "failed": ("outcome", "calls that raised an error"),
    "killed": ("outcome", "calls whose process died in them: out of memory, a lost node, a hang"),
    "idle": ("kind", "capacity that was there and that nobody used"),
    "startup": ("kind", "worker processes before their first call: imports, models"),
    "background": (
        "kind",
        "worker processes between calls: idle actors, Ray's handling of arguments and results",
    ),
    "unattributed": ("kind", "what nodes cost in windows that died with them"),
}
_RETRIED = "calls that went well after an attempt that had not: the second price of the same work (the first is above)"
_QUARANTINED = "rows in quarantine: their number x what a row of that stage cost in that run"
_ORPHANED = "files that no version of a dataset names: raycluster gc DATASET removes them"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of waste. `in_total`: its money is part of the sum; that of what is not stands elsewhere already."""

    what: str
    means: str
    nanousd: NanoUsd | None = None  # None: nobody knows
    calls: int = 0
    cpu_seconds: float = 0.0
    rows: int = 0
    bytes: int = 0
    in_total: bool = True
    is_estimate: bool = False


@dataclass(frozen=True, kw_only=True)
class Waste:
    """What was paid for nothing, and what was paid at all."""

    question: Question
    parts: list[Part]
    nanousd: NanoUsd  # of all parts in the total
    paid_nanousd: NanoUsd
    prices: tuple[str, ...]

    @property
    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "only": {key: list(values) for key, values in self.question.only.items()},
            "since": self.question.since,
            "until": self.question.until,
            "prices": list(self.prices),
            "parts": [asdict(part) for part in self.parts],
            "nanousd": self.nanousd,
            "paid_nanousd": self.paid_nanousd,
            "share": self.share,
        }

    @property
    def share(self) -> float | None:
        """Return percent of what was paid; None where nothing was."""
        return 100.0 * self.nanousd / self.paid_nanousd if self.paid_nanousd else None


def waste(lake: Lake, question: Question, *, prices: Prices | None = None) -> Waste:
    """Say what of the lines that are asked for was paid for nothing.

    Raises:
        NotFound: nothing ever had a value that was asked for; says the nearest.
    """
    ledger = lake.ledger()
    sums = add_up(lines(ledger, question, prices=prices, columns=columns(_BY)), _BY)
    if not sums.lines.num_rows:
        require_known(ledger, question, prices=prices)
    names = [name for name in lake.datasets() if name in question.only.get("dataset", (name,))]
    parts = [_counted(sums.lines, what) for what in _MEANS]
    parts.insert(2, _summed(sums.lines.filter(pc.equal(sums.lines["outcome"], "retried")), "retried", _RETRIED))
    parts += [_quarantined(lake, names, sums.lines), _orphaned(lake, names, prices)]
    return Waste(
        question=question,
        parts=parts,
        nanousd=sum(part.nanousd or 0 for part in parts if part.in_total),
        paid_nanousd=sums.total["nanousd"],
        prices=sums.prices,
    )


def _counted(sums: pa.Table, what: str) -> Part:
    column, means = _MEANS[what]
    return _summed(sums.filter(pc.equal(sums[column], what)), what, means)


def _summed(sums: pa.Table, what: str, means: str) -> Part:
    figures: dict[str, Any] = {name: pc.sum(sums[name]).as_py() or 0 for name in ("nanousd", "calls", "cpu_seconds")}
    return Part(what=what, means=means, in_total=what != "retried", **figures)


def _quarantined(lake: Lake, names: Iterable[str], sums: pa.Table) -> Part:
    """Estimate what was paid for rows that did not get in; of runs that the question is about."""
    units = _units(sums)
    runs = {run for run, _ in units}
    rows = unpriced = 0
    nanousd = 0.0
    for name in names:
        for (run, stage), count in lake.quarantine(name).tally().items():
            if run not in runs:
                continue
            rows += count
            unpriced += count if (run, stage) not in units else 0
            nanousd += count * units.get((run, stage), 0.0)
    means = _QUARANTINED + (f"; {unpriced} of them in stages whose rows nobody counted" if unpriced else "")
    return Part(what="quarantined", means=means, nanousd=round(nanousd), rows=rows, is_estimate=True)


def _units(sums: pa.Table) -> dict[tuple[str, str], float]:
    """Return what a row cost that came into a stage of a run, in calls that went well."""
    well = sums.filter(pc.and_(pc.equal(sums["kind"], "task"), pc.is_in(sums["outcome"], pa.array(["ok", "retried"]))))
    figures = ["direct_nanousd", "rows_in", "rows_out"]
    grouped = well.group_by(["run", "stage"]).aggregate([(name, "sum") for name in figures])
    came = {
        (one["run"], one["stage"]): (one["direct_nanousd_sum"], one["rows_in_sum"] or one["rows_out_sum"])
        for one in grouped.to_pylist()
    }
    return {key: cost / rows for key, (cost, rows) in came.items() if rows}


def _orphaned(lake: Lake, names: Iterable[str], prices: Prices | None) -> Part:
    """Count the bytes that `gc` would remove; their price is one of a month to come, and not in the ledger."""
    size = sum(collect(lake, name, dry_run=True).bytes for name in names)
    if prices is None or prices.storage is None:
        return Part(what="orphaned", means=_ORPHANED, bytes=size, in_total=False)
    monthly = round(prices.storage.gib_month * size / _GIB)
    means = f"{_ORPHANED}; the amount is that of keeping them a month"
    return Part(what="orphaned", means=means, nanousd=monthly, bytes=size, in_total=False)
