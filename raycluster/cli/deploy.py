"""The verb that serves a lake on a cluster that is there, or says what to tell one."""

from __future__ import annotations

from typing import Any

import click

from raycluster import terminal
from raycluster.cli.frame import lake_option, verb
from raycluster.cli.serve import serving_options, settings
from raycluster.errors import InvalidUse


@verb
@click.option("--host", default="0.0.0.0", show_default=True, help="Where every node listens.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@serving_options
@click.option("--address", help="A cluster's dashboard, http://HEAD:8265: deploy there, and wait until it answers.")
@click.option("--wait", default=300, show_default=True, type=click.IntRange(1), help="Seconds to wait for that.")
@click.option("--team", help="Who pays for its replicas; otherwise nobody: `raycluster costs` shows them by no team.")
@click.option("--kuberay", is_flag=True, help="Print a RayService manifest instead of a Serve config.")
@click.option("--image", default="raycluster:latest", show_default=True, help="With --kuberay: has raycluster in it.")
@click.option("--node-type", default="local", show_default=True, help="With --kuberay: of its machines; prices it.")
@lake_option
def deploy(lake: str, address: str | None, team: str | None, **asked: Any) -> None:
    """Serve a lake on a Ray cluster: deploy there, or print the Serve config or the KubeRay manifest that does."""
    from raycluster.lake.lake import Lake
    from raycluster.serve import config

    door, how = config.Door(asked["host"], asked["port"]), settings(Lake(lake).uri, asked)
    if asked["kuberay"]:
        if address:
            raise InvalidUse("--kuberay prints, --address deploys", where="--address", fix="leave one of them out")
        told = config.ray_service(how, door, asked["image"], node_type=asked["node_type"], team=team)
        click.echo(told, nl=False)
        return
    configured = config.serve_config(how, door, team=team)
    if "://" not in how.lake:
        terminal.err.print(f"{how.lake} is a folder: every node has to have it at this path", markup=False)
    if address is None:
        click.echo(config.written(configured), nl=False)
        return
    _apply(configured, address, asked["wait"])


def _apply(config: dict[str, Any], address: str, wait: float) -> None:
    from raycluster.serve.apply import apply

    where = apply(config, address, timeout=wait, observe=lambda status: terminal.err.print(status.lower()))
    terminal.err.print(f"running; every node with a replica answers at {where}", markup=False)
