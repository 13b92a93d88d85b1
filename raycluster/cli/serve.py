"""The verb that serves a lake over HTTP, and the options that it shares with `deploy`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycluster import terminal
from raycluster.cli.frame import address_option, lake_option, open_lake, verb

if TYPE_CHECKING:
    from raycluster.serve.settings import Settings


class Size(click.ParamType[int]):
    """A number of bytes, with its unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes, or say what is wrong."""
        from pydantic import TypeAdapter, ValidationError

        from raycluster.units import Bytes

        if isinstance(value, int):
            return value
        try:
            return int(TypeAdapter(Bytes).validate_python(value))
        except ValidationError as error:
            self.fail(error.errors()[0]["msg"].removeprefix("Value error, "), param, ctx)


_OPTIONS = (
    click.option("--issuer", help="Who signs the JWTs that hold here: its URL."),
    click.option("--audience", help="For whom a JWT has to be."),
    click.option("--jwks", help="The issuer's keys, a URL or a file; otherwise found through the issuer."),
    click.option("--tokens", help="A file of hashed API tokens."),
    click.option("--policy", help="A Rego file, or a folder of them, that decides who may see what."),
    click.option("--opa", help="An OPA server that decides instead: its URL."),
    click.option(
        "--hot",
        type=Size(),
        default="1GiB",
        show_default=True,
        help="Memory for vectors on each machine, which are searched there; 0B: none.",
    ),
    click.option("--source", multiple=True, help="A prefix of URIs that may be added; several times. None: no URI."),
)


def serving_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options that say who may do what."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings(lake: str, asked: dict[str, Any]) -> Settings:
    """Return how to serve a lake, by the options of its verb.

    Raises:
        InvalidUse: a source that is none.
    """
    from raycluster.govern.gate import Rules
    from raycluster.serve.settings import Settings
    from raycluster.serve.sources import taken_apart

    urls = {name: asked[name] for name in ("issuer", "audience", "opa")}
    # Replicas stand in other folders than who started them.
    files = {name: _absolute(asked[name]) for name in ("jwks", "tokens", "policy")}
    sources = tuple(_absolute(one) or "" for one in asked["source"])
    for source in sources:
        taken_apart(source, where="--source")
    return Settings(lake=lake, rules=Rules(**urls, **files), sources=sources, hot=asked["hot"])


def _absolute(place: str | None) -> str | None:
    return place if place is None or "://" in place else str(Path(place).absolute())


@verb
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@serving_options
@lake_option
@address_option
def serve(lake: str, address: str | None, **asked: Any) -> None:
    """Serve a lake over HTTP: search, media, uploads, runs, costs, and a console to look at."""
    from raycluster.serve.server import Server

    how = settings(open_lake(lake).uri, asked)
    with Server(how, host=asked["host"], port=asked["port"], address=address) as server:
        terminal.err.print(f"serving {how.lake} at {server.url}", markup=False)
        server.wait()
