"""The bill, two runs and waste become what people see: tables with money at a sensible length, JSON, or CSV."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from raycluster.terminal.screen import out, print_json, table
from raycluster.units import NanoUsd, show_bytes, show_seconds, show_usd

if TYPE_CHECKING:
    from raycluster.account.bill import Bill, Comparison
    from raycluster.account.question import Question
    from raycluster.account.waste import Waste

Form = Literal["table", "json", "csv"]
View = Literal["costs", "units"]

_SHOWN = 60  # lines of a table for people; JSON and CSV have them all
_NONE = "-"  # what has no such label
_NO_LINE = "no costs yet: they come with the first run, raycluster run FILE"
_NONE_FITS = "nothing was paid for that: no line fits; all that there are: raycluster costs"


def show_bill(bill: Bill, *, form: Form, view: View = "costs") -> None:
    """Say what was paid for what."""
    from raycluster.account.bill import records

    if form == "json":
        print_json(bill.document)
        return
    sums, by = bill.sums, bill.question.by
    if form == "csv":
        _print_csv([*sums.lines.schema.names, "cost_usd"], records(sums.lines))
        return
    if not sums.lines.num_rows:
        out.print(_NONE_FITS if bill.question.limits else _NO_LINE)
        return
    figures = _unit_figures if view == "units" else _cost_figures
    total = figures(sums.total, sums.total)
    made = table(
        _title("Costs", bill.question),
        [*by, *total],
        ([*_labels(line, by), *figures(line, sums.total).values()] for line in islice(records(sums.lines), _SHOWN)),
        right=list(total),
    )
    if sums.lines.num_rows > _SHOWN:
        made.add_row(f"and {sums.lines.num_rows - _SHOWN} more", style="dim")
    made.add_row("total", *[""] * (len(by) - 1), *total.values(), style="bold")
    out.print(made)
    out.print()
    for said in _said(bill):
        out.print(said, style="dim", markup=False)


def _title(what: str, question: Question) -> str:
    return escape(" ".join([what, *question.limits]))  # values of filters are a person's words, and no markup


def _labels(line: Mapping[str, Any], by: Sequence[str]) -> list[Any]:
    return [_NONE if line[key] is None else line[key] for key in by]


def _cost_figures(line: Mapping[str, Any], total: Mapping[str, Any]) -> dict[str, str]:
    """Return what the bill says of a line: columns that are empty on every line are left out."""
    shown = {"cost": show_usd(line["nanousd"]), "share": _percent(line["nanousd"], total["nanousd"])}
    if total["shared_nanousd"]:
        shown |= {"direct": _usd(line["direct_nanousd"]), "shared": _usd(line["shared_nanousd"])}
    shown["CPU time"] = _time(line["cpu_seconds"])
    if total["gpu_seconds"]:
        shown["GPU time"] = _time(line["gpu_seconds"])
    return shown


def _unit_figures(line: Mapping[str, Any], total: Mapping[str, Any]) -> dict[str, str]:
    """Return what a line's rows and bytes cost each."""
    return {
        "cost": show_usd(line["nanousd"]),
        "share": _percent(line["nanousd"], total["nanousd"]),
        "rows": f"{line['rows']:,}",
        "per 1,000 rows": _usd(line["nanousd_per_1000_rows"]),
        "read": show_bytes(line["bytes_read"]),
        "per GB read": _usd(line["nanousd_per_gb_read"]),
    }


def _usd(amount: NanoUsd | None) -> str:
    return show_usd(amount) if amount else _NONE


def _time(seconds: float) -> str:
    return show_seconds(seconds) if seconds else _NONE


def _percent(part: NanoUsd, whole: NanoUsd) -> str:
    return f"{100 * part / whole:.1f}%" if whole else _NONE


