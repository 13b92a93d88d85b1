"""Jobs become what people see: what is sent, how it goes, what became of it.

A job comes as `cluster/job.py` writes it down (`asdict`): folders of one rank do not import each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycluster.terminal.runs import show_summary
from raycluster.terminal.screen import err, out, print_json, short, table, when
from raycluster.units import show_bytes, show_seconds

Job = Mapping[str, Any]


def show_warnings(warnings: Sequence[str]) -> None:
    """Say what the sender of a job should know."""
    for warning in warnings:
        err.print(warning, style="yellow", markup=False)


def show_sending(files: int, size: int) -> None:
    """Say what goes to the cluster."""
    err.print(f"sending {files} files, {show_bytes(size)}")


def show_line(line: str) -> None:
    """Tell a line of a job's log; it cannot move the cursor."""
    err.print("".join(sign if sign.isprintable() else " " for sign in line), style="dim", markup=False)


def show_sent(job: Job) -> None:
    """Say what a job is called that is followed from here on."""
    err.print(f"job {job['job_id']}: Ctrl-C stops following it, not the job", markup=False)


def show_ways(job: Job, *, as_json: bool) -> None:
    """Say how to come back to a job that goes on."""
    if as_json:
        print_json(job)
        return
    out.print(f"job {job['job_id']}  run {job['run_id']}", markup=False)
    err.print(f"follow it: raycluster jobs {job['job_id']} --follow", markup=False)
    err.print(f"stop it: raycluster stop {job['job_id']}", markup=False)


def show_outcome(job: Job, document: dict[str, Any] | None, *, as_json: bool) -> None:
    """Say what became of a job's run, as `raycluster run` does."""
    if document is None:  # it was no run of ours
        show_job(job, as_json=as_json)
    elif as_json:
        print_json(document)
    elif "error" not in document:  # an error has been told, by the log
        from raycluster.engine.summary import Summary

        show_summary(Summary(**document), as_json=False)


def show_jobs(jobs: Sequence[Job], *, as_json: bool) -> None:
    """List jobs, newest first."""
    if as_json:
        print_json(jobs)
        return
    names = ["job", "workload", "team", "status", "started", "time"]
    rows = [[one["job_id"], one["workload"], one["team"], one["status"], *_times(one)] for one in jobs]
    out.print(table("", names, rows, right=["time"]) if rows else "no job yet")


def show_job(job: Job, *, as_json: bool) -> None:
    """Show one job."""
    if as_json:
        print_json(job)
        return
    started, seconds = _times(job)
    names = ("workload", "run_id", "team", "project", "environment", "exit_code", "message")
    told = {name: short(str(job[name]), 1000) for name in names if job[name] not in (None, "")}
    rows = [("job", job["job_id"]), ("status", job["status"]), ("started", started), ("time", seconds), *told.items()]
    out.print(table("", ["", " "], rows))


def show_stopped(job: Job, *, had_ended: bool, as_json: bool) -> None:
    """Say that a job has ended, and whether that was this command's doing."""
    if as_json:
        print_json({**job, "had_ended": had_ended})
        return
    out.print(f"{job['job_id']} {'had ended already' if had_ended else 'has ended'}: {job['status']}", markup=False)
    if not had_ended and job["run_id"]:
        err.print("what is whole is kept: submit the same file to go on", style="dim")


def _times(job: Job) -> tuple[str, str]:
    started, seconds = job["started_at"], job["seconds"]
    return when(started) if started else "", "" if seconds is None else show_seconds(seconds)
