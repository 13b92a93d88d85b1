"""Plans and runs become what people see: what lies ahead, how far it is, what became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycluster.terminal.screen import err, out, print_json, table, when
from raycluster.units import show_bytes, show_seconds, show_usd

if TYPE_CHECKING:  # what a verb does not need is not loaded: `--help` answers at once
    from raycluster.account.outlook import Outlook
    from raycluster.engine.summary import Snapshot, Summary
    from raycluster.lake.runs import Run
    from raycluster.plan import Plan

_PLAIN_EVERY_SECONDS = 5.0  # where there is no terminal, a line now and then


def show_plan(plan: Plan, problems: Sequence[str], ahead: Outlook, *, as_json: bool) -> None:
    """Say what a plan would do, for about how much, and what stands in its way."""
    if as_json:
        print_json(plan_document(plan) | _cost_document(ahead) | {"problems": list(problems)})
        return
    from raycluster.plan import STATES

    out.print(f"[bold]{plan.workload.name}[/] -> dataset [bold]{plan.workload.sink.dataset}[/]\n")
    modalities = sorted({modality for counts in plan.counts.values() for modality in counts})
    rows = []
    for modality in modalities:
        cells: list[Any] = [modality]
        for state in STATES:
            count = plan.counts[state].get(modality)
            cells.append(_count(count.objects, count.size) if count else "-")
        rows.append(cells)
    out.print(table("Objects", ["modality", *STATES], rows, right=STATES))
    pools = [
        (" -> ".join(stage.name for stage in pool.stages), pool.actors, f"{pool.needs.cpu:g}", f"{pool.needs.gpu:g}")
        for pool in plan.pools
    ]
    out.print()
    out.print(table("Workers", ["stages", "actors", "CPU", "GPU"], pools, right=["actors", "CPU", "GPU"]))
    for problem in problems:
        out.print(f"\n{problem}", style="red", markup=False)
    for reason in plan.reasons:
        out.print(f"\n{reason}", markup=False)
    if not plan.todo.num_rows and not plan.fill:
        out.print("\nnothing to do: every object is already in the dataset or in quarantine")
        return
    if ahead.prediction is None:
        out.print(f"\ncost: not known beforehand: {ahead.why}", style="dim", markup=False)
    else:
        out.print(f"\ncost: {ahead.prediction.message}", markup=False)
        for note in ahead.prediction.notes:
            out.print(f"  {note}", style="yellow", markup=False)
    for verdict in ahead.verdicts:
        if verdict.level != "stop":  # what stops a run is a problem, and stands above
            out.print(verdict.message, style="yellow" if verdict.level == "warn" else "dim", markup=False)


def _cost_document(ahead: Outlook) -> dict[str, Any]:
    found = ahead.prediction
    usd = None if found is None else {"low": found.low / 1e9, "high": found.high / 1e9, "confidence": found.confidence}
    return {
        "cost_usd": None if found is None else found.nanousd / 1e9,
        "cost_interval": usd,
        "cost_notes": [ahead.why] if found is None else list(found.notes),
        "budgets": [{"name": one.budget.name, "level": one.level, "message": one.message} for one in ahead.verdicts],
    }


def _count(objects: int, size: int) -> str:
    return f"{objects} ({show_bytes(size)})" if size else str(objects)


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON."""
    return {
        "workload": plan.workload.name,
        "dataset": plan.workload.sink.dataset,
        "objects": {
            state: {modality: {"objects": c.objects, "bytes": c.size} for modality, c in counts.items()}
            for state, counts in plan.counts.items()
        },
        "pools": [
            {"stages": [stage.name for stage in pool.stages], "actors": pool.actors, "needs": asdict(pool.needs)}
            for pool in plan.pools
        ],
        "outdated": dict(plan.outdated),
        "columns": list(plan.fill.reasons) if plan.fill else [],
    }


