"""The bill becomes a picture: bars by stage for the first key, and a line over time, as PNG, SVG or an HTML page.

Beside `bill.py`; `page.py` makes the page. Colours are Paul Tol's bright set, which colour-blind people tell apart and
which stands out on white and on black. Times are local.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycluster.account.bill import Bill, lines, make_bill
from raycluster.account.chart import REST, SHARED, Chart, make_chart
from raycluster.account.group import add_up, columns
from raycluster.account.page import page
from raycluster.account.question import MOMENTS, Question
from raycluster.errors import InvalidUse
from raycluster.lake.ledger import Ledger
from raycluster.stage import need
from raycluster.units import show_usd

if TYPE_CHECKING:
    from raycluster.declare.prices import Prices

FORMATS = (".png", ".svg", ".html")

# Source: personal.sron.nl/~pault, "bright"; grey is for what is put together.
_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
_GREY = {REST: "#888888", SHARED: "#BBBBBB"}
_INK = "#1a1b1c"  # of no other use: a page replaces it by the colour of its text
_LABELS = 10  # of bars over time
_ROOM = 75  # characters of labels that fit below the axis
_SHORTENED = 26  # characters of a label
_STYLE = {
    "font.family": "DejaVu Sans",  # which matplotlib brings along
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "raycluster",  # the same bill is the same file
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def require_drawable(path: Path) -> None:
    """Refuse what cannot be drawn before anything is added up.

    Raises:
        InvalidUse: another format, or no such folder.
        MissingPackage: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InvalidUse(f"{path} is no picture that can be drawn", fix=f"end its name with {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise InvalidUse(f"{path.parent} is no folder", fix="make it first")
    _part("matplotlib")


def _part(module: str) -> Any:
    return need(module, '"raycluster[charts]"')


def draw(ledger: Ledger, question: Question, path: Path, *, prices: Prices | None = None) -> None:
    """Draw the answer to a question into a file, whose ending says as what.

    Raises:
        InvalidUse: it cannot be written, or there is nothing to draw.
        NotFound: nothing ever had a value that was asked for; says the nearest.
    """
    require_drawable(path)
    bill = make_bill(ledger, question, prices=prices)
    if not bill.sums.lines.num_rows:
        raise InvalidUse("nothing to draw: no line of the ledger fits", fix="raycluster costs shows what there is")
    by = tuple(dict.fromkeys([question.by[0], "stage", "hour"]))
    chart = make_chart(question.by[0], add_up(lines(ledger, question, prices=prices, columns=columns(by)), by).lines)
    try:
        path.write_bytes(_rendered(chart, bill, path.suffix.lower()))
    except OSError as error:
        raise InvalidUse(f"{path} cannot be written: {error.strerror}", fix="choose another place") from error


def _rendered(chart: Chart, bill: Bill, suffix: str) -> bytes:
    whole = io.BytesIO()
    with _part("matplotlib").rc_context(_STYLE):
        figure = plot(chart)
        if suffix == ".png":
            figure.savefig(whole, format="png", dpi=150, facecolor="white")
            return whole.getvalue()
        is_page = suffix == ".html"
        figure.savefig(whole, format="svg", metadata={"Date": None}, transparent=is_page)
    svg = whole.getvalue().decode().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")  # of one width
    return page(bill, svg[svg.index("<svg") :].replace(_INK, "currentColor")).encode() if is_page else svg.encode()


def plot(chart: Chart) -> Any:
    """Return the picture of a chart."""
    figure = _part("matplotlib.figure").Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 2])
    _plot_bars(above, chart)
    _plot_times(below, chart)
    figure.get_layout_engine().set(hspace=0.08)
    return figure


def _plot_bars(axes: Any, chart: Chart) -> None:
    bottom = [0.0] * len(chart.bars)
    for rank, (name, layer) in enumerate(chart.layers.items()):
        heights = [amount / 1e9 for amount in layer]
        look = {"hatch": "///", "edgecolor": "white"} if name == SHARED else {}
        colour = _GREY.get(name) or _COLOURS[rank]
        axes.bar(range(len(chart.bars)), heights, 0.7, bottom=bottom, label=_short(name), color=colour, **look)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    others, cost = chart.left_out
    rest = f": the {len(chart.bars)} dearest; {others:,} others cost {show_usd(cost)}" if others else ""
    keys = " and ".join(dict.fromkeys([chart.key, "stage"]))
    axes.set_title(f"Costs by {keys}{rest}".replace("$", r"\$"), loc="left", fontweight="bold")
    _label_bars(axes, chart)
    _set_money(axes, max(bottom))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def _label_bars(axes: Any, chart: Chart) -> None:
    """Write names below the bars that do not run into each other: some of many, or at a slant."""
    count = len(chart.bars)
    every = math.ceil(count / _LABELS) if chart.key in MOMENTS else 1
    places = range(0, count, every)
    names = [_written(chart.bars[place], chart.key) for place in places]
    longest = max(len(line) for name in names for line in name.splitlines())
    is_crowded = longest > _ROOM / len(names)
    slanted = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if is_crowded else {}
    axes.set_xticks(places, names, **slanted)
    axes.set_xlim(-0.6, max(count, 4) - 0.4)  # a single bar is no wall


def _plot_times(axes: Any, chart: Chart) -> None:
    dates = _part("matplotlib.dates")
    dots = "o" if len(chart.times) < 40 else None
    axes.plot(chart.times, [amount / 1e9 for amount in chart.paid], color=_COLOURS[0], marker=dots, ms=4, label="all")
    if any(chart.shared):
        shared = [amount / 1e9 for amount in chart.shared]
        axes.plot(chart.times, shared, color=_GREY[REST], ls="--", marker=dots, ms=4, label="of it shared")
    axes.set_title(f"Costs by {chart.unit}", loc="left", fontweight="bold")
    locator = dates.AutoDateLocator(minticks=2, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    if len(chart.times) == 1:
        axes.set_xticks(chart.times, [f"{chart.times[0]:{MOMENTS[chart.unit]}}"])
    _set_money(axes, max(chart.paid) / 1e9)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def _set_money(axes: Any, most: float) -> None:
    """Let the axis of money begin at nothing and end at a tick, each with as many decimals as tell them apart."""
    ticks = _part("matplotlib.ticker").MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, most or 1e-9)
    places = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    axes.set_yticks(ticks, [rf"\${tick:,.{places}f}" if tick else r"\$0" for tick in ticks])
    axes.set_ylim(0, ticks[-1])
    axes.grid(axis="y", color="#999999", alpha=0.35, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _written(bar: str, key: str) -> str:
    """Return the label of a bar; of a time in two lines, which need less room."""
    if key == "hour":
        return f"{bar[11:]}\n{bar[5:10]}"
    return f"{bar[5:]}\n{bar[:4]}" if key == "day" else _short(bar)


def _short(name: str) -> str:
    """Return a name that fits: of a long one the beginning and the end, which tells runs apart.

    Two dollar signs would make matplotlib set what is between them as mathematics.
    """
    half = _SHORTENED // 2
    text = name if len(name) <= _SHORTENED else f"{name[: half - 1]}…{name[-half:]}"
    return text.replace("$", r"\$").lstrip("_") or "-"
