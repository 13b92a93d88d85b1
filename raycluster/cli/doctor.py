"""The verb that looks at an installation."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict

import click

from raycluster import __version__, terminal
from raycluster.cli.frame import address_option, json_option, lake_option, verb


@verb
@click.argument("workload", nargs=-1, type=click.Path())
@lake_option
@address_option
@click.option("--seconds", default=60.0, show_default=True, help="How long one subject may take; all go together.")
@json_option
def doctor(workload: tuple[str, ...], lake: str, address: str | None, seconds: float, as_json: bool) -> int:
    """Look at this installation, its lake and its cluster, and say what is wrong and how to mend it.

    Name the workloads that are meant to run here: what their stages need is looked for too. Nothing is changed but
    probe files in the lake, which are removed. Exits 1 where there is a problem.
    """
    from raycluster.cluster.doctor import examine, redacted
    from raycluster.cluster.look import Site

    site = Site(lake=lake, address=address or os.environ.get("RAY_ADDRESS") or None, workloads=workload)
    list(site.stages())  # what is wrong with a file is said as `validate` says it
    with terminal.err.status("looking, which takes some seconds ..."):
        found = examine(site, seconds=seconds)
    about = {"raycluster": __version__, "machine": platform.node(), "lake": redacted(lake)}
    about |= {"cluster": redacted(site.address)} if site.address else {}
    terminal.show_diagnosis([asdict(one) for one in found], about, as_json=as_json)
    return int(any(one.level == "problem" for one in found))
