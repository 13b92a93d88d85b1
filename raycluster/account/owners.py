"""A run becomes known to every node: which job works for it, and who is to be billed.

It lies in the cluster's own key-value store (GCS), one small entry a job, written by the job's driver alone: a node
that joins later finds it, an agent that was started anew too, and nobody has to tell a thousand nodes. An entry that
changes gets a new name, so that an agent that looks again asks for the names, and then only for what is new.

Around a run, and where there is none, a job is paid for by who is named in its metadata, which Ray keeps.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from raycluster.account import proc

if TYPE_CHECKING:  # each worker of a cluster loads this file, and needs no workload for it
    from raycluster.declare.workload import Workload

_NAMESPACE = b"raycluster"
_PREFIX = "job:"  # of an entry's name; then the job's id in hex, "/", and how often it has changed
_KEPT = 50  # runs of one driver whose owner is still known
_KEPT_SECONDS = 3600.0  # an ended job: as long as agents correct windows
PAYER = "RAYCLUSTER_OWNER"  # a variable: JSON with the words of a job's metadata, for workers whose job has none
_WORDS = ("team", "project", "environment", "workload", "run_id")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who is billed, and for what: the same words as the columns of the ledger."""

    run_id: str | None = None
    workload: str | None = None
    team: str | None = None
    project: str | None = None
    environment: str | None = None
    dataset: str | None = None


NOBODY = Owner()
_log = logging.getLogger(__name__)


def told(metadata: Mapping[str, Any]) -> Owner:
    """Return the owner that a job's metadata names."""
    return Owner(**{word: str(metadata[word]) for word in _WORDS if metadata.get(word)})


def payer_here() -> dict[str, Any] | None:
    """Return who pays for this worker when no run is on: as its environment says, or its job's metadata; None: nobody.

    A Serve application belongs to a job of Ray's dashboard, which has no metadata, and says it by its environment.
    """
    from ray._private import worker

    core: Any = worker.global_worker.core_worker  # type: ignore[attr-defined]
    metadata = dict(core.get_job_config().metadata)
    if PAYER in os.environ:
        try:
            metadata = dict(json.loads(os.environ[PAYER]))
        except (ValueError, TypeError):
            _log.warning("%s is no JSON object: nobody pays for process %d by it", PAYER, os.getpid())
    owner = told(metadata)
    return {word: value for word, value in vars(owner).items() if value} if owner.team else None


def owner_of(workload: Workload, run_id: str) -> Owner:
    """Return who pays for a run of a workload."""
    labels = {name: workload.labels.get(name) for name in ("team", "project", "environment")}
    return Owner(run_id=run_id, workload=workload.name, dataset=workload.sink.dataset, **labels)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of the cluster: where its driver is, and the runs that it carried out."""

    pid: int
    node: str
    started: int = 0  # of the driver's process, in ticks since boot: pids come again; 0: not known
    # Nanoseconds that the driver, and children that it had waited for, had used when it turned to the cluster.
    cpu: int = 0
    reaped: int = 0
    runs: tuple[tuple[float, float | None, Owner], ...] = ()  # begun, ended (None: not yet), in seconds since 1970

    def owner(self, at: float) -> Owner:
        """Return whose run was on at a moment."""
        found = [owner for begun, ended, owner in self.runs if begun <= at and (ended is None or at <= ended)]
        return found[-1] if found else NOBODY


class _Driver:
    """This process, when it is about to start Ray or join it."""

    cpu = reaped = 0


def connecting() -> None:
    """Note that this process starts Ray or joins it now: what it uses from here on is the cluster's to bill."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    _Driver.cpu = time.process_time_ns()
    _Driver.reaped = round((children.ru_utime + children.ru_stime) * 1e9)


_writing = threading.Lock()


def begin(owner: Owner) -> None:
    """Note that this driver's job works for an owner from now on."""
    with _writing:
        name, mine = _mine()
        _put(name, replace(mine, runs=(*mine.runs[-_KEPT:], (time.time(), None, owner))))


