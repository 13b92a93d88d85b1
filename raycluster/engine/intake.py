"""Batches that were posted become runs: one at a time a dataset, each of all that has landed since the one before.

For a process that serves (`serve/ingest.py` lands batches, `Intake` has them run). A run is a child process, the
command `raycluster run` with the dataset's own declaration and another source: a driver of its own, whose death hurts
nobody, and which ends with this process. It goes by another workload name, so that it takes no fence of the declared
workload, and its objects never count as vanished from that one's source.

Durable without a state of its own: a batch that has landed is in `_batches.lance` until a run has taken it, whichever
process starts that. One intake a lake: a second one would have the same batches run once more, to no effect.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict, deque
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from raycluster.engine.summary import Summary
from raycluster.errors import Busy, InvalidUse, NotFound, RayclusterError
from raycluster.lake.batches import Batch
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run, Status, new_run_id
from raycluster.stage import TRUSTED, is_trusted, unknown

log = logging.getLogger(__name__)

_SUFFIX = "-uploads"
_LONGEST_NAME = 63  # of a workload
_KEPT_OPTIONS = ("max_bytes", "memory_bytes", "timeout")  # of the declared source, where it has them
_MOST_ATTEMPTS = 3
_PAUSE_SECONDS = 5.0  # before another attempt, times their number
_PATIENCE_SECONDS = 30.0  # for a run to keep what it has finished
_NEVER_BETTER = ("over_budget",)  # beside wrong use, which has an exit status of its own
# The run ends with this process, however that dies: the kernel sends it SIGTERM, with which a run stops cleanly.
_COMMAND = "import ctypes; ctypes.CDLL(None).prctl(1, 15); from raycluster.cli import main; main()"


def declarer(lake: Lake, dataset: str, workload: str | None = None) -> str:
    """Return the workload by whose declaration objects are taken into a dataset.

    Raises:
        InvalidUse: no workload has run into it, or several, and none is named.
        NotFound: no such workload.
    """
    ran = lake.table(dataset).last_runs()
    names = sorted(name for name, one in ran.items() if not _takes_posts(one["yaml"]))
    if workload is not None and workload not in names:
        raise unknown("workload", workload, names)
    if workload is None and len(names) != 1:
        fix = "choose one, as in ?workload=NAME" if names else "run a workload into it first: raycluster run FILE"
        raise InvalidUse(
            f"{dataset!r} is written by {', '.join(names) or 'no workload'}, so nothing says how to decode and encode",
            where="workload",
            fix=fix,
        )
    found = workload or names[0]
    _require_trust(yaml.safe_load(ran[found]["yaml"])["spec"])
    return found


def _require_trust(spec: dict[str, Any]) -> None:
    """Refuse to run what somebody else's dataset names: importing a module is running it."""
    used = (*(spec.get("encode") or ()), *((spec.get("check") or {}).get("rules") or ()))
    named = (*spec["decode"], *(str(one.get("use")) for one in used))
    if (wrong := next((name for name in named if not is_trusted(name)), None)) is not None:
        module = wrong.partition(":")[0]
        raise InvalidUse(
            f"this dataset was made with the private stage {wrong!r}, whose code this server is not told to trust",
            where="workload",
            fix=f"whoever runs the server may set {TRUSTED}={module} (several: with commas)",
        )


def _takes_posts(declared: str) -> bool:
    return "posted" in yaml.safe_load(declared)["spec"]["source"]


def declaration_for(lake: Lake, dataset: str, workload: str, run_id: str) -> str:
    """Return the YAML of the workload that a run of posted objects carries out."""
    ran = lake.table(dataset).last_runs()
    if workload not in ran:  # since the batch landed: a rollback
        raise unknown("workload", workload, list(ran))
    declared = yaml.safe_load(ran[workload]["yaml"])
    _require_trust(declared["spec"])
    declared["metadata"]["name"] = name_for(workload)
    spec, options = declared["spec"], next(iter(declared["spec"]["source"].values()))
    kept = {key: options[key] for key in _KEPT_OPTIONS if key in options}
    spec["source"] = {"posted": {"lake": lake.uri, "dataset": dataset, "run": run_id, **kept}}
    # A share of bad objects says something of a corpus, nothing of a handful: what is bad is told in the quarantine,
    # and one bad upload does not keep those of others, or the next run of the corpus, from readers.
    check = spec.setdefault("check", {})
    check["budget"] = {}
    if check.get("on_bad") == "fail":
        check["on_bad"] = "quarantine"
    return yaml.safe_dump(declared, sort_keys=False)


def name_for(workload: str) -> str:
    """Return under which name objects are posted to a workload's dataset."""
    return workload[: _LONGEST_NAME - len(_SUFFIX)].rstrip("-_") + _SUFFIX


