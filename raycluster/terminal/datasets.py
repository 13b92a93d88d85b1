"""Datasets, what is found in them and what did not get in become what people see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raycluster.terminal.screen import WIDTH, last, out, print_json, short, table
from raycluster.units import show_bytes

if TYPE_CHECKING:
    from raycluster.lake.gc import Collected
    from raycluster.lake.maintain import Maintained
    from raycluster.lake.rollbacks import Rollback


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
    columns = [(one["name"], short(one["type"], 60) if WIDTH is None else one["type"]) for one in dataset["columns"]]
    out.print(table("\nColumns", ["column", "type"], columns))
    indexes = [(one["column"], one["kind"], one["rows"]) for one in dataset["indexes"]]
    out.print(table("\nIndexes", ["column", "kind", "rows"], indexes, right=["rows"]))
    history = [
        (one["at"], one["version"], _what(one), one["added"] or "", one["replaced"] or "", ", ".join(one["tags"]))
        for one in dataset["history"]
    ]
    numbers = ["version", "added", "replaced"]
    out.print(table("\nHistory", ["at", "version", "what", "added", "replaced", "tags"], history, right=numbers))
    if any(tag.startswith("previous") for one in dataset["history"] for tag in one["tags"]):
        out.print(f"\ngo back: raycluster rollback {dataset['name']} --last", style="dim", markup=False)


def _what(told: Mapping[str, Any]) -> str:
    """Say what happened: to a run that failed, why; of a rollback, who and why."""
    if told["what"] == "rollback":
        return f"rolled back by {told['by']}" + (f": {told['why']}" if told["why"] else "")
    state = "" if told["status"] == "done" else f" {told['status']}"
    return f"run {told['id']} of {told['by']}{state}"


def show_rollback(entry: Rollback, *, as_json: bool) -> None:
    """Say what readers see now, and how to return."""
    if as_json:
        print_json(entry)
        return
    out.print(f"readers of [bold]{entry.dataset}[/] see version {entry.version} again (it was {entry.left})")
    for workload in entry.undone:
        out.print(
            f"what {workload!r} brought since is out; its next run refuses unless it is changed, or --redo is said"
        )
    out.print(f"return: raycluster rollback {entry.dataset} --to {entry.left}", style="dim", markup=False)


def show_hits(answer: Mapping[str, Any], *, as_json: bool) -> None:
    """List what a search found."""
    if as_json:
        print_json(answer)
        return
    explained = any("why" in hit for hit in answer["hits"])
    rows = [
        (f"{hit['score']:.3f}", hit["modality"], _place(hit), _what_of(hit), *([_why(hit["why"])] if explained else []))
        for hit in answer["hits"]
    ]
    columns = ["score", "modality", "where", "what", *(["why"] if explained else [])]
    out.print(table("", columns, rows, right=["score"]))
    if not rows:
        out.print("nothing found")
    out.print(f"{answer['dataset']} v{answer['version']}, {answer['took_ms']:.0f} ms", style="dim")


def _what_of(hit: Mapping[str, Any]) -> str:
    """Return the part of a hit's text that was asked for, where that is known, or its beginning."""
    parts = hit.get("highlights")
    return short(str(parts[0]["text"]) if parts else hit.get("text") or hit.get("label") or "")


def _why(why: Mapping[str, Any]) -> str:
    """Return a hit's place in each list, and the words that were found in it."""
    places = [f"{name} #{why[name]['rank']}" for name in ("vector", "text") if name in why]
    return ", ".join([*places, *why["matched"]])


def _place(hit: Mapping[str, Any]) -> str:
    name = last(hit["uri"])
    if hit.get("start_seconds") is not None:
        return f"{name} {hit['start_seconds']:.1f}-{hit['end_seconds']:.1f} s"
    return f"{name} #{hit['position']}" if hit.get("position") else name


def show_quarantine(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """List what could not be used, and why."""
    if as_json:
        print_json(rows)
        return
    cells = [(one["code"], one["stage"], last(one["uri"]), one["message"]) for one in rows]
    out.print(table("", ["code", "stage", "object", "message"], cells) if cells else "the quarantine is empty")


def show_maintained(done: Maintained, *, as_json: bool) -> None:
    """Say what care has done to a dataset, or would."""
    if as_json:
        print_json(done)
        return
    would = "would be " if done.dry_run else ""
    out.print(f"[bold]{done.dataset}[/]  {done.fragments_before} fragments -> {done.fragments_after}")
    out.print(f"{would}rewritten: {show_bytes(done.bytes_rewritten)}")
    out.print(f"{would}removed: {done.versions_removed} old versions; {done.orphans.files} orphaned files")
    out.print(f"{would}freed: {show_bytes(done.bytes_freed)}")
    for one in done.indexes:
        out.print(f"index {one.kind} on {one.column}: {one.state}, {one.rows} rows")
    for reason in [*done.skipped, *_kept(done.orphans)]:
        out.print(f"left: {reason}", style="yellow", markup=False)


def show_collected(done: Collected, *, as_json: bool) -> None:
    """Say which files went, or would."""
    if as_json:
        print_json(done)
        return
    would = "would be " if done.dry_run else ""
    out.print(f"[bold]{done.dataset}[/]  {would}removed: {done.files} orphaned files, {show_bytes(done.bytes)}")
    for reason in _kept(done):
        out.print(f"left: {reason}", style="yellow", markup=False)


def _kept(done: Collected) -> list[str]:
    if not done.kept_files:
        return []
    reasons = "; ".join(done.reasons)
    return [f"{done.kept_files} files ({show_bytes(done.kept_bytes)}) that may still be committed: {reasons}"]
