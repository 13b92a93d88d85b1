"""Verbs about who may do what: token."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, verb


@verb
@click.argument("subject")
@click.option("--tokens", required=True, type=click.Path(dir_okay=False), help="The file of hashed tokens, new or not.")
@click.option("--role", "roles", multiple=True, help="What a policy knows it by; several times.")
@click.option("--team", help="To whom it belongs.")
@click.option("--expires", type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z")), help="A day, or a moment; UTC.")
@json_option
def token(subject: str, tokens: str, *, as_json: bool, **asked: Any) -> None:
    """Make an API token for SUBJECT, add its hash to a file, and print it: it is shown this once."""
    from raycluster.govern.principal import Principal
    from raycluster.govern.tokens import add

    expires: datetime | None = asked["expires"]
    expires = expires.replace(tzinfo=UTC) if expires and not expires.tzinfo else expires
    principal = Principal(subject=subject, roles=asked["roles"], team=asked["team"])
    made = add(Path(tokens), principal, expires=expires)
    if as_json:
        said = principal.document() | {"expires": expires and expires.isoformat(), "tokens": tokens, "token": made}
        click.echo(json.dumps(said))
        return
    click.echo(made)
    terminal.err.print(f"its hash is in {tokens}; the token itself is kept nowhere", markup=False)
