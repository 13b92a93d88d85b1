"""A dataset of many small commits becomes one of few large fragments, fresh indexes and no versions that nobody needs.

In this order: join small fragments and drop deleted rows; bring the indexes up to date and show that to readers; remove
versions by age and number; remove orphans (`gc.py`). Then the same, smaller, for its quarantine and the lists of runs
and rollbacks, which make a version and a fragment with each row.

Beside a live run all of it is safe. A run's `Merge` is rebuilt on whatever is there; a compaction is Lance's `Rewrite`,
which any Merge in between refuses, and writing a gigabyte takes longer than the pause between two commits. So what was
written is offered again as if made from the newest version: that is true as long as the old fragments are still there,
file for file and deletion for deletion, because rows keep their ids and carry them along. Where they are not, what
was written is left to `gc`, and the next time tries again.

Readers: `live` moves only if no run is unfinished and the new version comes from the same commit as the one they see,
so that it holds the same rows. Memory holds a batch of rows and one line a fragment, a version and a file; a task
writes at most about one file, and what one has done stays done.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil
from typing import Any

from lance import FragmentMetadata
from lance.optimize import Compaction, CompactionOptions

from raycluster.errors import InvalidUse
from raycluster.lake import store
from raycluster.lake.gc import Collected, collect, is_being_filled
from raycluster.lake.index import Indexed, refresh
from raycluster.lake.lake import Lake
from raycluster.lake.lease import writing
from raycluster.lake.table import COMMIT, Table
from raycluster.lake.write import MAX_FILE_BYTES, STORAGE_VERSION

KEEP_AGE = timedelta(days=7)
KEEP_VERSIONS = 10

# A fragment of half a file's size is left alone: joined with its neighbour it would only be cut up anew.
_SMALL = MAX_FILE_BYTES // 2
_MANY = 64  # small fragments: opening a version and committing cost about 50 us more for each
_MOST_ROWS = 1 << 20  # of a fragment
_FEWEST_ROWS = 1 << 10
_BATCH_ROWS = 1024  # 20 to 40 MB with thumbnails
_DELETED = 0.1  # of a large fragment's rows: then it is worth writing anew
_ATTEMPTS = 8  # of offering what is written; a commit of others comes every few seconds

_LOST = "others committed first, every time"
_CHANGED = "others changed the fragments meanwhile"

# Nobody goes back to an old state of a list; whoever reads one is done within minutes.
_LIST_AGE = timedelta(hours=1)
_LIST_VERSIONS = 3


@dataclass(frozen=True, kw_only=True)
class Maintained:
    """What was done to a dataset, or would be. The lists beside it (quarantine, runs) count in `bytes_freed` only."""

    dataset: str
    dry_run: bool
    fragments_before: int
    fragments_after: int
    bytes_rewritten: int = 0
    indexes: list[Indexed] = field(default_factory=list)
    live: int | None = None  # what readers see now
    versions_removed: int = 0
    bytes_freed: int = 0  # with the orphans
    orphans: Collected
    skipped: list[str] = field(default_factory=list)  # what was left, and why; the next time tries again


@dataclass(kw_only=True)
class _Compacted:
    """What compaction has done to one table."""

    before: int
    after: int
    written: int = 0  # bytes
    skipped: list[str] = field(default_factory=list)


def maintain(
    lake: Lake,
    name: str,
    *,
    keep_age: timedelta = KEEP_AGE,
    keep_versions: int = KEEP_VERSIONS,
    dry_run: bool = False,
) -> Maintained:
    """Compact, index and clean up a dataset.

    Args:
        lake: where it lies.
        name: the dataset.
        keep_age: no younger version is removed.
        keep_versions: nor one of so many newest; nor one that a tag or a lease names.
        dry_run: only say what would be done, as far as it can be known before.

    Raises:
        NotFound: there is no such dataset.
        InvalidUse: a negative age, or no version to keep.
        CommitConflict: others committed first while an index was brought up to date, every time.
    """
    if keep_age < timedelta(0) or keep_versions < 1:
        raise InvalidUse(
            f"cannot keep {keep_versions} versions and those younger than {keep_age}",
            fix="keep at least 1 version, and an age of 0 or more",
        )
    table = lake.existing(name)
    done, indexes = _tend(table, dry_run=dry_run)
    versions, freed = _forget(table.uri, keep_age, keep_versions, dry_run=dry_run)
    orphans = collect(lake, name, dry_run=dry_run)
    for uri in _lists(lake, name):
        freed += _tend_list(uri, dry_run=dry_run)
    return Maintained(
        dataset=name,
        dry_run=dry_run,
        fragments_before=done.before,
        fragments_after=done.after,
        bytes_rewritten=done.written,
        indexes=indexes,
        live=table.live(),
        versions_removed=versions,
        bytes_freed=freed + orphans.bytes,
        orphans=orphans,
        skipped=done.skipped,
    )


def due(table: Table) -> bool:
    """Tell whether compaction is worth its while: what a run asks when it is done. Reads one manifest."""
    dataset = table.open()
    small = sum(_size(one.metadata) < _SMALL for one in dataset.get_fragments())
    return small >= _MANY


def _tend(table: Table, *, dry_run: bool) -> tuple[_Compacted, list[Indexed]]:
    """Compact and index, and let readers see it."""
    if is_being_filled(table):
        fragments = len(table.open().get_fragments())
        reason = "not compacted: columns are being computed for the fragments as they are"
        return _Compacted(before=fragments, after=fragments, skipped=[reason]), []
    if dry_run:
        return _compact(table.uri, dry_run=True), []
    with writing(table, "maintain"):
        done = _compact(table.uri)
    if table.open_runs():
        done.skipped.append("not indexed, and `live` stays: a run is unfinished")
        return done, []
    return done, _show(table, done)


def _show(table: Table, done: _Compacted) -> list[Indexed]:
    """Index the latest version and let readers see it, if its rows are those that they see."""
    live = table.live()
    indexes = refresh(table)
    latest = max((one.version for one in indexes), default=table.version())
    if live is None or table.open_runs(latest):
        return indexes
    if _origin(table, live) != _origin(table, latest):
        done.skipped.append(f"`live` stays at {live}: later versions hold other rows")
    else:
        table.set_live(latest, "same")
    return indexes


def _origin(table: Table, version: int) -> bytes:
    """Return what the schema says of the commit that a version's rows come from."""
    origin: bytes = (table.open(version).schema.metadata or {}).get(COMMIT, b"")
    return origin


