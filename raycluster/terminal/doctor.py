"""Findings of an installation become what an engineer on call reads: what is wrong first, how to mend it, a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.text import Text

from raycluster.terminal.screen import out, print_json, verbatim

_STYLES = {"problem": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def show_diagnosis(findings: Sequence[Mapping[str, str]], about: Mapping[str, str | None], *, as_json: bool) -> None:
    """Show what was found, the worst first, and what that comes to.

    Args:
        findings: each with level, subject, what, where and fix.
        about: what was looked at, by name.
        as_json: one document instead.
    """
    count = Counter(one["level"] for one in findings)
    if as_json:
        verdict = "problems" if count["problem"] else "well"
        print_json(
            {**about, "verdict": verdict, "counts": {name: count[name] for name in _STYLES}, "findings": findings}
        )
        return
    out.print("  ".join(f"{name} {value}" for name, value in about.items() if value), style="dim", markup=False)
    width = max(len(one["subject"]) for one in findings)
    for level, style in _STYLES.items():
        some = [one for one in findings if one["level"] == level]
        if some:
            out.print()
        for one in some:
            where = Text(f"  ({one['where']})" if one["where"] else "", style="dim")
            head = (Text(f"{level:9}", style=style), Text(f"{one['subject']:{width}}  ", style="dim"))
            out.print(Text.assemble(*head, verbatim(one["what"]), where))
            if one["fix"]:
                out.print(Text.assemble(" " * (width + 11), ("fix: ", "dim"), verbatim(one["fix"])))
    out.print()
    _verdict(count)


def _verdict(count: Counter[str]) -> None:
    warnings = _many(count["warning"], "warning")
    if count["problem"]:
        also = f", and {warnings}" if count["warning"] else ""
        out.print(f"{_many(count['problem'], 'problem')} to mend{also}", style=_STYLES["problem"])
    elif count["warning"]:
        out.print(f"nothing is broken; {warnings} to read", style=_STYLES["warning"])
    else:
        out.print("all is well", style=_STYLES["ok"])


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