def _said(bill: Bill) -> list[str]:
    """Return the lines below a bill: what is shared, under which prices, and how much of it was tried again."""
    sums = bill.sums
    whole, shared = sums.total["nanousd"], sums.total["shared_nanousd"]
    kinds = ", ".join(f"{kind} {show_usd(cost)}" for kind, cost in sums.shared.items())
    part = f"{show_usd(shared)} of it ({_percent(shared, whole)})" if shared else "none of it"
    part += f" is shared: {kinds}" if shared else " is shared"
    said = [f"{part}; prices: {', '.join(sums.prices) or 'none'}"]
    if "outcome" in bill.question.by:
        costs = Counter[str]()
        for outcome, cost in zip(*(sums.lines[name].to_pylist() for name in ("outcome", "nanousd")), strict=True):
            costs[outcome or ""] += cost
        named = [(name, costs[name]) for name in ("failed", "killed", "retried")]
        parts = [f"{name} calls {show_usd(cost)} ({_percent(cost, whole)})" for name, cost in named]
        said.append(f"{', '.join(parts)}; what the words mean: raycluster costs --waste")
    return said


def show_comparison(found: Comparison, *, form: Form) -> None:
    """Say what two runs cost, part by part."""
    if form == "json":
        print_json(
            {"by": found.by, "runs": found.runs, "prices": found.prices, "parts": found.parts, "total": found.total}
        )
        return
    if form == "csv":
        _print_csv(list(found.parts[0]), found.parts)
        return
    numbers = ["A", "B", "B - A", "B / A", "CPU time A", "CPU time B"]
    rows = [[*_labels(part, found.by), *_compared(part)] for part in found.parts[:_SHOWN]]
    made = table("", [*found.by, *numbers], rows, right=numbers)
    if len(found.parts) > _SHOWN:
        made.add_row(f"and {len(found.parts) - _SHOWN} more", style="dim")
    made.add_row("total", *[""] * (len(found.by) - 1), *_compared(found.total), style="bold")
    for name, run in zip("AB", found.runs, strict=True):
        out.print(f"{name}: run {run}", markup=False)
    out.print()
    out.print(made)
    out.print(f"\nprices: {', '.join(found.prices)}", style="dim", markup=False)


def _compared(part: Mapping[str, Any]) -> list[str]:
    difference, ratio = part["difference_nanousd"], part["ratio"]
    return [
        _usd(part["a_nanousd"]),
        _usd(part["b_nanousd"]),
        f"+{show_usd(difference)}" if difference > 0 else _usd(difference),
        _NONE if ratio is None else f"{ratio:.2f}x",
        _time(part["a_cpu_seconds"]),
        _time(part["b_cpu_seconds"]),
    ]


def show_waste(found: Waste, *, form: Form) -> None:
    """Say what was paid for nothing, and what each kind of it means."""
    if form == "json":
        print_json(found.document)
        return
    if form == "csv":
        _print_csv(list(found.document["parts"][0]), found.document["parts"])
        return
    numbers = ["cost", "share", "CPU time", "amount"]
    rows = [
        [
            f"{part.what}{' (estimate)' if part.is_estimate else ''}",
            f"({show_usd(part.nanousd)})" if part.nanousd and not part.in_total else _usd(part.nanousd),
            _percent(part.nanousd, found.paid_nanousd) if part.nanousd and part.in_total else _NONE,
            _time(part.cpu_seconds),
            _amount(part.calls, part.rows, part.bytes),
            part.means,
        ]
        for part in found.parts
    ]
    made = table(_title("Waste", found.question), ["what", *numbers, "means"], rows, right=numbers)
    total = [show_usd(found.nanousd), _percent(found.nanousd, found.paid_nanousd)]
    made.add_row("total", *total, style="bold")
    out.print(made)
    paid = show_usd(found.paid_nanousd)
    prices = ", ".join(found.prices) or "none"
    out.print(f"\nof {paid} in all; in brackets: not in the total; prices: {prices}", style="dim", markup=False)


def _amount(calls: int, rows: int, size: int) -> str:
    parts = [f"{calls:,} calls"] if calls else []
    parts += [f"{rows:,} rows"] if rows else []
    parts += [show_bytes(size)] if size else []
    return ", ".join(parts) or _NONE


def _print_csv(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    """Print lines as CSV, without a total: so that whoever adds a column up gets it."""
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