def _compact(uri: str, *, dry_run: bool = False) -> _Compacted:
    """Join small fragments, task by task."""
    with store.explained(uri, "compact"):
        dataset = store.open_dataset(uri)
        options = _options(dataset)
        plan = Compaction.plan(dataset, options)
        before = len(dataset.get_fragments())
        done = _Compacted(before=before, after=before)
        for task in plan.tasks:
            if dry_run:
                rows = sum(one.num_rows for one in task.fragments)
                done.after += ceil(rows / (options["target_rows_per_fragment"] or 1)) - len(task.fragments)
                done.written += sum(_size(one) for one in task.fragments)
                continue
            written = task.execute(dataset)
            if refused := _offer(uri, written):
                done.skipped.append(f"{len(task.fragments)} fragments were not joined: {refused}")
                continue
            done.after += len(written.new_fragments) - len(task.fragments)
            done.written += sum(map(_size, written.new_fragments))
    return done


def _options(dataset: Any) -> CompactionOptions:
    """Return what Lance is to join: fragments well below a file's full size, or with many deleted rows."""
    fragments = [one.metadata for one in dataset.get_fragments()]
    rows = sum(one.physical_rows for one in fragments)
    bytes_a_row = max(1, sum(map(_size, fragments)) // max(1, rows))
    full = max(_FEWEST_ROWS, min(_MOST_ROWS, MAX_FILE_BYTES // bytes_a_row))
    return {
        "target_rows_per_fragment": full,
        "max_bytes_per_file": MAX_FILE_BYTES,
        "materialize_deletions_threshold": _DELETED,
        "excluded_fragment_ids": [one.id for one in fragments if one.num_rows > full // 2 and not _is_worn(one)],
        "batch_size": _BATCH_ROWS,
        "num_threads": 1,
        "data_storage_version": STORAGE_VERSION,
    }


def _is_worn(fragment: FragmentMetadata) -> bool:
    return fragment.num_deletions > _DELETED * fragment.physical_rows


def _size(fragment: FragmentMetadata) -> int:
    """Return the bytes of a fragment's files, without its pictures'."""
    return sum(one.file_size_bytes or 0 for one in fragment.files)


def _offer(uri: str, written: Any) -> str:
    """Commit what a task has written; return why not. It is left to `gc` then, which knows whether it has landed."""
    old = {one.id: one.to_json() for one in written.original_fragments}
    refused = _LOST
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0.5, 1.5) * min(1.0, 0.02 * 2**attempt))
        dataset = store.open_dataset(uri)
        now = {one.fragment_id: one.metadata.to_json() for one in dataset.get_fragments()}
        if any(now.get(number) != fragment for number, fragment in old.items()):
            refused = _CHANGED
            break
        text = json.dumps(json.loads(written.json()) | {"read_version": dataset.version})
        rebased = type(written).from_json(text)
        try:
            Compaction.commit(dataset, [rebased])
            return ""
        except (OSError, ValueError, RuntimeError) as error:
            if "conflict" not in str(error).lower():
                raise
    return refused


def _forget(uri: str, keep_age: timedelta, keep_versions: int, *, dry_run: bool = False) -> tuple[int, int]:
    """Remove old versions and what only they name; return how many, and the bytes."""
    dataset = store.open_dataset(uri)
    remove = dataset.explain_cleanup_old_versions if dry_run else dataset.cleanup_old_versions
    with store.explained(uri, "remove old versions of"):
        # An age of zero is taken for none, which means two weeks (`td_to_micros(x) if x else None`, pylance 14.0.2).
        age = max(keep_age, timedelta(microseconds=1))
        said = remove(age, keep_versions, error_if_tagged_old_versions=False)
    stats = said.stats if dry_run else said
    return int(stats.old_versions), int(stats.bytes_removed)


def _lists(lake: Lake, name: str) -> Iterator[str]:
    """Yield the URIs of what grows by a version with each row: Registers."""
    for uri in (lake.quarantine(name).uri, lake.runs().uri, f"{lake.uri}/_rollbacks.lance"):
        if store.exists(uri):
            yield uri


def _tend_list(uri: str, *, dry_run: bool) -> int:
    """Compact a Register and remove its old versions; return the bytes. Lance removes its orphans, after a week."""
    _compact(uri, dry_run=dry_run)
    return _forget(uri, _LIST_AGE, _LIST_VERSIONS, dry_run=dry_run)[1]
