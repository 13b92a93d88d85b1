"""A workload becomes a job of a running cluster, through Ray's job submission API, and a job what is told of it.

What is sent is made by `parcel.py`. The job is `raycluster run`, told to end its log with one JSON document: its own
summary. Whoever follows the log gets lines for people and that document; nobody else has to reach the lake.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from raycluster.cluster.parcel import Order, pack
from raycluster.declare.workload import Workload
from raycluster.engine.cluster import NoCluster
from raycluster.errors import InvalidUse, RayclusterError, Unauthenticated
from raycluster.stage import unknown

_STATUS = {"PENDING": "queued", "RUNNING": "running", "STOPPED": "stopped", "SUCCEEDED": "done", "FAILED": "failed"}
_ANSWER_SECONDS = 30.0  # for the job API, whose client would wait for ever
_UPLOAD_SECONDS = 600.0
# After SIGTERM a run commits what is whole and settles its bill: seconds, on a slow store a minute. Ray kills after 3.
_STOP_SECONDS = 300
_LOOK_SECONDS = 0.5
_SILENT_SECONDS = 30.0  # a run says something every 5: a connection that is silent for longer may be dead
_TRIES = 5  # to read the rest of a log when the job has ended: it is gone when its node is
_PATIENCE_SECONDS = 600.0  # with a cluster that does not answer any more


class JobFailed(RayclusterError):
    """A job ended without saying what became of its run."""

    code = "job_failed"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of a cluster, with its owner as its metadata name them; `seconds` is how long it took, or takes so far."""

    job_id: str
    status: str  # queued, running, done, failed, stopped
    workload: str | None = None
    team: str | None = None
    project: str | None = None
    environment: str | None = None
    run_id: str | None = None
    started_at: datetime | None = None
    seconds: float | None = None
    exit_code: int | None = None
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing of it will happen any more."""
        return self.status in ("done", "failed", "stopped")


class Api(JobSubmissionClient):
    """Ray's own client of the job API, that neither waits for ever nor is led to another cluster."""

    def __init__(self, address: str) -> None:
        # Ray lets this variable, or else RAY_ADDRESS, win over what its client is told (2.60).
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        logging.getLogger("ray.dashboard").propagate = False  # it tells of its own steps, in the midst of a log
        self.address = address
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        patience = _UPLOAD_SECONDS if "data" in options else _ANSWER_SECONDS
        return super()._do_request(method, endpoint, **{"timeout": patience, **options})


def connect(address: str) -> Api:
    """Return the job API at a dashboard's address.

    Raises:
        InvalidUse: it is none of a dashboard.
        NoCluster: nobody answers there.
        Unauthenticated: the cluster wants another token, or any.
    """
    if not address.startswith(("http://", "https://")):
        fix = "give the dashboard's, which is no address of Ray itself: http://HEAD:8265"
        raise InvalidUse(f"{address!r} is no address of a dashboard", where="--address", fix=fix)
    with _explained(address):
        return Api(address)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        fix = (
            "set RAY_AUTH_MODE=token, and give the token that is in ~/.ray/auth_token of the cluster's nodes: in the "
            "same file here, in the one that RAY_AUTH_TOKEN_PATH names, or in RAY_AUTH_TOKEN"
        )
        reason = str(error).strip().partition(". ")[0].splitlines()[0]
        raise Unauthenticated(f"{address} wants its token: {reason}", fix=fix) from error
    except (ConnectionError, requests.RequestException) as error:
        fix = "check --address; from outside: `ray dashboard cluster.yaml` forwards http://127.0.0.1:8265"
        raise NoCluster(f"no cluster's job API answers at {address}: {error}", fix=fix) from error
    except RuntimeError as error:  # whatever else its client has to say
        raise NoCluster(f"{address} refuses: {error}", fix="see the cluster's dashboard.log") from error


def send(api: Api, order: Order, workload: Workload, observe: Callable[[int, int], None]) -> Job:
    """Send a workload, checked before; `observe` is told how many files and bytes go.

    Raises:
        TooLarge: the folder is.
        NoCluster: it was not taken.
    """
    from raycluster.lake.runs import new_run_id  # who looks at jobs needs no lake

    run_id = new_run_id()
    labels = {name: workload.labels[name] for name in ("team", "project", "environment") if workload.labels.get(name)}
    with tempfile.TemporaryDirectory(prefix="raycluster-") as folder, _explained(api.address):
        package = Path(folder) / "package.zip"
        observe(*pack(order, package))
        stops = {"RAY_JOB_STOP_SIGNAL": "SIGTERM", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}
        job_id = f"raycluster-{run_id}"
        try:
            api.submit_job(
                entrypoint=order.entrypoint(run_id),
                submission_id=job_id,
                metadata={**labels, "workload": workload.name, "run_id": run_id},
                runtime_env={"working_dir": str(package), "env_vars": {**stops, **order.environment}},
            )
        except requests.RequestException as error:
            fix = "it may have been taken all the same, see raycluster jobs"
            raise NoCluster(f"{api.address} has not said that it takes job {job_id}: {error}", fix=fix) from error
    return _look(api, job_id)


