"""What the accounting of a cluster says of itself becomes two lines on a screen, or one JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raycluster.terminal.screen import err, out, print_json

if TYPE_CHECKING:
    from raycluster.engine.tender import Told


def show_tender(told: Told, *, as_json: bool) -> None:
    """Show for what a cluster is accounted, from when on."""
    if as_json:
        print_json({**vars(told), "prices": told.prices.ref})
        return
    nodes = f"{told.nodes} node" + ("" if told.nodes == 1 else "s")
    since = f"{told.since:%Y-%m-%d %H:%M:%S} UTC"
    out.print(f"{nodes} accounted for in {told.lake}, at prices {told.prices.ref}, since {since}", markup=False)
    out.print("and every node that joins, until the cluster ends", style="dim")
    if told.trouble:
        err.print(f"the ledger is not settled: {told.trouble}", style="yellow", markup=False)
