"""A checked cluster file becomes what its owner reads: what it is and what an hour costs, then what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from raycluster.terminal.screen import out, print_json, table, verbatim
from raycluster.units import show_bytes, show_usd

_STYLES = {"problem": "bold red", "warning": "yellow", "note": "cyan"}
_UNKNOWN = "?"


def show_check(told: Mapping[str, Any], *, as_json: bool) -> None:
    """Show what a cluster file holds, what an hour costs by which prices, and everything that is wrong with it."""
    if as_json:
        print_json(told)
        return
    for cluster in told["clusters"]:
        _show_cluster(cluster, told["prices"])
    _show_findings(told["findings"])
    count = Counter(one["level"] for one in told["findings"])
    counted = ", ".join(f"{count[level]} {level}{'s' * (count[level] != 1)}" for level in _STYLES if count[level])
    if not told["valid"]:
        out.print(f"{told['file']}: {counted}; not to be started like this", style=_STYLES["problem"], markup=False)
        return
    meant = f" for {', '.join(told['workloads'])}" if told["workloads"] else ""
    out.print(Text.assemble(("right", "green"), f"  {told['file']}{meant}" + (f": {counted}" if counted else "")))


def _show_cluster(cluster: Mapping[str, Any], prices: str) -> None:
    place = " ".join(part for part in (cluster["provider"], cluster["region"]) if part)
    out.print(Text.assemble((verbatim(cluster["name"]).plain, "bold"), f"  {cluster['kind']}, {place}"))
    columns = ["node type", "priced as", "market", "CPU", "GPU", "memory", "nodes", "an hour each", "at the most"]
    rows = [_row(one) for one in cluster["node_types"]]
    out.print(table("", columns, rows, right=["CPU", "GPU", "memory", "nodes", "an hour each"]))
    hour = cluster["hour"]
    if hour["least_usd"] is None:
        out.print(f"what an hour costs is not known by {prices}\n", style="bold", markup=False)
        return
    parts = [
        f"an hour costs {_usd(hour['least_usd'])} at the smallest ({_nodes(hour['least_nodes'])})",
        f"{_usd(hour['most_usd'])} at the most ({_nodes(hour['most_nodes'])})",
    ]
    if hour["most_on_demand_usd"] != hour["most_usd"]:
        parts.append(f"{_usd(hour['most_on_demand_usd'])} were none of these spot")
    out.print(", ".join(parts), style="bold", markup=False)
    out.print(f"by {prices}; disks and traffic come on top", style="dim", markup=False)
    out.print()


def _row(one: Mapping[str, Any]) -> Sequence[Any]:
    nodes = f"{one['least']}" if one["least"] == one["most"] else f"{one['least']}-{one['most']}"
    sizes = [_UNKNOWN if one[key] is None else f"{one[key]:g}" for key in ("cpu", "gpu")]
    memory = _UNKNOWN if one["memory_bytes"] is None else show_bytes(one["memory_bytes"])
    most = _usd(one["most_hour_usd"]) + ("" if one["most_nodes"] == one["most"] else f" for {one['most_nodes']}")
    return [one["name"], one["priced_as"], one["market"], *sizes, memory, nodes, _usd(one["hour_usd"]), most]


def _show_findings(findings: Sequence[Mapping[str, str]]) -> None:
    for one in findings:
        head = (Text(f"{one['level']:9}", style=_STYLES[one["level"]]), Text(f"{one['where']}: ", style="dim"))
        out.print(Text.assemble(*head, verbatim(one["what"])))
        if one["fix"]:
            out.print(Text.assemble(" " * 9, ("fix: ", "dim"), verbatim(one["fix"])))


def _usd(amount: float | None) -> str:
    return _UNKNOWN if amount is None else show_usd(round(amount * 1e9))


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