def jobs(api: Api) -> list[Job]:
    """Return the cluster's jobs, newest first; those too that others have sent, or that run as plain drivers."""
    with _explained(api.address):
        found = [_job(one) for one in api.list_jobs()]
    return sorted(found, key=lambda job: job.started_at or datetime.max.replace(tzinfo=UTC), reverse=True)


def find(api: Api, name: str) -> Job:
    """Return the job of that id, or of the run of that id.

    Raises:
        NotFound: there is none; names the nearest.
    """
    known = jobs(api)
    for job in known:
        if name in (job.job_id, job.run_id):
            return job
    raise unknown("job", name, [job.job_id for job in known])


def stop(api: Api, job: Job) -> Job:
    """Ask a job to stop, and wait until it has: a run commits what is whole first, and can go on later.

    Raises:
        JobFailed: it does not end.
    """
    until = time.monotonic() + _STOP_SECONDS + _ANSWER_SECONDS
    while not job.has_ended:
        if time.monotonic() > until:
            raise JobFailed(f"job {job.job_id} does not end", fix=f"ask again: raycluster stop {job.job_id}")
        with _explained(api.address):
            api.stop_job(job.job_id)  # again each time: one that is just starting does not hear it
        time.sleep(_LOOK_SECONDS)
        job = _look(api, job.job_id)
    return job


def _look(api: Api, job_id: str) -> Job:
    with _explained(api.address):
        return _job(api.get_job_info(job_id))


def _job(details: JobDetails) -> Job:
    said = details.metadata or {}
    begun, ended = ((time_ms or 0) / 1000 for time_ms in (details.start_time, details.end_time))
    names = ("workload", "team", "project", "environment", "run_id")
    return Job(
        job_id=details.submission_id or details.job_id or "",
        status=_STATUS.get(str(details.status.value), "running"),
        started_at=datetime.fromtimestamp(begun, UTC) if begun else None,
        seconds=round((ended or time.time()) - begun, 3) if begun else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
        **{name: said.get(name) for name in names},
    )


class Transcript:
    """The log of a job, piece by piece: lines for people, and the document in which its run says how it ended."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.rest = tell, ""
        self.document: dict[str, Any] | None = None

    def add(self, text: str) -> None:
        """Take what the log says next."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """Take the end of the log."""
        if self.rest:
            self._line(self.rest)

    def _line(self, line: str) -> None:
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if isinstance(found, dict) and (set(found) == {"error"} or {"run_id", "dataset", "status"} <= set(found)):
                self.document = found
                return
        if not line.startswith("Running entrypoint for job "):  # Ray's, with all that `parcel.py` tells the shell
            self.tell(line)


def follow(api: Api, job_id: str, tell: Callable[[str], None]) -> tuple[Job, dict[str, Any] | None]:
    """Follow a job to its end, through broken connections too: each line of its log is told once.

    Returns: the job as it ended, and what its run says became of it.

    Raises:
        NoCluster: the cluster has not answered for minutes.
    """
    transcript = Transcript(tell)
    job = asyncio.run(_follow(api, job_id, transcript))
    transcript.close()
    return job, transcript.document


def status(job: Job, document: dict[str, Any] | None) -> int:
    """Return the exit status of a job's run.

    Raises:
        JobFailed: it has ended without a word.
    """
    known = job.exit_code in (0, 1, 2)
    code = job.exit_code if job.exit_code is not None and known else int(job.status != "done")
    if document is None and job.status != "done":
        told = [line.strip() for line in job.message.splitlines() if line.strip()]
        why = f": {told[0]} ... {told[-1]}" if told and job.exit_code is None else ""
        why = f", exit status {job.exit_code}" if job.exit_code is not None else why
        fix = f"see its log: raycluster jobs {job.job_id} --follow"
        error = JobFailed(f"job {job.job_id} {job.status}{why}", fix=fix)
        error.exit_code = code or 1
        raise error
    return code


async def _follow(api: Api, job_id: str, transcript: Transcript) -> Job:
    seen, failures, lost = 0, 0, None
    while True:
        at, is_whole = 0, False
        try:
            async for text in _pieces(api, job_id):  # the API tells a log from its beginning, always
                transcript.add(text[max(0, seen - at) :])
                at += len(text)
                seen, failures = max(seen, at), 0
            is_whole = True
        except (OSError, RuntimeError, aiohttp.ClientError):  # TimeoutError is an OSError
            failures += 1
        try:
            job, lost = await asyncio.to_thread(_look, api, job_id), None
            if job.has_ended and (is_whole or failures >= _TRIES):
                return job
        except NoCluster as error:
            lost = lost or time.monotonic()
            if failures == 1:
                transcript.tell(f"{api.address} does not answer; the job goes on, and this waits for it")
            if time.monotonic() - lost > _PATIENCE_SECONDS:
                fix = f"follow it again: raycluster jobs {job_id} --follow"
                raise NoCluster(error.message, fix=fix) from error
        await asyncio.sleep(_LOOK_SECONDS)


async def _pieces(api: Api, job_id: str) -> AsyncIterator[str]:
    """Yield a job's log, from its beginning to its end; TimeoutError where nothing is said for long."""
    log = api.tail_job_logs(job_id)
    while (text := await asyncio.wait_for(anext(log, None), _SILENT_SECONDS)) is not None:
        yield text
