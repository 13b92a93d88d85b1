"""What the processes of a run said becomes what people see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.text import Text

from raycluster.terminal.screen import err, out, print_json

_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red"}


class Said(Protocol):
    """What `cluster/logs.py` found."""

    lines: list[dict[str, Any]]
    silent: list[str]


def show_logs(found: Said, *, as_json: bool) -> None:
    """Show lines of a log, each with its node and process."""
    if as_json:
        print_json({"lines": found.lines, "silent_nodes": found.silent})
        return
    for line in found.lines:
        _show(line)
    _note(found.silent)


def _show(line: Mapping[str, Any]) -> None:
    level, where = line["level"], f"{str(line.get('node', ''))[:8]}/{line.get('pid', '')}"
    text = Text(f"{line['at'][5:23].replace('T', ' ')}  {where:<17} {level:<8} ", style="dim")
    text.append(f"{line.get('logger', '')}: {line['message']}", style=_STYLES.get(level, "none"))
    if "error" in line:
        text.append("\n" + line["error"])
    out.print(text, soft_wrap=True)


def _note(silent: Sequence[str]) -> None:
    if silent:
        err.print(f"nodes that are gone or do not answer, whose logs are not here: {', '.join(silent)}", style="dim")
