"""A plan becomes a run: references go out in shards, fragments come back and are committed every few seconds.

Order matters. Within a commit: first the bad rows of objects whose other rows are good, then the good rows, then the
objects of which nothing could be used; an object counts as done only by the last of these, so a death in between
makes it to be done again, never lost. At the end: the sums are proven, the indexes built, and only then does `live`
move. Whatever fails on the way leaves readers where they were, and the next run with all that is committed.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from raycluster.declare.workload import Workload, declaration
from raycluster.engine.cluster import connect, here, joins_cluster
from raycluster.engine.line import Job
from raycluster.engine.pipeline import messages
from raycluster.engine.progress import Pace, Progress
from raycluster.engine.tally import Ready, Tally
from raycluster.errors import BadMedia, InvalidUse, RayclusterError, RunFailed
from raycluster.lake.columns import dataset_schema
from raycluster.lake.commit import Change, Landed, commit
from raycluster.lake.index import Indexed, build
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run, Status
from raycluster.lake.table import Table
from raycluster.lake.write import Sink
from raycluster.plan import Plan, make_plan
from raycluster.read import Reference

_LOOK_EVERY_SECONDS = 0.5
# At most so much work is done again when everything dies; a commit takes milliseconds (57 at 1,000 fragments).
_COMMIT_EVERY_SECONDS = 5.0
_PEEKED_OBJECTS = 10_000  # a plan looks into this many objects for their modality; beyond, `unread` is said


@dataclass(kw_only=True)
class Summary:
    """What became of a run. `objects` = what was ingested + `quarantined` + `skipped`, or the run has failed."""

    run_id: str
    workload: str
    dataset: str
    status: Status = "running"
    version: int | None = None
    objects: int = 0  # listed by the source
    rows: int = 0  # committed
    quarantined: int = 0  # objects of which nothing could be used
    bad_rows: int = 0
    skipped: int = 0  # objects already done
    replaced: int = 0  # rows of changed or pruned objects that went
    seconds: float = 0.0
    cost_usd: float | None = None  # None: no prices are declared
    codes: dict[str, int] = field(default_factory=dict)
    indexes: list[Indexed] = field(default_factory=list)
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a run has come; for people."""

    objects: int
    done: int
    rows: int
    bad: int
    read_bytes: int
    seconds: float
    stages: dict[str, Pace]


def prepare(workload: Workload, lake: Lake, *, address: str | None = None) -> Plan:
    """List the source, read what is known, and plan for the cluster at `address`, or this machine; changes nothing."""
    table = lake.table(workload.sink.dataset)
    table.require_fit(schema_of(workload))
    _require_indexable(workload)
    listed = workload.source.objects()
    first = next(listed, None)  # a wrong path is said before Ray starts, which takes seconds
    cluster = connect(address) if joins_cluster(address) else here()  # starting Ray here can wait for `execute`
    base = table.version()  # before what it holds is read: what others commit from here on is theirs
    plan = make_plan(
        workload,
        cluster,
        listed=_chain(first, listed),
        known=_chain(None, table.known(base or None), lake.quarantine(table.name).known()),
        modality=_peeker(workload.source),
    )
    return replace(plan, base=base)


