"""The verb that answers what was paid: the bill, two runs beside each other, waste, a picture, the FOCUS export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, lake_option, open_lake, verb
from raycluster.errors import InvalidUse, RayclusterError

if TYPE_CHECKING:
    from raycluster.account.question import Question
    from raycluster.declare.prices import Prices
    from raycluster.lake.lake import Lake
    from raycluster.terminal.costs import Form

# Of each of these, one at a time: option -> how it is written.
_FORMS = {"as_csv": "--csv", "as_json": "--json"}
_VIEWS = {"units": "--units", "compare": "--compare", "waste": "--waste"}
_RUNS = {"run": "--run", "compare": "--compare"}
_PICTURES = {"picture": "--picture", "compare": "--compare", "waste": "--waste"}


@verb
@click.option("--by", help="Keys, as a comma list.  [default: team,workload,stage; stage with --compare]")
@click.option("--run", help="Only this run.")
@click.option("--since", help="7d, 24h, 2026-11-01, today, yesterday; this or last week or month.")
@click.option("--until", help="The same; a moment that no longer counts.")
@click.option("--only", multiple=True, metavar="KEY=VALUE", help="Only such lines; may be given several times.")
@click.option("--units", is_flag=True, help="What 1,000 rows and a GB read cost.")
@click.option("--compare", nargs=2, metavar="RUN_A RUN_B", help="Two runs beside each other.")
@click.option("--waste", is_flag=True, help="What was paid for nothing, and what each kind of it means.")
@click.option("--prices", type=click.Path(), help="Restate under this price file; nothing is stored.")
@click.option("--picture", type=click.Path(), help="Also draw it: .png, .svg or .html; the first key lies along.")
@click.option("--focus", type=click.Path(), help="Also write the lines as FOCUS 1.2, in Parquet.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
@lake_option
@json_option
def costs(lake: str, **asked: Any) -> None:
    """Say what was paid for what: the bill.

    Keys: team, project, environment, workload, run, stage, modality, dataset, version, outcome (ok, failed, killed,
    retried), kind (task, idle, startup, ...), node, node_type, market, prices; and day, hour, month, in local time.

    --only with the same key twice asks for either value, with another key narrows down; --only KEY= asks for lines that
    have none. Weeks begin on Monday, and "last week" is the last whole one. A line belongs to the moment at which its
    window began.

    Which team's video decoding cost what last week, and how much of it was retries?

    \b
    raycluster costs --by team,outcome --only stage=video --since "last week"
    """
    for options in (_FORMS, _VIEWS, _RUNS, _PICTURES):
        _refuse_two([said for name, said in options.items() if asked[name]])
    question, prices = _question(asked), _prices(asked["prices"])
    picture = _drawable(asked["picture"])
    place = open_lake(lake)
    settle_first(place)
    if asked["focus"]:
        _export(place, question, prices, Path(asked["focus"]))
    if picture:
        _draw(place, question, prices, picture)
    form: Form = "json" if asked["as_json"] else "csv" if asked["as_csv"] else "table"
    _answer(place, question, prices, {**asked, "form": form})


def settle_first(lake: Lake) -> None:
    """Bring the ledger up to date: what nodes have laid into the inbox is moved into it and priced.

    Who may only read, or lacks a price, sees the bill as it stands, and is told what is missing in it.
    """
    from raycluster.account.settle import settle
    from raycluster.account.terms import declared_prices

    try:
        settle(lake, declared_prices(None))
    except RayclusterError as error:
        terminal.err.print(f"not everything is in this bill: {error}", style="yellow", markup=False)


def _refuse_two(given: list[str]) -> None:
    if len(given) > 1:
        raise InvalidUse(f"{' and '.join(given)} exclude each other", fix="leave out all but one of them")


def _question(asked: dict[str, Any]) -> Question:
    from raycluster.account.question import DEFAULT_BY, ask

    by = asked["by"] if asked["by"] is not None else ("stage" if asked["compare"] else DEFAULT_BY)
    only = [*asked["only"], *([f"run={asked['run']}"] if asked["run"] else [])]
    return ask(by=by, only=only, since=asked["since"], until=asked["until"])


def _prices(path: str | None) -> Prices | None:
    from raycluster.declare.prices import load_prices

    return load_prices(path) if path else None


def _drawable(path: str | None) -> Path | None:
    from raycluster.account.picture import require_drawable

    if path is not None:
        require_drawable(Path(path))
    return Path(path) if path else None


def _export(lake: Lake, question: Question, prices: Prices | None, path: Path) -> None:
    """Write the lines that are asked for as FOCUS has them, and say so on stderr."""
    from raycluster.account.bill import lines
    from raycluster.account.focus import export
    from raycluster.account.terms import declared_prices

    rows = export(lines(lake.ledger(), question, prices=prices), path, prices or declared_prices(None))
    terminal.err.print(f"{path}: {rows:,} lines, FOCUS 1.2", markup=False)


def _draw(lake: Lake, question: Question, prices: Prices | None, path: Path) -> None:
    """Draw the bill, and say so on stderr."""
    from raycluster.account.picture import draw

    draw(lake.ledger(), question, path, prices=prices)
    terminal.err.print(f"{path}: drawn", markup=False)


def _answer(lake: Lake, question: Question, prices: Prices | None, asked: dict[str, Any]) -> None:
    """Print the view that was asked for."""
    if asked["compare"]:
        from raycluster.account.bill import compare

        found = compare(lake.ledger(), question, asked["compare"], prices=prices)
        terminal.show_comparison(found, form=asked["form"])
    elif asked["waste"]:
        from raycluster.account.waste import waste

        terminal.show_waste(waste(lake, question, prices=prices), form=asked["form"])
    else:
        from raycluster.account.bill import make_bill

        bill = make_bill(lake.ledger(), question, prices=prices)
        terminal.show_bill(bill, form=asked["form"], view="units" if asked["units"] else "costs")
