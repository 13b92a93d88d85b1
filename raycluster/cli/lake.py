"""Verbs that look into a lake and take care of it."""

from __future__ import annotations

import getpass
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, lake_option, open_lake, verb
from raycluster.errors import InvalidUse


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"user {os.getuid()}"


@verb
@click.argument("name", required=False)
@lake_option
@json_option
def datasets(name: str | None, lake: str, as_json: bool) -> None:
    """List datasets, or show one with its versions, columns, counts and indexes."""
    from raycluster.lake.overview import describe, overview

    place = open_lake(lake)
    if name is None:
        terminal.show_datasets([overview(place, one) for one in place.datasets()], as_json=as_json)
    else:
        terminal.show_dataset(describe(place, name), as_json=as_json)


@verb
@click.argument("dataset")
@click.argument("text", required=False)
@click.option("-k", "--k", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many hits.")
@click.option("--mode", type=click.Choice(["vector", "text", "hybrid"]), default="vector", show_default=True)
@click.option("--filter", help="SQL over the columns, such as \"modality = 'image'\"; exact.")
@click.option("--image", type=click.Path(), help="Search by a picture.")
@click.option("--audio", type=click.Path(), help="Search by a recording.")
@click.option("--id", help="Search for rows like this one.")
@click.option("--offset", default=0, show_default=True, type=click.IntRange(0), help="Pass over so many hits.")
@click.option("--weights", type=(float, float), default=(1.0, 1.0), help="Of meaning and of words, with mode hybrid.")
@click.option("--group", type=click.Choice(["object"]), help="Only the best piece of each object.")
@click.option("--explain", is_flag=True, help="Say why each is a hit: its ranks, the words that matched.")
@click.option("--column", "columns", multiple=True, help="One more column of each hit; several times.")
@click.option("--version", default="live", show_default=True, help="A version number or a tag.")
@lake_option
@json_option
def search(dataset: str, lake: str, as_json: bool, **asked: Any) -> None:
    """Search a dataset by TEXT, a picture or a recording, across modalities."""
    from raycluster.search import Question, ask

    asked |= {kind: _bytes(asked[kind]) for kind in ("image", "audio")}
    asked["highlight"] = asked["explain"]
    terminal.show_hits(ask(open_lake(lake).existing(dataset), Question(**asked)), as_json=as_json)


def _bytes(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidUse(f"{path} cannot be read: {error.strerror}", fix="give the path of a media file") from error


@verb
@click.argument("dataset")
@click.option("--code", help="Only this code.")
@lake_option
@json_option
def quarantine(dataset: str, code: str | None, lake: str, as_json: bool) -> None:
    """List what could not be used, and why."""
    place = open_lake(lake)
    place.existing(dataset)
    terminal.show_quarantine(place.quarantine(dataset).rows(code), as_json=as_json)


@verb
@click.argument("dataset")
@click.option("--to", help="A version number, a tag, or a moment such as 2026-11-20T18:00.")
@click.option("--last", is_flag=True, help="To what readers saw before the present version.")
@click.option("--why", default="", help="The reason, for those who ask later.")
@click.option("--by", default=_user, show_default="you", help="Who rolls back.")
@lake_option
@json_option
def rollback(dataset: str, lake: str, as_json: bool, **asked: Any) -> None:
    """Let readers, and the next run, go back to an earlier version."""
    from raycluster.lake.rollback import roll_back

    if bool(asked["to"]) == asked["last"]:
        raise InvalidUse("say where to go back to", fix=f"--last, or --to VERSION: raycluster datasets {dataset}")
    entry = roll_back(open_lake(lake), dataset, to=asked["to"], by=asked["by"], why=asked["why"])
    terminal.show_rollback(entry, as_json=as_json)


@verb
@click.argument("dataset")
@click.option("--keep-days", type=click.FloatRange(0), default=7.0, show_default=True, help="No younger version goes.")
@click.option("--keep-versions", type=click.IntRange(1), default=10, show_default=True, help="Nor one of the newest N.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@lake_option
@json_option
def maintain(dataset: str, lake: str, as_json: bool, **asked: Any) -> None:
    """Join small fragments, bring indexes up to date, remove old versions and orphaned files."""
    from raycluster.lake.maintain import maintain as tend

    keep = {"keep_age": timedelta(days=asked["keep_days"]), "keep_versions": asked["keep_versions"]}
    terminal.show_maintained(tend(open_lake(lake), dataset, dry_run=asked["dry_run"], **keep), as_json=as_json)


@verb
@click.argument("dataset")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@lake_option
@json_option
def gc(dataset: str, dry_run: bool, lake: str, as_json: bool) -> None:
    """Remove files that no version names and nobody will commit; safe beside a live run."""
    from raycluster.lake.gc import collect

    terminal.show_collected(collect(open_lake(lake), dataset, dry_run=dry_run), as_json=as_json)
