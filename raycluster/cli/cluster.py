"""The verbs about a cluster itself, rather than the work on it: `raycluster cluster ...`.

A verb of it is written `@partial(verb, of=cluster)`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, lake_option, main, open_lake, prices_option, verb

if TYPE_CHECKING:
    from raycluster.cluster.fit import Job


@main.group(short_help="Check a cluster file before it costs money; account for a whole cluster from its start.")
def cluster() -> None:
    """Check a cluster before it costs money, and account for all of it from its start."""


@partial(verb, of=cluster)
@click.argument("file", type=click.Path())
@click.argument("workloads", nargs=-1, type=click.Path())
@prices_option
@json_option
def check(file: str, workloads: tuple[str, ...], prices: str | None, as_json: bool) -> int:
    """Say whether a cluster file is right, holds the workloads, and what an hour costs; ask no provider."""
    from raycluster.account.terms import declared_prices
    from raycluster.cluster.check import document
    from raycluster.cluster.file import load_cluster

    jobs = [job for path in workloads for job in _jobs(Path(path))]
    told = document(load_cluster(file), jobs, declared_prices(prices))
    terminal.show_check(told, as_json=as_json)
    return 0 if told["valid"] else 2


def _jobs(path: Path) -> list[Job]:
    """Return the workload in a file, or those in a folder of resources."""
    from raycluster.cluster.fit import Job
    from raycluster.declare import document, workload
    from raycluster.declare.resource import files

    read = [document.load(file) for file in files(path)]
    meant = [one for one in read if not path.is_dir() or one.value.get("kind") == "Workload"]
    return [Job(one, workload.build(one)) for one in meant]


@partial(verb, of=cluster)
@lake_option
@prices_option
@click.option(
    "--address", default="auto", show_default=True, help="The running cluster; auto: the one on this machine."
)
@json_option
def account(lake: str, prices: str | None, address: str, as_json: bool) -> None:
    """Account for all of a running cluster from now on, until it ends; twice does no harm."""
    from raycluster.account.terms import declared_prices
    from raycluster.engine.cluster import connect
    from raycluster.engine.tender import tend

    ledger, by = open_lake(lake), declared_prices(prices)
    connect(address)
    terminal.show_tender(tend(ledger, by), as_json=as_json)
