"""A bill and its picture become one HTML page that needs nothing else, readable in light and dark.

Under `picture.py`. Everything that comes from the ledger is escaped: labels are words of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import islice
from typing import Any

from raycluster.account.bill import Bill, records
from raycluster.units import show_seconds, show_usd

_SHOWN = 500  # lines of the table; CSV and JSON have them all
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1f23; --page: #ffffff; --soft: #5c6570; --line: #d5d9de; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e8eb; --page: #16181b; --soft: #a3abb5; --line: #3a4048; }}
}}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 62rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.3rem; margin: 0; }}
p {{ color: var(--soft); margin: .3rem 0 1rem; }}
svg {{ width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; }}
th {{ color: var(--soft); font-weight: 500; }}
.n {{ text-align: right; white-space: nowrap; }}
tfoot td {{ font-weight: 600; border-bottom: 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{limits}</p>
{picture}
<div class="wide">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
<tfoot><tr>{foot}</tr></tfoot>
</table>
</div>
<p>{below}</p>
</body>
</html>
"""


def page(bill: Bill, svg: str) -> str:
    """Return the page: the picture, and the bill as a table under it."""
    by, sums = bill.question.by, bill.sums
    rows = [
        "".join([*(_cell("td", "-" if line[key] is None else line[key]) for key in by), *_cells(line, sums.total)])
        for line in islice(records(sums.lines), _SHOWN)
    ]
    figures = _figures(sums.total, sums.total)
    left = sums.lines.num_rows - len(rows)
    shared = ", ".join(f"{kind} {show_usd(cost)}" for kind, cost in sums.shared.items()) or "nothing"
    limits = ", ".join(bill.question.limits) or "of everything in the ledger"
    title = f"Costs by {', '.join(by)}"
    return _PAGE.format(
        title=escape(title),
        limits=escape(f"{show_usd(sums.total['nanousd'])} in all; {limits}; times are local"),
        picture=svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1),
        head="".join([*(_cell("th", key) for key in by), *(_cell("th", name, "n") for name in figures)]),
        body="\n".join(f"<tr>{row}</tr>" for row in rows),
        foot="".join([_cell("td", "total"), *([_cell("td", "")] * (len(by) - 1)), *_cells(sums.total, sums.total)]),
        below=escape(f"{f'{left} more lines; ' if left else ''}shared: {shared}; prices: {', '.join(sums.prices)}"),
    )


def _figures(line: Mapping[str, Any], total: Mapping[str, Any]) -> dict[str, str]:
    """Return what the table says of a line; columns that would be empty are left out."""
    money = {"cost": "nanousd"}
    money |= {"direct": "direct_nanousd", "shared": "shared_nanousd"} if total["shared_nanousd"] else {}
    times = {"CPU time": "cpu_seconds", "GPU time": "gpu_seconds"}
    return {
        **{name: show_usd(line[column]) if line[column] else "-" for name, column in money.items()},
        "share": "-" if line["share"] is None else f"{line['share']:.1f}%",
        **{
            name: show_seconds(line[column]) if line[column] else "-" for name, column in times.items() if total[column]
        },
    }


def _cells(line: Mapping[str, Any], total: Mapping[str, Any]) -> list[str]:
    return [_cell("td", text, "n") for text in _figures(line, total).values()]


def _cell(tag: str, text: Any, look: str = "") -> str:
    shown = f' class="{look}"' if look else ""
    return f"<{tag}{shown}>{escape(str(text))}</{tag}>"
