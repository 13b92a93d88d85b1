"""A dataset of many small commits becomes one of few large fragments, fresh indexes and no versions that nobody needs.

In this order: bring the indexes up to date; join small fragments and drop deleted rows; show that to readers; remove
versions by age and number, and orphans (`gc.py`). Then the same, smaller, for its quarantine and the lists of runs
and rollbacks, which make a version and a fragment with each row.

Beside a live run all of it is safe. A run's `Merge` is rebuilt on whatever is there; a compaction is Lance's `Rewrite`,
which any Merge in between refuses, and writing a gigabyte takes longer than the pause between two commits. So what was
written is offered again as if made from the newest version: that is true as long as the old fragments are still there,
file for file and deletion for deletion, and the same indexes cover them, because rows keep their ids and carry them
along. Where that is not so, what was written is left to `gc`, and the next time tries again.

Readers: `live` moves only if no run is unfinished and the new version comes from the same commit as the one they see,
so that it holds the same rows. Memory holds a batch of rows and one line a fragment, a version and a file; a task
writes at most about one file, some tasks make a commit, and what is committed stays. At a billion rows a commit writes
100 GB of BTREE and will not win against a run that commits every few seconds: then it is for after the run.
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
from raycluster.lake.lease import SKEW, writing
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
# Lance writes every BTREE anew at each commit of a compaction (pylance 14.0.2): some gigabytes to a commit, 100 MB of
# index for each million rows of the whole table.
_TASKS_A_COMMIT = 16
_ATTEMPTS = 8  # of offering what is written; a commit of others comes every few seconds

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
        keep_age: no younger version is removed; beside an unfinished run none of the last hour either.
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
    if is_being_filled(table):
        done, indexes, versions, freed = _left(table), list[Indexed](), 0, 0
        orphans = collect(lake, name, dry_run=dry_run)
    else:
        done, indexes = _tend(table, dry_run=dry_run)
        orphans = collect(lake, name, dry_run=dry_run)  # expired leases go first, then the versions that they held
        # A commit whose outcome is unknown looks at the version that it may have made: with that one gone it would land
        # twice, or its rows would be taken for another's.
        floor = SKEW if table.open_runs() else timedelta(0)
        versions, freed = _forget(table.uri, max(keep_age, floor), keep_versions, dry_run=dry_run)
    if not dry_run:
        lake.batches().sweep(name)
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
    return _is_due(table.uri)


def _is_due(uri: str) -> bool:
    fragments = store.open_dataset(uri).get_fragments()
    return len(fragments) >= _MANY and sum(_size(one.metadata) < _SMALL for one in fragments) >= _MANY


def tend_ledger(lake: Lake) -> int:
    """Compact usage and costs when that is due, and remove their old versions; return the bytes.

    Each settling adds a fragment and a version that names all of them: 1,440 a day, 200 GB of versions in a month.
    """
    due = (uri for uri in lake.ledger().uris if store.exists(uri) and _is_due(uri))
    return sum(_tend_list(uri, dry_run=False) for uri in due)


def _left(table: Table) -> _Compacted:
    """Say why nothing is done: Lance takes a file that no version names for an orphan after a week; this may last."""
    fragments = len(table.open().get_fragments())
    reason = "not compacted, no version removed: columns are being computed for the fragments as they are"
    return _Compacted(before=fragments, after=fragments, skipped=[reason])


def _tend(table: Table, *, dry_run: bool) -> tuple[_Compacted, list[Indexed]]:
    """Index, compact, and let readers see it."""
    if dry_run:
        return _compact(table.uri, dry_run=True), []
    # Beside a run that commits every few seconds a large index is never done in time; fragments that are in no index
    # yet, or in the same parts of it, are joined all the same.
    indexes = [] if table.open_runs() else refresh(table)
    with writing(table, "maintain"):
        done = _compact(table.uri)
    if live := table.live():
        reason = _show(table, live)
        done.skipped += [f"`live` stays at {live}: {reason}"] if reason else []
    return done, indexes


def _show(table: Table, live: int) -> str:
    """Let readers see the latest version, if its rows are those that they see; return why not."""
    latest = table.version()
    if table.open_runs(latest):
        return "a run is unfinished"
    if _origin(table, live) != _origin(table, latest):
        return "later versions hold other rows"
    table.set_live(latest, "same")
    return ""


def _origin(table: Table, version: int) -> bytes:
    """Return what the schema says of the commit that a version's rows come from."""
    origin: bytes = (table.open(version).schema.metadata or {}).get(COMMIT, b"")
    return origin