def _chain(first: pa.RecordBatch | None, *rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if first is not None:
        yield first
    for batches in rest:
        yield from batches


def _require_indexable(workload: Workload) -> None:
    columns = schema_of(workload).names
    for index in workload.sink.index:
        if index.column not in columns:
            fix = f"columns of this workload: {', '.join(columns)}"
            raise InvalidUse(f"sink.index: there is no column {index.column!r}", fix=fix)


def _peeker(source: Any) -> Callable[[dict[str, Any]], str]:
    left = [_PEEKED_OBJECTS]

    def modality(reference: dict[str, Any]) -> str:
        left[0] -= 1
        if left[0] < 0:
            return "unread"
        try:
            return str(source.modality(Reference(**reference)))
        except BadMedia as error:
            return error.code

    return modality


def schema_of(workload: Workload) -> pa.Schema:
    """Return the columns that a workload's dataset has."""
    fields = {f.name: f for stage in workload.encode for f in stage.writes}
    vector = fields.pop("vector", None)
    width = vector.type.list_size if vector is not None else 384
    return dataset_schema(pa.schema(list(fields.values())), width)


def execute(
    plan: Plan,
    lake: Lake,
    *,
    address: str | None = None,
    prune: bool = False,
    observe: Callable[[Snapshot], None] = lambda _: None,
) -> Summary:
    """Carry out a plan, on the cluster it was made for.

    Args:
        plan: of `prepare`.
        lake: where the dataset lies or will lie.
        address: of a running cluster; None: RAY_ADDRESS, or this machine.
        prune: whether to remove the rows of objects that the source no longer lists.
        observe: told twice a second how far the run has come.

    Raises:
        Unplaceable: the cluster cannot hold a stage; nothing was written.
        RunFailed: too many bad rows, or the sums do not add up; `live` has not moved.
    """
    plan.require_placeable()
    run = _Run(plan, lake, prune=prune)
    run.begin()
    try:
        if plan.todo.num_rows:
            connect(address)
            with run.watched(observe):
                run.collect()
        run.finish()
    except KeyboardInterrupt:
        run.stop()
    except RayclusterError as error:
        run.fail(error)
        raise
    return run.summary


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what Ray wraps around a worker's error back into that error."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, RayclusterError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        last = str(error).strip().splitlines()[-1]
        raise RunFailed(f"a worker failed: {last}", fix="run it again; what was finished is kept") from error


class _Run:
    """One execution, from its entry in `_runs` to `live`."""

    def __init__(self, plan: Plan, lake: Lake, *, prune: bool) -> None:
        self.plan, self.lake, self.prune = plan, lake, prune
        self.workload = plan.workload
        self.table: Table = lake.table(self.workload.sink.dataset)
        self.tally = Tally()
        self.base = plan.base
        self.ready: Ready | None = None  # taken from the tally, not yet landed for certain
        self.landed = 0.0  # when; monotonic seconds
        self.started = time.monotonic()
        now = datetime.now(UTC)
        self.started_at = now
        self.summary = Summary(
            run_id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            workload=self.workload.name,
            dataset=self.table.name,
            objects=plan.listed,
            skipped=plan.objects("done"),
        )

    def begin(self) -> None:
        """Create the dataset if it is new, and enter the run as running."""
        self.declared = [declaration("encode", stage) for stage in self.workload.encode]
        self.declared += [declaration("decode", stage) | {"family": "decode"} for stage in self.workload.decode]
        self.sink: Sink = self.table.create_or_check(schema_of(self.workload), self.declared)
        self.quarantine = self.lake.quarantine(self.table.name)
        redone = {old for ids in self.plan.replaced.values() for old in ids}
        known = (one for batch in self.quarantine.known() for one in batch.column("object_id").to_pylist())
        self.known_bad = len(set(known) - redone)
        if self.plan.todo.num_rows or self.prune:
            self._commit(fence="take")
        self._note()

    @contextmanager
    def watched(self, observe: Callable[[Snapshot], None]) -> Iterator[None]:
        """Start the progress actor, and tell `observe` twice a second what it says."""
        import ray

        self.progress: Any = ray.remote(num_cpus=0)(Progress).remote()
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_EVERY_SECONDS):
                try:
                    stages, read = ray.get(self.progress.snapshot.remote(), timeout=5)
                except ray.exceptions.RayError:
                    continue  # a busy or lost actor costs a picture, not the run
                observe(self._snapshot(stages, read))

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join(timeout=6)

    def collect(self) -> None:
        """Run the pipeline and keep what comes back."""
        job = Job(workload=self.workload, pools=self.plan.pools, run_id=self.summary.run_id, sink=self.sink)
        with _explained():
            for message in messages(self.plan, job, self.progress):
                self.tally.add(message)
                self._require_budget(self.known_bad + self.tally.touched)
                if time.monotonic() - self.landed > _COMMIT_EVERY_SECONDS:
                    self._land()

    def finish(self) -> None:
        """Commit the rest, prove the sums, index, and let readers see it."""
        self._land()
        if self.prune and self.plan.vanished:
            self.summary.replaced += self._commit(removed=self.plan.vanished).removed
            self.quarantine.remove(self.plan.vanished)
        self.tally.require_conservation(objects=self.plan.todo.num_rows, committed=self.summary.rows)
        self._require_budget(max(self.known_bad + self.tally.touched, self.quarantine.count_objects()))
        indexes = build(self.table, self.workload.sink.index)
        self.summary.version = self.table.set_live(max(one.version for one in indexes))
        self.summary.indexes = indexes
        self._close("done")

    def stop(self) -> None:
        """Keep the whole objects that are finished; the next run goes on from there."""
        self._land_all()
        self.summary.message = (
            f"stopped: {self.tally.objects.total()} of {self.plan.todo.num_rows} objects are kept; "
            "run the same command to go on. `live` has not moved."
        )
        self._close("stopped")

    def fail(self, error: RayclusterError) -> None:
        """Keep what is whole, for the next run, but let no reader see it."""
        self.summary.message = error.message
        with suppress(RayclusterError):  # it may be the lake itself that failed
            self._land_all()
        self._close("failed")

    def _land_all(self) -> None:
        """Finish a landing that was interrupted, then land the rest."""
        if self.ready is not None:
            self._land()
        self._land()

    def _land(self) -> None:
        """Commit what is whole, and record the bad rows. Tried again after an interruption, it lands nothing twice."""
        self.ready = self.ready or self.tally.take()
        ready, older = self.ready, self.plan.replaced
        partly = [row for row in ready.bad if not row["whole"]]
        wholly = [row for row in ready.bad if row["whole"]]
        self._record(partly)
        removed = [old for identity in ready.good for old in older.get(identity, ())]
        if ready.fragments:
            landed = self._commit(fragments=ready.fragments, removed=removed)
            self.summary.rows += landed.added
            self.summary.replaced += landed.removed
            self.ready = replace(ready, fragments=[])  # counted
        self._record(wholly)
        self.quarantine.remove([*removed, *(old for row in wholly for old in older.get(row["object_id"], ()))])
        self.ready, self.landed = None, time.monotonic()

    def _record(self, bad: list[dict[str, Any]]) -> None:
        if self.workload.check.on_bad == "quarantine":
            self.quarantine.add(bad, run_id=self.summary.run_id, workload=self.workload.name)

    def _commit(
        self,
        *,
        fragments: Sequence[str] = (),
        removed: Sequence[str] = (),
        fence: Literal["take", "hold"] = "hold",
    ) -> Landed:
        change = Change(
            run_id=self.summary.run_id,
            workload=self.workload.name,
            fragments=fragments,
            removed=removed,
            base=self.base,
            encoders=self.declared if fence == "take" else None,
            fence=fence,
        )
        landed = commit(self.table, change)
        if landed.version == self.base + 1:  # nobody else came between: all that is there is known
            self.base = landed.version
        self.summary.version = landed.version
        return landed

    def _require_budget(self, bad: int) -> None:
        """Judge the dataset that would become live: what earlier runs found bad counts too."""
        budget = self.workload.check.budget
        listed = max(1, self.plan.listed)
        over_rate = budget.rate is not None and bad > budget.rate * listed
        if not over_rate and (budget.count is None or bad <= budget.count):
            return
        allowed = f"{budget.rate:.1%}" if over_rate else f"{budget.count} objects"
        raise RunFailed(
            f"{bad} of {listed} objects are bad ({bad / listed:.1%}), more than check.budget allows ({allowed})",
            fix=f"look at them: raycluster quarantine {self.table.name}; readers still see the version before this run",
        )

    def _snapshot(self, stages: dict[str, Pace], read_bytes: int) -> Snapshot:
        return Snapshot(
            objects=self.plan.todo.num_rows,
            done=self.tally.objects.total(),
            rows=self.tally.rows["ok"],
            bad=self.tally.objects["bad"],
            read_bytes=read_bytes,
            seconds=time.monotonic() - self.started,
            stages=stages,
        )

    def _close(self, status: Status) -> None:
        self.summary.status = status
        self.summary.quarantined = self.tally.objects["bad"]
        self.summary.bad_rows = self.tally.rows["bad"]
        self.summary.codes = dict(self.tally.codes.most_common())
        self.summary.seconds = round(time.monotonic() - self.started, 3)
        self._note()

    def _note(self) -> None:
        summary = self.summary
        self.lake.runs().put(
            Run(
                run_id=summary.run_id,
                workload=summary.workload,
                dataset=summary.dataset,
                status=summary.status,
                started_at=self.started_at,
                finished_at=None if summary.status == "running" else datetime.now(UTC),
                version=summary.version,
                summary=asdict(summary),
            )
        )
