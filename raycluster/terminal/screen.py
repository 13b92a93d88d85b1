"""Values become lines on a screen: tables that fit, plain lines in a log, or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import unquote

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from raycluster.errors import RayclusterError

# Where there is no terminal, lines are as long as they need to be: nobody wants a log with folded tables.
WIDTH = None if sys.stdout.isatty() else 10_000
out = Console(highlight=False, emoji=False, soft_wrap=WIDTH is not None, width=WIDTH)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

_UNFOLDED = frozenset({"run", "version", "started", "score", "modality", "code"})  # columns that read badly in pieces


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> Table:
    """Return a table; `right` names the columns of numbers."""
    made = _Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        whole = column in right or column in _UNFOLDED
        side: Any = "right" if column in right else "left"
        made.add_column(column, justify=side, header_style="dim", overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*("" if cell is None else verbatim(str(cell)) for cell in row))
    return made


class _Table(Table):
    """A table whose lines end with their last word: rich fills the last column with blanks."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Segment.split_lines(cast(Iterable[Segment], super().__rich_console__(console, options))):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
            yield from line
            yield Segment.line()


def verbatim(text: str) -> Text:
    """Return text as it is: what stands in media is no markup, and cannot move the cursor."""
    return Text("".join(sign if sign.isprintable() else " " for sign in text))


def show_error(error: RayclusterError, *, as_json: bool) -> None:
    """Say what is wrong and what to do next."""
    if as_json:
        message = f"{error.where}: {error.message}" if error.where else error.message
        print_json({"error": {"code": error.code, "message": message, "fix": error.fix}})
    for line in str(error).splitlines():
        err.print(line, style="yellow" if line.startswith("  fix:") else "red", markup=False)


def when(moment: datetime) -> str:
    """Write a moment for people, in local time."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def last(uri: str) -> str:
    """Return the end of a uri that tells objects apart."""
    name = "/".join(uri.split("/")[-2:])
    return unquote(name) if uri.startswith("file://") else name


def short(text: str, limit: int = 70) -> str:
    """Return text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
