"""Lines of `_costs` become the bill, grouped by what was asked, or two runs beside each other.

`question.py` says what is asked, `group.py` adds up; `waste.py` and `picture.py` are other views of the same lines.
What was used directly, and the borne part of what nobody used directly (idle capacity, start-up, Ray itself), stand
side by side. Under another price file the usage is priced anew (`restate.py`), and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.group import Sums, add_up, columns
from raycluster.account.question import COLUMNS, Question
from raycluster.errors import NotFound
from raycluster.lake.ledger import COSTS, Ledger
from raycluster.stage import unknown

if TYPE_CHECKING:
    from raycluster.declare.prices import Prices


@dataclass(frozen=True, kw_only=True)
class Bill:
    """A question and its answer."""

    question: Question
    sums: Sums

    @property
    def document(self) -> dict[str, Any]:
        """Return the bill as JSON holds it."""
        return {
            "by": list(self.question.by),
            "only": {key: list(values) for key, values in self.question.only.items()},
            "since": self.question.since,
            "until": self.question.until,
            "prices": list(self.sums.prices),
            "lines": list(records(self.sums.lines)),
            "total": _in_usd(self.sums.total),
            "shared_nanousd": self.sums.shared,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs cost, part by part; the part whose cost changed most comes first.

    A part has its keys; `a_nanousd`, `b_nanousd`, `difference_nanousd` (b - a) and `ratio` (b / a, None where a is 0);
    and `a_` and `b_` of `cpu_seconds`, `gpu_seconds` and `rows`.
    """

    by: tuple[str, ...]
    runs: tuple[str, str]
    parts: list[dict[str, Any]]
    total: dict[str, Any]
    prices: tuple[str, ...]


_COMPARED = ("nanousd", "cpu_seconds", "gpu_seconds", "rows")


def make_bill(ledger: Ledger, question: Question, *, prices: Prices | None = None) -> Bill:
    """Answer a question from what was priced already or, with `prices`, from usage priced anew.

    Raises:
        NotFound: nothing ever had a value that was asked for; says the nearest.
    """
    sums = add_up(lines(ledger, question, prices=prices, columns=columns(question.by)), question.by)
    if not sums.lines.num_rows:
        require_known(ledger, question, prices=prices)
    return Bill(question=question, sums=sums)


def lines(
    ledger: Ledger, question: Question, *, prices: Prices | None = None, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the lines of cost that are asked for; with `prices`, of usage priced anew."""
    if prices is None:
        where = " AND ".join(one for one in (question.when, question.who) if one)
        yield from ledger.costs(where or None, columns=columns)
        return
    from raycluster.account.restate import restated

    for table in restated(ledger, prices, question):
        yield from question.choose(table).select(columns or COSTS.names).to_batches()


def compare(ledger: Ledger, question: Question, runs: tuple[str, str], *, prices: Prices | None = None) -> Comparison:
    """Hold two runs against each other, by the keys of the question.

    Raises:
        NotFound: one of them has no lines; says the nearest that has.
    """
    asked = replace(question, only={**question.only, "run": runs})
    by = ("run", *([key for key in question.by if key != "run"] or ["stage"]))
    sums = add_up(lines(ledger, asked, prices=prices, columns=columns(by)), by)
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for line in records(sums.lines):
        found.setdefault(tuple(line[key] for key in by[1:]), {})[line["run"]] = line
    for run in runs:
        if not any(run in sides for sides in found.values()):
            require_known(ledger, replace(question, only={"run": (run,)}), prices=prices)
            fix = "raycluster costs --by run; filters such as --only and --since count here too"
            raise NotFound(f"run {run!r} has no lines of cost that fit", fix=fix)
    parts = [_part(dict(zip(by[1:], key, strict=True)), sides, runs) for key, sides in found.items()]
    whole = add_up(lines(ledger, asked, prices=prices, columns=columns(("run",))), ("run",))
    return Comparison(
        by=by[1:],
        runs=runs,
        parts=sorted(parts, key=lambda part: -abs(part["difference_nanousd"])),
        total=_part({}, {line["run"]: line for line in records(whole.lines)}, runs),
        prices=sums.prices,
    )


def _part(keys: dict[str, Any], sides: dict[str, dict[str, Any]], runs: tuple[str, str]) -> dict[str, Any]:
    a, b = (sides.get(run, dict.fromkeys(_COMPARED, 0)) for run in runs)
    return {
        **keys,
        "difference_nanousd": b["nanousd"] - a["nanousd"],
        "ratio": b["nanousd"] / a["nanousd"] if a["nanousd"] else None,
        **{f"{side}_{name}": figures[name] for name in _COMPARED for side, figures in (("a", a), ("b", b))},
    }


def require_known(ledger: Ledger, question: Question, *, prices: Prices | None = None) -> None:
    """Tell a question that nothing answers from one with a word that is misspelt.

    Raises:
        NotFound: nothing ever had a value that was asked for; says the nearest.
    """
    for key in question.only.keys() & COLUMNS.keys():
        if prices is not None and key == "prices":
            continue  # usage has none
        known = values(ledger, COLUMNS[key], is_priced=prices is None)
        for value in question.only[key]:
            if value is not None and known and value not in known:
                raise unknown(key, str(value), sorted(map(str, known)))


def values(ledger: Ledger, column: str, *, is_priced: bool = True) -> set[Any]:
    """Return all values that a column of the ledger ever had."""
    scan = ledger.costs if is_priced else ledger.usage
    found = (pc.unique(batch.column(0)).to_pylist() for batch in scan(columns=[column]))
    return {value for some in found for value in some if value is not None}


def records(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the lines of sums as dicts, each with its cost in USD besides."""
    for batch in table.to_batches():
        yield from map(_in_usd, batch.to_pylist())


def _in_usd(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "cost_usd": line["nanousd"] / 1e9}
