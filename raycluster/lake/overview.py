"""A dataset becomes what people want to know of it: counts, columns, indexes, versions."""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import Any

from raycluster.lake import query
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake
from raycluster.lake.rollbacks import Rollback
from raycluster.lake.runs import Run
from raycluster.lake.table import Table

_TOLD = 20  # entries of a history: some weeks of nightly runs


def overview(lake: Lake, name: str, *, access: Access = EVERYTHING) -> dict[str, Any]:
    """Return one line about a dataset; rows as readers see them, or of the latest version where none is live.

    Who may not see everything is told how many rows he sees, and no count of others.
    """
    table = lake.existing(name)
    live = table.live()
    found: dict[str, Any] = {"name": name, "live": live, "version": table.version()}
    found["rows"] = query.count(table, version=live or "latest", access=access)
    if access.sees_everything:
        found["quarantined"] = sum(lake.quarantine(name).counts().values())
    return found


def describe(lake: Lake, name: str, *, access: Access = EVERYTHING) -> dict[str, Any]:
    """Return all about a dataset: counts by modality and code, columns, indexes, versions with tags and runs.

    Who may not see everything gets counts of what he sees; what counts the rest is left out.
    """
    table = lake.existing(name)
    version = table.live() or table.version()
    found = {
        **overview(lake, name, access=access),
        "modalities": _modalities(table, version, access),
        "columns": [{"name": one.name, "type": str(one.type)} for one in table.schema(version)],
        "encoders": table.encoders(version),
    }
    if not access.sees_everything:
        return found
    return found | {
        "uri": table.uri,
        "codes": lake.quarantine(name).counts(),
        "indexes": _indexes(table.open(version)),
        "versions": table.history(),
        "history": history(lake, name),
    }


def _modalities(table: Table, version: int, access: Access) -> dict[str, int]:
    """Return how many rows of each modality somebody sees; nothing where that column is masked."""
    if "modality" in access.masks:
        return {}
    if not access.sees_everything:
        return _sums(table, version, access)
    dataset = table.open(version, cached=True)
    fragments = dataset.get_fragments()
    # A dataset that was removed and made anew has the same versions, and other files.
    files = fragments[0].metadata.files[0].path if fragments else ""
    return dict(_counted(table, version, files))


@lru_cache(maxsize=256)
def _counted(table: Table, version: int, files: str) -> tuple[tuple[str, int], ...]:
    """Count a version's rows by modality, once: it is a scan of that column."""
    del files
    return tuple(_sums(table, version, EVERYTHING).items())


def _sums(table: Table, version: int, access: Access) -> dict[str, int]:
    found = query.facets(table, ["modality"], version=version, access=access)
    return {one["value"]: one["rows"] for one in found.facets["modality"]}


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
