"""Files that no version names become free bytes, also beside a live run.

Lance says which files no version refers to: fragments and half-written files of workers that died, their pictures,
indexes and compactions that were never committed. Which of them somebody may still commit, it cannot know; so:

1. List all files. 2. Then look who may commit: runs whose fence is open (and that have not said that they ended), and
leases of those who write outside a run. 3. Then ask Lance which files are unnamed.

Nobody there in 2: whatever was listed in 1 was written by somebody who has ended, or lost the fence, and commits
nothing any more (`commit.py`, invariant 5); whoever comes later writes files with other names. No clock is involved.
Somebody there: only files that are older than the earliest of them, less the difference that clocks may have, go.
Columns that are computed for old rows (`generation.py`) are the exception: a run takes up what an earlier one left, so
those stay while any run is unfinished.

Lance's deletion files, transactions and manifests are small and left to its own removal of old versions. Uploads to an
object store that broke off have no name yet: let the bucket's rules end them after some days.
Memory holds a line for each file of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from raycluster.errors import NotFound
from raycluster.lake import store
from raycluster.lake.generation import FILL
from raycluster.lake.lake import Lake
from raycluster.lake.lease import SKEW, leases, release
from raycluster.lake.table import Table

_NO_VERSION_IS_SO_OLD = timedelta(days=100 * 365)  # old versions are `maintain`'s
_MOST_FILES = 2**31 - 1  # that Lance lists; without a number, 1,000
_FILL = f"data/{FILL}"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed, or would be."""

    dataset: str
    dry_run: bool
    files: int = 0
    bytes: int = 0
    kept_files: int = 0  # that no version names, but that somebody may still commit
    kept_bytes: int = 0
    leases: int = 0  # expired ones
    reasons: list[str] = field(default_factory=list)  # for what was kept


@dataclass(frozen=True)
class _Writer:
    """Somebody who may still commit. `since`: no file of theirs is older; None where nobody knows."""

    who: str
    since: datetime | None


def collect(lake: Lake, name: str, *, dry_run: bool = False) -> Collected:
    """Remove files that no version names and nobody will commit, and expired leases.

    Raises:
        NotFound: there is no such dataset.
        LakeError: the store refused; what was removed until then was right to go.
    """
    table = lake.existing(name)
    with store.explained(table.uri, "collect the orphans of"):
        listed = store.modified(table.uri)  # before anybody is asked: see above
        writers = list(_writers(lake, table))
        resumes = bool(table.open_runs())
        orphans = {path: size for path, size in _unnamed(table).items() if path in listed}
    kept = {
        path: size
        for path, size in orphans.items()
        if (resumes and path.startswith(_FILL)) or not _is_free(listed[path], writers)
    }
    free = {path: size for path, size in orphans.items() if path not in kept}
    over = [one for one in leases(table) if one.is_over]
    if not dry_run:
        for one in over:
            release(table, one)
        free = {path: size for path, size in free.items() if store.remove_file(table.uri, path)}
    return Collected(
        dataset=name,
        dry_run=dry_run,
        files=len(free),
        bytes=sum(free.values()),
        kept_files=len(kept),
        kept_bytes=sum(kept.values()),
        leases=len(over),
        reasons=([writer.who for writer in writers] or ["the next run goes on from them"]) if kept else [],
    )


def is_being_filled(table: Table) -> bool:
    """Tell whether a run computes columns for old rows, or has died over it."""
    return bool(table.open_runs()) and any(path.startswith(_FILL) for path in _unnamed(table))


def _writers(lake: Lake, table: Table) -> Iterator[_Writer]:
    for workload, run_id in table.open_runs().items():
        try:
            run = lake.runs().get(run_id)
        except NotFound:  # it took the fence a moment ago, or died before it said more
            yield _Writer(f"run {run_id} of {workload!r} is unfinished, and nobody knows when it began", None)
            continue
        if run.status == "running":
            began = run.started_at.astimezone().isoformat(timespec="seconds")
            yield _Writer(f"run {run_id} of {workload!r} is unfinished; it began at {began}", run.started_at)
    for one in leases(table):
        if one.writes and not one.is_over:
            began = one.taken.astimezone().isoformat(timespec="seconds")
            yield _Writer(f"{one.holder} is at work since {began}", one.taken)


def _is_free(modified: datetime | None, writers: list[_Writer]) -> bool:
    """Tell whether none of the writers can have written a file."""
    if not writers:
        return True
    if modified is None:  # the store does not say
        return False
    return all(writer.since is not None and modified < writer.since - SKEW for writer in writers)


def _unnamed(table: Table) -> dict[str, int]:
    """Return the files that no version names: path below the dataset -> bytes."""
    said = table.open().explain_cleanup_old_versions(
        _NO_VERSION_IS_SO_OLD,
        delete_unverified=True,
        error_if_tagged_old_versions=False,
        include_files=True,
        max_files=_MOST_FILES,
    )
    folder = f"{table.uri.rpartition('/')[2]}/"  # Lance's paths begin at the root of the store
    unnamed = (one for one in said.candidate_files if one.unverified)
    return {one.path.rpartition(folder)[2]: int(one.size_bytes) for one in unnamed}
