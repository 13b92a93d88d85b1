"""A dataset becomes what people want to know of it: counts, columns, indexes, versions."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from typing import Any

from raycluster.lake.lake import Lake
from raycluster.lake.rollbacks import Rollback
from raycluster.lake.runs import Run

_TOLD = 20  # entries of a history: some weeks of nightly runs


def overview(lake: Lake, name: str) -> dict[str, Any]:
    """Return one line about a dataset; rows as readers see them, or of the latest version where none is live."""
    table = lake.existing(name)
    live = table.live()
    return {
        "name": name,
        "live": live,
        "version": table.version(),
        "rows": table.count_rows(version=live),
        "quarantined": sum(lake.quarantine(name).counts().values()),
    }


def describe(lake: Lake, name: str) -> dict[str, Any]:
    """Return all about a dataset: counts by modality and code, columns, indexes, versions with tags and runs."""
    table = lake.existing(name)
    dataset = table.open(table.live())
    modalities = Counter[str]()
    for batch in dataset.to_batches(columns=["modality"]):
        modalities.update(batch.column("modality").to_pylist())
    return {
        **overview(lake, name),
        "uri": table.uri,
        "modalities": dict(modalities.most_common()),
        "codes": lake.quarantine(name).counts(),
        "columns": [{"name": one.name, "type": str(one.type)} for one in table.schema(dataset.version)],
        "encoders": table.encoders(dataset.version),
        "indexes": _indexes(dataset),
        "versions": table.history(),
        "history": history(lake, name),
    }


def history(lake: Lake, name: str, limit: int = _TOLD) -> list[dict[str, Any]]:
    """Return what happened to a dataset, newest first: runs, with the rows they brought, and rollbacks, with reasons.

    Each has the tags of the version that came of it, or was made of that since, by maintenance.
    """
    table = lake.existing(name)
    told = [_run(one) for one in lake.runs().recent(name, limit=limit)]
    told += [_rollback(one) for one in lake.rollbacks().of(name)]
    told = sorted(told, key=itemgetter("at"), reverse=True)[
        :limit
    ]  # in UTC, to the microsecond; people get seconds, of their own
    for one in told:
        one["at"] = one["at"].astimezone().isoformat(timespec="seconds")
    for tag, version in sorted(table.tags().items()):
        standing = [one for one in told if one["status"] == "done" and one["version"]]
        exact = [one for one in standing if one["version"] == version]
        before = sorted((one for one in standing if one["version"] < version), key=itemgetter("version"), reverse=True)
        for one in (exact or before)[:1]:
            one["tags"].append(tag if one["version"] == version else f"{tag} (v{version})")
    return told


def _run(run: Run) -> dict[str, Any]:
    return {
        "at": run.finished_at or run.started_at,
        "what": "run",
        "id": run.run_id,
        "status": run.status,
        "version": run.version,
        "added": run.summary.get("rows", 0),
        "replaced": run.summary.get("replaced", 0),
        "by": run.workload,
        "why": run.summary.get("message", ""),
        "tags": [],
    }


def _rollback(entry: Rollback) -> dict[str, Any]:
    return {
        "at": entry.at,
        "what": "rollback",
        "id": entry.rollback_id,
        "status": "running" if entry.restored is None else "done",
        "version": entry.version,
        "added": 0,
        "replaced": 0,
        "by": entry.by,
        "why": entry.why,
        "tags": [],
    }


def _indexes(dataset: Any) -> list[dict[str, Any]]:
    """Return each index with the rows that it covers; the others are searched exactly, beside it."""
    return [
        {"column": found.field_names[0], "kind": found.index_type.lower(), "rows": found.num_rows_indexed}
        for found in dataset.describe_indices()
    ]
