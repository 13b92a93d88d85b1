"""The verb that serves a lake over HTTP."""

from __future__ import annotations

from typing import Any

import click

from raycluster import terminal
from raycluster.cli.frame import address_option, lake_option, open_lake, verb


@verb
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@lake_option
@address_option
def serve(lake: str, address: str | None, **asked: Any) -> None:
    """Serve a lake over HTTP: search, media, uploads, runs, costs, and a console to look at."""
    from raycluster.serve.server import Server
    from raycluster.serve.settings import Settings

    settings = Settings(lake=open_lake(lake).uri)
    with Server(settings, host=asked["host"], port=asked["port"], address=address) as server:
        terminal.err.print(f"serving {settings.lake} at {server.url}", markup=False)
        server.wait()
