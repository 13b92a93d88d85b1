"""Ids or a condition become objects that are gone: from the dataset, its quarantine and what was posted, and for good.

Whole objects go, never single rows. They are entered in `_deleted/` (`deletions.py`) before anything is removed: after
a death in between no run brings them back, and the same request takes the rest. Then `live` moves, unless a run is
unfinished, whose rows nobody has proven.

Older versions keep their rows until they are removed by age and number (`maintain.py`): who names such a version finds
them until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from raycluster.errors import Forbidden, InvalidUse, TooLarge
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.commit import Change, commit
from raycluster.lake.deletions import Deletion
from raycluster.lake.lake import Lake
from raycluster.lake.quarantine import Quarantine
from raycluster.lake.rollback import publish
from raycluster.lake.sql import any_of
from raycluster.lake.table import Table
from raycluster.lake.view import View

MOST_OBJECTS = 100_000  # of one deletion: their ids are in memory, 20 MB
_A_COMMIT = 5_000  # objects; their places are looked up a thousand at a time
_MANY = 1 << 31
_BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be deleted, on whose word."""

    by: str
    why: str = ""
    ids: Sequence[str] = ()  # of rows or objects
    filter: str | None = None  # SQL; every object with a row for which it holds
    access: Access = EVERYTHING  # what `by` may see


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What has become of it."""

    dataset: str
    version: int
    objects: int
    rows: int
    live: bool  # whether readers no longer see them
    missing: list[str] = field(default_factory=list)  # ids that no row and no object has
    message: str = ""


def delete(lake: Lake, name: str, wanted: Wanted) -> Deleted:
    """Delete objects.

    Raises:
        NotFound: no such dataset.
        InvalidUse: neither ids nor a filter, or both; the filter is wrong.
        TooLarge: more objects than one deletion may take; nothing was deleted.
        Forbidden: who asks may not see all rows of these objects, or not what the filter is on; nothing was deleted.
    """
    table = lake.existing(name)
    if bool(wanted.ids) == (wanted.filter is not None):
        raise InvalidUse("a deletion names ids or a filter", where="ids", fix='give {"ids": [...]} or {"filter": SQL}')
    versions = sorted({table.live() or table.version(), table.version()})
    views = [View.open(table, version, wanted.access) for version in versions]
    found, matched = dict[str, str](), set[str]()  # object_id -> uri; ids that something has
    for one in _seen(views, lake.quarantine(name), wanted):
        found[one["object_id"]] = one["uri"]
        matched |= {one["object_id"], one.get("id", "")}
        if len(found) > MOST_OBJECTS:
            raise TooLarge(
                f"more than {MOST_OBJECTS:,} objects would be deleted", where="filter", fix="delete them in parts"
            )
    for view in views:
        _require_all_seen(view, list(found))
    now = datetime.now(UTC)
    entries = [Deletion(object_id=key, uri=uri, by=wanted.by, why=wanted.why, at=now) for key, uri in found.items()]
    rows, version = 0, table.version()
    for some in (entries[start : start + _A_COMMIT] for start in range(0, len(entries), _A_COMMIT)):
        lake.deletions(name).put(some)
        ids = [one.object_id for one in some]
        landed = commit(table, Change(run_id=f"deletion by {wanted.by}", workload="", removed=ids))
        rows, version = rows + landed.removed, landed.version
        lake.quarantine(name).remove(ids)
        lake.batches().discard(name, (one.uri for one in some))
    message = _show(lake, table, version) if entries else ""
    missing = [one for one in wanted.ids if one not in matched]
    return Deleted(
        dataset=name,
        version=version,
        objects=len(found),
        rows=rows,
        live=not message,
        missing=missing,
        message=message,
    )


def _seen(views: Sequence[View], quarantine: Quarantine, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield what is meant, as far as it may be seen: `object_id`, `uri`, and `id` where ids were given."""
    for view in views:
        if wanted.filter is not None:
            for rows in view.batches(("object_id", "uri"), view.condition(wanted.filter), _BATCH_ROWS):
                yield from rows.to_pylist()
            continue
        for name in ("id", "object_id"):
            view.require_open(name, "ids")
        for part in _either(wanted.ids):
            yield from view.scan(("id", "object_id", "uri"), filter=part).to_pylist()
    if wanted.access.sees_everything:  # a row there has too few columns for a policy's filters
        for part in (*any_of("id", wanted.ids), *any_of("object_id", wanted.ids)):
            yield from quarantine.rows(where=part, limit=_MANY)


def _either(ids: Sequence[str]) -> list[str]:
    pairs = zip(any_of("id", ids), any_of("object_id", ids), strict=True)
    return [f"({rows} OR {objects})" for rows, objects in pairs]


def _require_all_seen(view: View, object_ids: list[str]) -> None:
    """Refuse to delete rows that may not be seen along with those that may."""
    if (may := view.where(None)) is None:
        return
    for part in any_of("object_id", object_ids):
        if view.dataset.count_rows(f"{part} AND NOT coalesce({may}, false)"):
            raise Forbidden(
                "some of these objects have rows that you may not see, and an object is deleted whole",
                fix="ask somebody who may see all of it",
            )


def _show(lake: Lake, table: Table, version: int) -> str:
    """Let readers see it; return why not."""
    if working := table.open_runs(version):
        names = ", ".join(f"{run} of {workload!r}" for workload, run in working.items())
        return (
            f"readers of {table.name!r} still see them: `live` moves when run {names} has finished, or the next run of "
            "that workload"
        )
    if table.live() is None:
        return ""  # there are no readers yet
    publish(lake, table, version, "same")
    return ""