class Live:
    """Progress while a run goes on: a picture on a terminal, a line every few seconds elsewhere. Goes to stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        # A console of its own: `err` never folds, and lines wider than the terminal cannot be drawn over.
        screen = Console(stderr=True, highlight=False, emoji=False)
        draws = err.is_terminal and not quiet
        self.rich = RichLive(console=screen, transient=True, auto_refresh=False) if draws else None
        self.spoke = 0.0
        self.stages: list[str] = []  # in the order in which rows pass them

    def __enter__(self) -> Self:
        if self.rich:
            self.rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rich:
            self.rich.stop()

    def planned(self, plan: Plan) -> None:
        """Say what lies ahead."""
        self.stages = [stage.name for pool in plan.pools for stage in pool.stages]
        if not self.quiet:
            done = plan.objects("done")
            err.print(f"{plan.workload.name}: {plan.todo.num_rows} objects to do, {done} already done")
            for reason in plan.reasons:
                err.print(reason, markup=False)

    def update(self, now: Snapshot) -> None:
        """Show how far the run has come."""
        if self.rich:
            self.rich.update(self._picture(now), refresh=True)
        elif not self.quiet and time.monotonic() - self.spoke > _PLAIN_EVERY_SECONDS:
            self.spoke = time.monotonic()
            err.print(self._headline(now), style="dim")

    def _headline(self, now: Snapshot) -> str:
        if now.idle is None:
            return f"{now.objects} objects  starting workers  {show_seconds(now.seconds)}"
        parts = [f"{now.done}/{now.objects} objects", f"{now.rows} rows", f"{now.bad} bad"]
        parts += [f"read {show_bytes(now.read_bytes)}", show_seconds(now.seconds)]
        if now.rate and now.left_seconds is not None:
            parts += [f"{now.rate:.1f} objects/s", f"about {show_seconds(now.left_seconds)} left"]
        return "  ".join(parts)

    def _picture(self, now: Snapshot) -> Group:
        rows = []
        for name in dict.fromkeys([*self.stages, *now.stages]):
            if pace := now.stages.get(name):
                rate = f"{pace.rows / now.worked:.1f}/s" if now.worked > 0 else "-"
                rows.append([name, pace.rows, rate, show_seconds(pace.seconds)])
            else:
                rows.append([name, 0, "-", "-"])
        numbers = ["rows", "rate", "worker time"]
        bar = ProgressBar(total=max(1, now.objects), completed=now.done, width=40)
        above = Table.grid()
        above.add_row(Text(self._headline(now)))
        above.add_row(bar)
        return Group(above, table("", ["stage", *numbers], rows, right=numbers))


def show_summary(summary: Summary, *, as_json: bool) -> None:
    """Say what became of a run."""
    if as_json:
        print_json(summary)
        return
    style = {"done": "green", "stopped": "yellow"}.get(summary.status, "red")
    out.print(f"[{style}]{summary.status}[/]  run {summary.run_id}  dataset {summary.dataset} v{summary.version}")
    replaced = f" ({summary.replaced} older ones gone)" if summary.replaced else ""
    dropped = f"{summary.dropped} dropped, " if summary.dropped else ""
    out.print(
        f"{summary.objects} objects: {summary.rows} rows committed{replaced}, {summary.quarantined} objects "
        f"quarantined, {dropped}{summary.skipped} skipped as already done, in {show_seconds(summary.seconds)}"
    )
    if summary.filled:
        out.print(f"{summary.filled} rows that were there got new columns")
    if summary.codes:
        out.print("quarantined: " + ", ".join(f"{code} {count}" for code, count in summary.codes.items()))
    if summary.cost_usd is not None:
        cost = show_usd(round(summary.cost_usd * 1e9))
        out.print(f"cost: {cost}; of what: raycluster costs --run {summary.run_id}", style="dim")
    if summary.message:
        out.print(summary.message, markup=False)


def show_runs(runs: Sequence[Run], *, as_json: bool) -> None:
    """List runs, newest first."""
    if as_json:
        print_json(runs)
        return
    numbers = ["version", "rows", "quarantined", "seconds"]
    rows = [
        [one.run_id, one.dataset, one.status, when(one.started_at), *(one.summary[name] for name in numbers)]
        for one in runs
    ]
    out.print(
        table("", ["run", "dataset", "status", "started", *numbers], rows, right=numbers) if rows else "no run yet"
    )


def show_run(run: Run, *, as_json: bool) -> None:
    """Show one run."""
    if as_json:
        print_json(run)
    else:
        from raycluster.engine.summary import Summary

        show_summary(Summary(**run.summary), as_json=False)