def _compact(uri: str, *, dry_run: bool = False) -> _Compacted:
    """Join small fragments, some tasks at a time."""
    with store.explained(uri, "compact"):
        dataset = store.open_dataset(uri)
        options = _options(dataset)
        tasks = Compaction.plan(dataset, options).tasks
        before = len(dataset.get_fragments())
        done = _Compacted(before=before, after=before)
        if dry_run:
            full = options["target_rows_per_fragment"] or 1
            for task in tasks:
                done.after += ceil(sum(one.num_rows for one in task.fragments) / full) - len(task.fragments)
                done.written += sum(map(_size, task.fragments))
            return done
        for start in range(0, len(tasks), _TASKS_A_COMMIT):
            written = [task.execute(dataset) for task in tasks[start : start + _TASKS_A_COMMIT]]
            for one in _offer(uri, dataset, written, done.skipped):
                done.after += len(one.new_fragments) - len(one.original_fragments)
                done.written += sum(map(_size, one.new_fragments))
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


def _offer(uri: str, dataset: Any, written: list[Any], skipped: list[str]) -> list[Any]:
    """Commit what tasks have written from a version; return what has landed, and say why the rest has not."""
    basis = [_basis(dataset, one) for one in written]
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0.5, 1.5) * min(1.0, 0.02 * 2**attempt))
        dataset = store.open_dataset(uri)
        good = [one for one, before in zip(written, basis, strict=True) if _basis(dataset, one) == before]
        try:
            if good:
                Compaction.commit(dataset, [_rebased(one, dataset.version) for one in good])
            break
        except (OSError, ValueError, RuntimeError) as error:
            if "conflict" not in str(error).lower():
                raise
    else:
        skipped += [_lost(one, "others committed first, every time") for one in written]
        return []
    why = "others changed the fragments or their indexes meanwhile"
    skipped += [_lost(one, why) for one in written if not any(one is other for other in good)]
    return good


def _lost(written: Any, why: str) -> str:
    return f"{len(written.original_fragments)} fragments were not joined: {why}"


def _rebased(written: Any, version: int) -> Any:
    """Return a task's work as if made from another version; `RewriteResult` has no other door."""
    return type(written).from_json(json.dumps(json.loads(written.json()) | {"read_version": version}))


def _basis(dataset: Any, written: Any) -> tuple[list[Any], set[tuple[str, frozenset[int]]]]:
    """Return what a task's work depends on: its fragments, and which indexes cover them."""
    old = {one.id for one in written.original_fragments}
    found = [one.metadata.to_json() for one in dataset.get_fragments() if one.fragment_id in old]
    indexes = dataset.describe_indices()
    return found, {(one.name, frozenset(old & set(part.fragment_ids))) for one in indexes for part in one.segments}


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
    lists = (lake.quarantine(name), lake.deletions(name), lake.batches(), lake.runs(), lake.rollbacks())
    for uri in (one.uri for one in lists):
        if store.exists(uri):
            yield uri


def _tend_list(uri: str, *, dry_run: bool) -> int:
    """Compact a Register and remove its old versions; return the bytes. Lance removes its orphans, after a week."""
    _compact(uri, dry_run=dry_run)
    return _forget(uri, _LIST_AGE, _LIST_VERSIONS, dry_run=dry_run)[1]
