"""Verbs that check, plan and do work: validate, schema, plan, run, replay, runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from raycluster import terminal
from raycluster.cli.frame import (
    address_option,
    budgets_option,
    json_option,
    lake_option,
    open_lake,
    prices_option,
    verb,
)
from raycluster.errors import InvalidFile, InvalidUse, RayclusterError, RolledBack

if TYPE_CHECKING:
    from raycluster.account.terms import Terms
    from raycluster.declare.workload import Workload
    from raycluster.lake.lake import Lake


@verb
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@json_option
def validate(paths: tuple[str, ...], as_json: bool) -> int:
    """Check files of resources (or folders of them) and say where they are wrong."""
    from raycluster.declare.resource import files, load_resource

    problems: dict[str, list[RayclusterError]] = {}
    for file in (found for path in paths for found in files(Path(path))):
        try:
            load_resource(file)
            problems[str(file)] = []
        except InvalidFile as error:
            problems[str(file)] = error.problems
        except InvalidUse as error:
            problems[str(file)] = [error]
    terminal.show_validation(problems, as_json=as_json)
    return 2 if any(problems.values()) else 0


@verb
@click.argument("kind", default="Workload")
@json_option
def schema(kind: str, as_json: bool) -> None:
    """Print the JSON Schema of a resource (Workload, Prices, Budget, Corpus), for editors."""
    from raycluster.declare import resource

    click.echo(json.dumps(resource.schema(kind), indent=None if as_json else 2))


@verb
@click.argument("file", type=click.Path())
@prices_option
@budgets_option
@lake_option
@address_option
@json_option
def plan(file: str, lake: str, address: str | None, as_json: bool, **asked: str | None) -> int:
    """Say what would be read, skipped and produced, where, and for about how much; change nothing."""
    from raycluster.declare.workload import load_workload
    from raycluster.engine.permit import look_ahead, require_not_undone
    from raycluster.engine.prepare import prepare

    place, terms = open_lake(lake), _terms(asked)
    made = prepare(load_workload(file), place, address=address, peeks=True)
    problems = [f"cannot be placed: {problem}" for problem in made.problems]
    try:
        require_not_undone(made, place)
    except RolledBack as error:
        problems.append(str(error))
    ahead = look_ahead(made, place, terms)
    problems += [verdict.message for verdict in ahead.verdicts if verdict.level == "stop"]
    terminal.show_plan(made, problems, ahead, as_json=as_json)
    return 2 if problems else 0


@verb
@click.argument("file", type=click.Path())
@click.option("--prune", is_flag=True, help="Also remove the rows of objects that the source no longer lists.")
@click.option("--redo", is_flag=True, help="Also bring back what was rolled back, though the workload is unchanged.")
@click.option("--over-budget", is_flag=True, help="Also begin and go on though a budget is used up.")
@click.option("--run-id", default="", hidden=True)  # told to somebody before: `engine/intake.py`, `cluster/job.py`
@click.option("--progress", is_flag=True, hidden=True)  # on stderr, beside --json: `cluster/job.py`
@prices_option
@budgets_option
@lake_option
@address_option
@json_option
def run(file: str, lake: str, address: str | None, as_json: bool, **asked: Any) -> int:
    """Run a workload: only what is new or changed is worked on."""
    from raycluster.declare.workload import load_workload

    job = (load_workload(file), open_lake(lake), _terms(asked))
    shown = {"address": address, "as_json": as_json, "progress": asked["progress"]}
    return _carry_out(*job, run_id=asked["run_id"], **shown)


def _terms(asked: dict[str, Any]) -> Terms:
    """Return what a run may do and cost, by the options of its verb."""
    from raycluster.account.terms import Allowance, Terms, declared_budgets, declared_prices

    allow: list[Allowance] = [one for one in get_args(Allowance) if asked.get(one)]
    prices, budgets = declared_prices(asked["prices"]), declared_budgets(asked["budgets"])
    return Terms(allow=frozenset(allow), prices=prices, budgets=budgets)


def _carry_out(workload: Workload, lake: Lake, terms: Terms, *, replay: bool | str = False, **shown: Any) -> int:
    """Plan and run, with live progress; return the exit status."""
    from raycluster.engine.prepare import prepare
    from raycluster.engine.run import execute

    address, as_json, run_id = shown["address"], shown["as_json"], shown.get("run_id", "")
    with terminal.Live(quiet=as_json and not shown.get("progress")) as live:
        plan = dataclasses.replace(prepare(workload, lake, address=address, replay=replay), run_id=run_id)
        live.planned(plan)
        summary = execute(plan, lake, address=address, terms=terms, observe=live.update)
    terminal.show_summary(summary, as_json=as_json)
    return 0 if summary.status == "done" else 1


@verb
@click.argument("dataset")
@click.option("--code", help="Only objects with rows of this code.")
@click.option("--file", type=click.Path(), help="The workload, mended; otherwise as its last run declared it.")
@click.option("--workload", "name", help="Whose objects, where several workloads write to the dataset.")
@prices_option
@budgets_option
@lake_option
@address_option
@json_option
def replay(dataset: str, lake: str, address: str | None, as_json: bool, **asked: str | None) -> int:
    """Try again what is in quarantine: what passes now moves into the dataset."""
    from raycluster.declare.workload import load_workload, parse_workload

    place = open_lake(lake)
    place.existing(dataset)
    if asked["file"]:
        workload = load_workload(asked["file"])
    else:
        workload = parse_workload(_declared(place, dataset, asked["name"]))
        workload = dataclasses.replace(workload, source=workload.source.whole())
    if workload.sink.dataset != dataset:
        raise InvalidUse(f"{asked['file']} writes to {workload.sink.dataset!r}, not to {dataset!r}", where="--file")
    again = asked["code"] or True
    return _carry_out(workload, place, _terms(asked), replay=again, address=address, as_json=as_json)


def _declared(lake: Lake, dataset: str, name: str | None) -> str:
    """Return the YAML of the workload that a dataset's last run declared."""
    from raycluster.stage import unknown

    runs = lake.table(dataset).last_runs()
    if name is None and len(runs) > 1:
        raise InvalidUse(f"{dataset!r} is written by {', '.join(sorted(runs))}", fix="choose one: --workload NAME")
    if not runs or (name is not None and name not in runs):
        raise unknown("workload", name or "", list(runs))
    return runs[name or next(iter(runs))]["yaml"]


@verb
@click.argument("run_id", required=False)
@lake_option
@json_option
def runs(run_id: str | None, lake: str, as_json: bool) -> None:
    """List past and present runs, or show one."""
    book = open_lake(lake).runs()
    if run_id is None:
        terminal.show_runs(book.recent(), as_json=as_json)
    else:
        terminal.show_run(book.get(run_id), as_json=as_json)
