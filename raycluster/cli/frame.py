"""The command line becomes a call: the group of verbs, their common options, and how errors end a command."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from raycluster import __version__, terminal
from raycluster.errors import InvalidUse, LakeError, RayclusterError

if TYPE_CHECKING:
    from raycluster.lake.lake import Lake

# How long a lake on an object store may take for its first answer; Lance itself would go on trying for minutes.
_PATIENCE_SECONDS = 20.0

lake_option = click.option("--lake", envvar="RAYCLUSTER_LAKE", default=".raycluster", show_default=True, help="URI.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
prices_option = click.option(
    "--prices", type=click.Path(), help="A price file; otherwise RAYCLUSTER_PRICES, or this machine's."
)
budgets_option = click.option(
    "--budgets", type=click.Path(), help="A file or folder of budgets; otherwise RAYCLUSTER_BUDGETS, or none."
)
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
    if os.environ.get("RAYCLUSTER_LOG", "").lower() == "json":
        from raycluster.account.log import to_stderr

        to_stderr()


def verb(function: Callable[..., int | None], *, of: click.Group = main) -> click.Command:
    """Make a function a verb, of a group: its errors are told to people, or as JSON, and become the exit status."""

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

    return of.command(short_help=(function.__doc__ or "").partition("\n")[0])(guarded)


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


def open_lake(uri: str) -> Lake:
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