@dataclass
class _Job:
    """One run to come, or under way."""

    run_id: str
    dataset: str
    workload: str
    batches: list[str] = field(default_factory=list)  # none: a run that only closes what a failed one left open
    alone: bool = False  # takes no further batches
    pause: float = 0.0  # seconds before it


@dataclass(frozen=True)
class _End:
    """How a run has ended."""

    status: Status
    message: str = ""
    may_help: bool = False  # to try again


class Intake:
    """Has posted batches run, for one lake."""

    def __init__(self, lake: Lake, *, address: str | None = None, at_once: int = 2) -> None:
        self.lake, self.address = lake, address
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Job]] = defaultdict(deque)  # dataset -> jobs
        self._working: dict[str, threading.Thread] = {}  # by dataset
        self._taken: dict[str, str] = {}  # batch -> run, of those that wait or run
        self._children: set[subprocess.Popen[str]] = set()
        self._slots = threading.Semaphore(at_once)  # runs of different datasets
        self._stopping = threading.Event()

    def start(self) -> None:
        """Take up the batches that have landed and that no run has finished."""
        with self._lock:
            landed = self.lake.batches().landed()
            status = {run_id: self._look(run_id).status for run_id in {batch.run_id for batch in landed}}
            # first those of a run that was told of and never began: it takes the others too
            for batch in sorted(landed, key=lambda one: status[one.run_id] != "queued"):
                if status[batch.run_id] == "done":
                    self._put(batch, state="done")
                else:
                    self._take(batch)

    def submit(self, dataset: str, batch_id: str) -> str:
        """Have a batch run that has landed; return the id of the run that takes it. Once, however often it is said.

        Raises:
            NotFound: no such batch.
            Busy: this server is about to stop; the batch runs when it has started again.
        """
        with self._lock:
            if batch_id in self._taken:
                return self._taken[batch_id]
            batch = self.lake.batches().require(batch_id)
            if batch.dataset != dataset:
                raise NotFound(f"batch {batch_id!r} was not posted to {dataset!r}")
            if batch.state != "landed":
                return batch.run_id
            if self._stopping.is_set():
                raise Busy("this server is about to stop", fix="send it again in a moment, with the same key")
            return self._take(batch)

    def stop(self, patience: float = _PATIENCE_SECONDS) -> None:
        """End the runs under way, which keep what they have finished; the next start goes on."""
        self._stopping.set()
        with self._lock:
            children, threads = list(self._children), list(self._working.values())
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
        for thread in threads:
            thread.join(patience)

    def _take(self, batch: Batch) -> str:
        """Put a batch into the next run of its dataset. With the lock held."""
        jobs = self._waiting[batch.dataset]
        job = next((one for one in jobs if one.workload == batch.workload and not one.alone), None)
        if job is None:
            # a run that was told of and never began is still to come
            told = batch.run_id and self._look(batch.run_id).status == "queued"
            job = self._queue(_Job(batch.run_id if told else new_run_id(), batch.dataset, batch.workload))
        self._assign(job, batch)
        return job.run_id

    def _assign(self, job: _Job, batch: Batch) -> None:
        job.batches.append(batch.batch_id)
        self._taken[batch.batch_id] = job.run_id
        if batch.run_id not in ("", job.run_id):
            self._point(batch.run_id, job.run_id)
        self._put(batch, run_id=job.run_id)

    def _queue(self, job: _Job) -> _Job:
        """Enter a run as queued, and see that somebody works on its dataset. With the lock held."""
        self._enter(job, "queued")
        self._waiting[job.dataset].append(job)
        if job.dataset not in self._working:
            name = f"intake-{job.dataset}"
            worker = threading.Thread(target=self._work, args=(job.dataset,), name=name, daemon=True)
            self._working[job.dataset] = worker
            worker.start()
        return job

    def _work(self, dataset: str) -> None:
        while (job := self._next(dataset)) is not None:
            self._stopping.wait(job.pause)
            with self._slots:
                if self._stopping.is_set():
                    continue
                try:
                    end = self._run(job)
                except InvalidUse as error:
                    end = _End("failed", error.message)
                except Exception as error:
                    log.exception("run %s of posted objects", job.run_id)
                    end = _End("failed", f"{type(error).__name__}: {error}", may_help=True)
            try:
                self._settle(job, end)
            except RayclusterError:  # the lake cannot be written: the next start finds the batches as they are
                log.exception("cannot enter the end of run %s", job.run_id)

    def _next(self, dataset: str) -> _Job | None:
        with self._lock:
            if self._waiting[dataset]:
                return self._waiting[dataset].popleft()
            del self._working[dataset]
            return None

    def _run(self, job: _Job) -> _End:
        """Carry out one run in a process of its own."""
        with tempfile.TemporaryDirectory(prefix="raycluster-intake-") as folder:
            file, said, logged = (Path(folder, name) for name in ("workload.yaml", "said.json", "log.txt"))
            file.write_text(declaration_for(self.lake, job.dataset, job.workload, job.run_id))
            # `--redo`: a rollback has taken out objects that were posted before, and none of them is listed now
            given = ["run", str(file), "--lake", self.lake.uri, "--run-id", job.run_id, "--redo", "--json"]
            given += ["--address", self.address] if self.address else []
            with said.open("w") as out, logged.open("w") as err:
                child = subprocess.Popen([sys.executable, "-c", _COMMAND, *given], stdout=out, stderr=err, text=True)
                with self._lock:
                    self._children.add(child)
                if self._stopping.is_set():
                    child.terminate()
                status = child.wait()
            with self._lock:
                self._children.discard(child)
            return _end(status, said.read_text(), logged.read_text(errors="replace"))

    def _settle(self, job: _Job, end: _End) -> None:
        """Enter what has become of a run and its batches; have them run again where that may help."""
        with self._lock:
            for batch_id in job.batches:
                self._taken.pop(batch_id, None)
            if self._stopping.is_set() and end.status != "done":
                return
            if end.status != "done":
                self._note(job, end.message)
            batches = [self.lake.batches().require(one) for one in job.batches]
            for batch in (replace(one, attempts=one.attempts + 1) for one in batches):
                if end.status == "done":
                    self._put(batch, state="done")
                elif len(batches) > 1 or (end.may_help and batch.attempts < _MOST_ATTEMPTS):
                    # each alone: what is wrong may be wrong with one of them
                    again = _Job(new_run_id(), job.dataset, job.workload, alone=True)
                    again.pause = _PAUSE_SECONDS * batch.attempts if end.may_help else 0.0
                    self._assign(self._queue(again), batch)
                else:
                    self._put(batch, state="failed", message=end.message)
            self._close_after(job, end)

    def _close_after(self, job: _Job, end: _End) -> None:
        """Have a run of nothing close what a failed one left open, or `live` would wait for the next upload."""
        if end.status == "done" or not job.batches or self._waiting[job.dataset]:
            return
        if self.lake.table(job.dataset).open_runs().get(name_for(job.workload)):
            self._queue(_Job(new_run_id(), job.dataset, job.workload, alone=True))

    def _put(self, batch: Batch, **changes: Any) -> None:
        self.lake.batches().put(replace(batch, **changes))

    def _look(self, run_id: str) -> Run:
        found = self.lake.runs().several([run_id])
        return found[0] if found else Run(run_id=run_id, workload="", dataset="", status="failed", started_at=_NEVER)

    def _enter(self, job: _Job, status: Status, message: str = "") -> None:
        now = datetime.now(UTC)
        summary = Summary(
            run_id=job.run_id, workload=name_for(job.workload), dataset=job.dataset, status=status, message=message
        )
        run = Run(
            run_id=job.run_id,
            workload=summary.workload,
            dataset=job.dataset,
            status=status,
            started_at=now,
            finished_at=None if status == "queued" else now,
            summary=asdict(summary),
        )
        self.lake.runs().put(run)

    def _note(self, job: _Job, message: str) -> None:
        """Say why a run failed that could not say it itself: it never began, or died."""
        status = self._look(job.run_id).status
        if status == "queued":
            self._enter(job, "failed", message)
        elif status == "running":
            self.lake.runs().close(job.run_id, message)

    def _point(self, run_id: str, to: str) -> None:
        """Say which run goes on with what another one has not finished."""
        for run in self.lake.runs().several([run_id]):
            status = "stopped" if run.status in ("queued", "running") else run.status
            said, word = run.summary.get("message", ""), f"run {to} goes on"
            if word not in said:
                summary = run.summary | {"status": status, "message": "; ".join(filter(None, [said, word]))}
                self.lake.runs().put(replace(run, status=status, summary=summary))


_NEVER = datetime.fromtimestamp(0, UTC)


def _end(status: int, said: str, logged: str) -> _End:
    """Read how a run has ended from its exit status and what it printed."""
    try:
        document = json.loads(said)
    except ValueError:
        last = logged.strip().splitlines()[-1:] or ["it said nothing"]
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return _End("failed", f"the run's process ended with {how}: {last[0]}", may_help=True)
    error = document.get("error")
    if error is None:
        return _End(document["status"], document["message"], may_help=True)
    return _End("failed", error["message"], may_help=status != 2 and error["code"] not in _NEVER_BETTER)
