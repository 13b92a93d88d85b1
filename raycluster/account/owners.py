"""A run becomes known to every node: which job works for it, and who is to be billed.

It lies in the cluster's own key-value store (GCS), one small entry a job, written by the job's driver alone: a node
that joins later finds it, an agent that was started anew too, and nobody has to tell a thousand nodes.
"""

from __future__ import annotations

import json
import os
import resource
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from raycluster.account import proc
from raycluster.declare.workload import Workload

_NAMESPACE = b"raycluster"
_KEPT = 50  # runs of one driver whose owner is still known


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


def begin(owner: Owner) -> None:
    """Note that this driver's job works for an owner from now on."""
    job, mine = _mine()
    _put(job, replace(mine, runs=(*mine.runs[-_KEPT:], (time.time(), None, owner))))


def end(owner: Owner) -> None:
    """Note that the work for an owner is over."""
    job, mine = _mine()
    runs = [(a, time.time() if b is None and who == owner else b, who) for a, b, who in mine.runs]
    _put(job, replace(mine, runs=tuple(runs)))


def jobs() -> dict[str, Job]:
    """Return every job of this cluster that has worked for an owner, by its id in hex."""
    keys = _store()._internal_kv_list(b"job:", namespace=_NAMESPACE)
    found = {key.decode().removeprefix("job:"): _get(key) for key in keys}
    return {name: job for name, job in found.items() if job is not None}


def _mine() -> tuple[bytes, Job]:
    import ray

    context = ray.get_runtime_context()
    key = f"job:{context.get_job_id()}".encode()
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
    return key, _get(key) or new


def _get(key: bytes) -> Job | None:
    text = _store()._internal_kv_get(key, namespace=_NAMESPACE)
    if text is None:
        return None
    entry: dict[str, Any] = json.loads(text)
    runs = tuple((begun, ended, Owner(**owner)) for begun, ended, owner in entry["runs"])
    return Job(**{**entry, "runs": runs})


def _put(key: bytes, job: Job) -> None:
    _store()._internal_kv_put(key, json.dumps(asdict(job)), overwrite=True, namespace=_NAMESPACE)


def _store() -> Any:
    """Return Ray's own module of functions on the key-value store, connected.

    `ray.cluster_utils.Cluster.shutdown` disconnects it, though the process may be a driver of another cluster (2.60).
    """
    from ray._private import worker
    from ray.experimental import internal_kv

    store: Any = internal_kv
    driver: Any = worker.global_worker
    if not store._internal_kv_initialized():
        store._initialize_internal_kv(driver.gcs_client)
    return store
