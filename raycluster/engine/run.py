"""A plan becomes a run: references go out in shards, fragments come back and are committed every few seconds.

Order matters: old rows get their new columns, new rows land (`landing.py`), the sums are proven, the indexes built, and
only then does `live` move. Whatever fails on the way leaves readers where they were, and the next run with all that is
committed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime

from raycluster.account import tracing
from raycluster.account.log import TOLD, Log
from raycluster.account.owners import owner_of
from raycluster.account.settle import lines_of
from raycluster.account.telemetry import Trace, is_wanted, report
from raycluster.account.terms import Terms
from raycluster.engine.accounting import Account
from raycluster.engine.backfill import Verdict, adopted, backfill, judge, others
from raycluster.engine.cluster import connect
from raycluster.engine.landing import Landing
from raycluster.engine.line import Job
from raycluster.engine.permit import require_permitted
from raycluster.engine.pipeline import messages
from raycluster.engine.prepare import declaration_digest, schema_of
from raycluster.engine.progress import Pace, followed
from raycluster.engine.share import Share
from raycluster.engine.summary import Snapshot, Summary
from raycluster.errors import OverBudget, RayclusterError, RunFailed
from raycluster.lake import rollback
from raycluster.lake.generation import Filled
from raycluster.lake.index import build
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import COSTS
from raycluster.lake.maintain import due, maintain
from raycluster.lake.progress import Teller
from raycluster.lake.runs import Run, Status, new_run_id
from raycluster.lake.table import Table
from raycluster.lake.write import Sink
from raycluster.plan import Plan

_LOOK_EVERY_SECONDS = 0.5
_ORDINARY = Terms()

_log = logging.getLogger(__name__)


def execute(
    plan: Plan,
    lake: Lake,
    *,
    address: str | None = None,
    terms: Terms = _ORDINARY,
    observe: Callable[[Snapshot], None] = lambda _: None,
) -> Summary:
    """Carry out a plan, on the cluster it was made for.

    Args:
        plan: of `prepare`.
        lake: where the dataset lies or will lie.
        address: of a running cluster; None: RAY_ADDRESS, or this machine.
        terms: what it may do and may cost.
        observe: told twice a second how far the run has come.

    Raises:
        Unplaceable: the cluster cannot hold a stage; nothing was written.
        RolledBack: see `lake/rollback.py`; nothing was written.
        InvalidUse: nothing is listed and all would be pruned, or Ray Data's checkpointing is on; nothing was written.
        OverBudget: a budget is used up. What is finished is kept, and running again goes on from there.
        RunFailed: too many bad rows, or the sums do not add up; `live` has not moved.
    """
    require_permitted(plan, lake, terms)
    run = _Run(plan, lake, terms)
    run.begin()
    try:
        if plan.todo.num_rows or plan.fill:
            connect(address)
            run.open_account()
            with run.watched(observe):
                run.fill()
                run.collect()
        run.finish()
    except KeyboardInterrupt:
        run.stop("stopped")
    except OverBudget as error:
        run.stop(error.message)
        raise
    except BaseException as error:
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
        # Ray's wrapper is of the wrapped error's class too, and says a whole traceback.
        while isinstance(cause, ray.exceptions.RayError) or not isinstance(cause, RayclusterError | None):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        last = str(error).strip().splitlines()[-1]
        fix = "run it again; what was finished is kept"
        if last.startswith("ModuleNotFoundError"):  # as of a private stage, which this process has found
            fix = "workers must find it too: install it on every node, set PYTHONPATH there, or send the run as a job"
        raise RunFailed(f"a worker failed: {last}", fix=fix) from error


class _Run:
    """One execution, from its entry in `_runs` to `live`."""

    def __init__(self, plan: Plan, lake: Lake, terms: Terms) -> None:
        self.plan, self.lake, self.terms, self.prune = plan, lake, terms, "prune" in terms.allow
        self.account: Account | None = None
        self.log: Log | None = None
        self.trace: Trace | None = None
        self.billed = False
        self.workload = plan.workload
        self.table: Table = lake.table(self.workload.sink.dataset)
        self.verdict = Verdict()  # on old rows that get new columns
        self.started = time.monotonic()
        now = datetime.now(UTC)
        self.started_at = now
        self.summary = Summary(
            run_id=plan.run_id or new_run_id(),
            workload=self.workload.name,
            dataset=self.table.name,
            objects=plan.listed,
            skipped=plan.objects("done"),
            size_bytes=plan.size_bytes,
            declaration=declaration_digest(plan.workload),
        )
        self.owner = owner_of(self.workload, self.summary.run_id)
        self.idle: float | None = None  # seconds until the first worker was heard of
        self.teller = Teller(lake.progress(), self.summary.run_id)
        self.landing = Landing(plan, lake, self.summary)
        self.tally, self.quarantine = self.landing.tally, self.landing.quarantine

    def begin(self) -> None:
        """Create the dataset if it is new, and enter the run as running."""
        schema = others(schema_of(self.workload), self.plan.fill)
        self.sink: Sink = self.table.create_or_check(schema, self.landing.declared)
        before = self.table.open_runs().get(self.workload.name)
        last = self.table.last_runs().get(self.workload.name, {}).get("run_id", before)
        self.summary.follows = last
        self.holds_fence = bool(self.plan.todo.num_rows or self.plan.fill or self.prune or before)
        if self.holds_fence:
            self.landing.commit(fence="take", filled=None if self.plan.fill else adopted(self.workload))
        if last:
            self.lake.runs().close(last, f"it died; run {self.summary.run_id} goes on")
        self.trace = tracing.begin(self._note(), self.workload.labels)
        self.teller.start(follows=last)

    def open_account(self) -> None:
        """Begin to count what is consumed, for this run's owner, and to keep what is said."""
        self.log = Log(asdict(self.owner))
        _log.info("begins: %d of %d objects are to be done", self.plan.todo.num_rows, self.plan.listed)
        self.account = Account(self.owner, self.lake, self.terms)

    @contextmanager
    def watched(self, observe: Callable[[Snapshot], None]) -> Iterator[None]:
        """Give the workers a progress actor, and tell `observe` twice a second what it says."""
        import ray

        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_EVERY_SECONDS):
                try:
                    stages, read = ray.get(self.progress.snapshot.remote(), timeout=5)
                except ray.exceptions.RayError:
                    continue  # a busy or lost actor costs a picture, not the run
                now = self._snapshot(stages, read)
                self.teller.tell(now.document)
                observe(now)

        with followed() as self.progress:
            watcher = threading.Thread(target=look, daemon=True)
            watcher.start()
            try:
                yield
            finally:
                over.set()
                watcher.join(timeout=6)

    def fill(self) -> None:
        """Compute the columns that old rows lack, before new rows come that have them already."""
        if self.plan.fill is not None:
            with _explained():
                backfill(self.plan, self._job(), self.table, progress=self.progress, settle=self._settle)
            self.sink = self.table.create_or_check(schema_of(self.workload), self.landing.declared)

    def _settle(self, filled: Filled) -> None:
        """Commit new columns of old rows, unless too many could not be computed."""
        self.verdict = judge(self.plan, filled, self.quarantine)
        self.landing.record(self.verdict.bad)
        self._require_budget()
        self.landing.commit(filled=filled)
        self.quarantine.remove_rows(self.verdict.mended)
        self.summary.filled = sum(part.filled for part in filled.parts.values())

    def _job(self) -> Job:
        return Job(
            workload=self.workload,
            pools=self.plan.pools,
            run_id=self.summary.run_id,
            sink=self.sink,
            trace=tracing.carry(),
        )

    def collect(self) -> None:
        """Run the pipeline and keep what comes back."""
        with _explained(), Share(self.plan, self.owner, self.progress) as share:
            for message in messages(self.plan, self._job(), self.progress, share):
                self.tally.add(message)
                self._require_budget()
                if self.account is not None:
                    self.account.require_within_budget()
                if self.landing.is_due:
                    self.landing.land()

    def finish(self) -> None:
        """Commit the rest, prove the sums, index, and let readers see it."""
        self.landing.land()
        self.tally.require_conservation(committed=self.summary.rows)
        self._require_budget()
        if self.holds_fence:
            for gone in self.plan.vanished.chunks if self.prune else ():
                self.summary.replaced += self.landing.commit(removed=gone.to_pylist()).removed
                self.quarantine.remove(gone.to_pylist())
            # what was deleted while this run had it in hand does not come back
            deleted = self.lake.deletions(self.table.name).among(self.plan.todo["object_id"].chunks)
            self.landing.commit(removed=deleted, fence="release")
        for older in self.plan.stale.chunks:
            self.quarantine.remove(older.to_pylist())
        self.summary.indexes = build(self.table, self.workload.sink.index)
        self._show(max(one.version for one in self.summary.indexes))
        self._close("done")
        self._tend()

    def _tend(self) -> None:
        """Take care of the dataset when it is due; the run is done, whatever becomes of that."""
        try:
            if not due(self.table):
                return
            self.summary.version = maintain(self.lake, self.table.name).live
        except RayclusterError as error:
            self.summary.message = f"done, but maintenance failed: {error.message}"
        self._note()

    def _show(self, version: int) -> None:
        """Move `live`, unless another workload's work of unknown worth is in there too."""
        others = self.table.open_runs()
        if not others:
            self.summary.version = rollback.publish(self.lake, self.table, version)
            return
        names = ", ".join(f"{run} of {workload!r}" for workload, run in others.items())
        self.summary.message = (
            f"`live` stays where it is: {self.table.name!r} also holds rows of unfinished work (run {names}); "
            "it moves when that workload's next run finishes"
        )

    def stop(self, why: str) -> None:
        """Keep the whole objects that are finished; the next run goes on from there."""
        shown = self.table.live()
        self.landing.land_all()
        self.summary.message = (
            f"{why}: {self.tally.objects.total()} of {self.plan.todo.num_rows} objects are kept; "
            "run the same command to go on. "
            + (f"Readers still see version {shown}." if shown else "Readers see nothing of it yet.")
        )
        self._close("stopped")

    def fail(self, error: BaseException) -> None:
        """Keep what is whole, for the next run, but let no reader see it."""
        self.summary.message = str(getattr(error, "message", "") or f"{type(error).__name__}: {error}")
        try:
            with suppress(Exception):  # it may be the lake itself that failed; what failed first is what is told
                self.landing.land_all()
        finally:
            with suppress(Exception):
                self._close("failed")

    def _require_budget(self) -> None:
        """Judge the dataset that would become live: what earlier runs found bad, and is still listed, counts too."""
        budget = self.workload.check.budget
        bad = self.plan.known_bad + self.tally.touched + self.verdict.objects
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
        seconds = time.monotonic() - self.started
        if self.idle is None and (stages or self.tally.objects.total()):
            self.idle = seconds
        return Snapshot(
            objects=self.plan.todo.num_rows,
            done=self.tally.objects.total(),
            rows=self.tally.rows["ok"],
            bad=self.tally.objects["bad"],
            read_bytes=read_bytes,
            seconds=seconds,
            stages=stages,
            idle=self.idle,
            cost=None if self.account is None else self.account.cost,
        )

    def _close(self, status: Status) -> None:
        self.summary.status = status
        lost = self.tally.objects["bad"]
        drops = self.workload.check.on_bad == "drop"
        self.summary.quarantined, self.summary.dropped = (0, lost) if drops else (lost, 0)
        self.summary.bad_rows = self.tally.rows["bad"] + len(self.verdict.bad)
        codes = self.tally.codes + Counter(row["code"] for row in self.verdict.bad)
        self.summary.codes = dict(codes.most_common())
        self.summary.seconds = round(time.monotonic() - self.started, 3)
        self._bill()
        try:
            run = self._note()
        finally:
            self.teller.close()
            self._say_end()
        tracing.end()
        if is_wanted():
            report(lines_of(self.lake, run.run_id) if self.billed else COSTS.empty_table(), run, self.trace)

    def _say_end(self) -> None:
        log, self.log, summary = self.log, None, self.summary
        if log is None:
            return
        level = logging.ERROR if summary.status == "failed" else logging.INFO
        told = f"{summary.status}: {summary.objects} objects, {summary.rows} rows, {summary.quarantined} in quarantine"
        _log.log(level, "%s", "; ".join(filter(None, [told, summary.message])), extra=TOLD)
        log.close()

    def _bill(self) -> None:
        """Say what the run has cost; it is done, whatever becomes of that."""
        account, self.account = self.account, None
        if account is None:
            return
        try:
            cost = account.close()
        except Exception as error:  # noqa: BLE001 - Ray may be gone, or the lake: the run's own end counts for more
            cost, account.trouble = None, f"its cost is not known: {type(error).__name__}: {error}"
        self.summary.cost_usd = None if cost is None else cost / 1e9
        self.summary.message = "; ".join(filter(None, [self.summary.message, account.trouble]))
        self.billed = cost is not None

    def _note(self) -> Run:
        summary = self.summary
        run = Run(
            run_id=summary.run_id,
            workload=summary.workload,
            dataset=summary.dataset,
            status=summary.status,
            started_at=self.started_at,
            finished_at=None if summary.status == "running" else datetime.now(UTC),
            version=summary.version,
            summary=asdict(summary),
        )
        self.lake.runs().put(run)
        return run
