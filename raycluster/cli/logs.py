"""A verb about what was said: logs."""

from __future__ import annotations

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, verb

_LEVELS = ("debug", "info", "warning", "error")


@verb
@click.argument("run_id")
@click.option("--level", type=click.Choice(_LEVELS), default="debug", show_default=True, help="And what is worse.")
@click.option("--address", help="A cluster, or its dashboard; otherwise RAY_ADDRESS, or the sessions on this machine.")
@json_option
def logs(run_id: str, level: str, address: str | None, as_json: bool) -> None:
    """Show what the processes of a run said, from all nodes, in the order of time."""
    from raycluster.cluster.logs import said

    terminal.show_logs(said(run_id, address, level=level), as_json=as_json)
