"""Verbs that send work to a running cluster, and look after it there: submit, jobs, stop."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from raycluster import terminal
from raycluster.cli.frame import json_option, verb

if TYPE_CHECKING:
    from raycluster.cluster.job import Api, Job

dashboard_option = click.option(
    "--address",
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    default="http://127.0.0.1:8265",
    show_default=True,
    help="The cluster's dashboard; otherwise RAY_API_SERVER_ADDRESS or RAY_ADDRESS.",
)


@verb
@click.argument("file", type=click.Path(path_type=Path))
@dashboard_option
@click.option("--lake", envvar="RAYCLUSTER_LAKE", help="URI; otherwise RAYCLUSTER_LAKE, of here or else of the nodes.")
@click.option("--prices", type=click.Path(), help="A price file to send along; otherwise the nodes' own.")
@click.option("--budgets", type=click.Path(), help="A file or folder of budgets to send along; or the nodes' own.")
@click.option("--prune", is_flag=True, help="Also remove the rows of objects that the source no longer lists.")
@click.option("--redo", is_flag=True, help="Also bring back what was rolled back, though the workload is unchanged.")
@click.option("--over-budget", is_flag=True, help="Also begin and go on though a budget is used up.")
@click.option("--working-dir", type=click.Path(path_type=Path), help="The folder to send; otherwise that of FILE.")
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable for the job; may be repeated. No secrets: whoever reaches the job API can read it.",
)
@click.option("--detach", is_flag=True, help="Return when it is sent.")
@json_option
def submit(file: Path, address: str, detach: bool, as_json: bool, **asked: Any) -> int:
    """Run a workload on a cluster, by its job submission API, and follow it."""
    from raycluster.account.terms import Allowance
    from raycluster.cluster import job, parcel

    order = parcel.Order(
        file=file,
        folder=asked["working_dir"] or file.parent,
        lake=asked["lake"],
        prices=asked["prices"],
        budgets=asked["budgets"],
        allow=frozenset(one for one in get_args(Allowance) if asked[one]),
        environment=parcel.variables(asked["environment"]),
    )
    workload, warnings = parcel.check(order)
    terminal.show_warnings(warnings)
    api = job.connect(address)
    sent = job.send(api, order, workload, terminal.show_sending)
    if detach:
        terminal.show_ways(asdict(sent), as_json=as_json)
        return 0
    terminal.show_sent(asdict(sent))
    return _follow(api, sent, as_json=as_json)


def _follow(api: Api, sent: Job, *, as_json: bool) -> int:
    """Tell a job's log until it ends, and then what became of its run; return the run's exit status."""
    from raycluster.cluster.job import follow, status

    try:
        ended, document = follow(api, sent.job_id, terminal.show_line)
    except KeyboardInterrupt:
        terminal.show_ways(asdict(sent), as_json=as_json)
        return 1
    code = status(ended, document)
    terminal.show_outcome(asdict(ended), document, as_json=as_json)
    return code


@verb
@click.argument("job_id", required=False)
@click.option("--follow", "follows", is_flag=True, help="Tell its log until it ends, as `submit` does.")
@dashboard_option
@json_option
def jobs(job_id: str | None, follows: bool, address: str, as_json: bool) -> int:
    """List a cluster's jobs, or show one, by its id or that of its run."""
    from raycluster.cluster import job
    from raycluster.errors import InvalidUse

    if follows and job_id is None:
        raise InvalidUse("there is nothing to follow", where="--follow", fix="raycluster jobs ID --follow")
    api = job.connect(address)
    if job_id is None:
        terminal.show_jobs([asdict(one) for one in job.jobs(api)], as_json=as_json)
        return 0
    found = job.find(api, job_id)
    if follows:
        return _follow(api, found, as_json=as_json)
    terminal.show_job(asdict(found), as_json=as_json)
    return 0


@verb
@click.argument("job_id")
@dashboard_option
@json_option
def stop(job_id: str, address: str, as_json: bool) -> None:
    """Stop a job: what is whole is kept, and submitting its workload again goes on from there."""
    from raycluster.cluster import job

    api = job.connect(address)
    found = job.find(api, job_id)
    ended = job.stop(api, found)
    terminal.show_stopped(asdict(ended), had_ended=found.has_ended, as_json=as_json)