def end(owner: Owner) -> None:
    """Note that the work for an owner is over."""
    with _writing:
        name, mine = _mine()
        runs = [(a, time.time() if b is None and who == owner else b, who) for a, b, who in mine.runs]
        _put(name, replace(mine, runs=tuple(runs)))


class Jobs:
    """The jobs of this cluster that have worked for an owner, as far as they are known here."""

    def __init__(self) -> None:
        self.known: dict[str, Job] = {}  # by the name of their entry

    def look(self) -> dict[str, Job]:
        """Return every job, by its id in hex: one question to the head, and another if something is new."""
        names = _names()
        fresh = _several(name for name in names if name not in self.known)
        self.known = {name: job for name in names if (job := self.known.get(name) or fresh.get(name))}
        return {_id(name): self.known[name] for name in _in_order(self.known)}

    def working(self) -> list[Owner]:
        """Return whose runs are on now: a job whose driver has died works for nobody any more."""
        on = {
            name: [who for _, ended, who in job.runs if ended is None and who.run_id]
            for name, job in self.look().items()
        }
        return [who for name, owners in on.items() if owners and _is_alive(name) for who in owners]


def prune(*, older: float = _KEPT_SECONDS) -> int:
    """Forget jobs that ended more than so many seconds ago; return how many."""
    names = _names()
    if not names:
        return 0
    known = _store().get_all_job_info(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
    jobs = {job_id.hex(): job for job_id, job in known.items()}
    since = (time.time() - older) * 1000
    over = [name for name in names if (job := jobs.get(_id(name))) is None or (job.is_dead and job.end_time < since)]
    for name in over:
        _store().internal_kv_del(name.encode(), False, _NAMESPACE)
    return len({_id(name) for name in over})


def _is_alive(job: str) -> bool:
    known = _store().get_all_job_info(
        job_or_submission_id=job, skip_submission_job_info_field=True, skip_is_running_tasks_field=True
    )
    return any(not found.is_dead for found in known.values())


def _mine() -> tuple[str, Job]:
    """Return this driver's entry, and the name that it has next."""
    import ray

    context = ray.get_runtime_context()
    if not _Driver.cpu:
        connecting()
    process = proc.look(os.getpid())
    new = Job(
        pid=os.getpid(),
        node=context.get_node_id(),
        started=process.started if process else 0,
        cpu=_Driver.cpu,
        reaped=_Driver.reaped,
    )
    job = context.get_job_id()
    there = _several(_names(job))
    last = _in_order(there)[-1:]
    return f"{_PREFIX}{job}/{_change(last[0]) + 1 if last else 0}", there[last[0]] if last else new


def _names(job: str = "") -> list[str]:
    return [name.decode() for name in _store().internal_kv_keys(f"{_PREFIX}{job}".encode(), _NAMESPACE)]


def _id(name: str) -> str:
    return name.removeprefix(_PREFIX).partition("/")[0]


def _change(name: str) -> int:
    return int(name.partition("/")[2])


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort names so that what was said of a job last comes last: for a moment an old entry stands beside the new."""
    return sorted(names, key=_change)


def _several(names: Iterable[str]) -> dict[str, Job]:
    keys = [name.encode() for name in names]
    found = _store().internal_kv_multi_get(keys, _NAMESPACE) if keys else {}
    return {key.decode(): _read(text) for key, text in found.items() if text}


def _read(text: bytes) -> Job:
    entry: dict[str, Any] = json.loads(text)
    runs = tuple((begun, ended, Owner(**owner)) for begun, ended, owner in entry["runs"])
    return Job(**{**entry, "runs": runs})


def _put(name: str, job: Job) -> None:
    store = _store()
    store.internal_kv_put(name.encode(), json.dumps(asdict(job)).encode(), True, _NAMESPACE)
    for older in _names(_id(name)):
        if older != name:
            store.internal_kv_del(older.encode(), False, _NAMESPACE)


def _store() -> Any:
    """Return the client of the head of the cluster that this process belongs to."""
    from ray._private import worker

    driver: Any = worker.global_worker
    return driver.gcs_client
