"""Fragments become visible: one atomic step that adds new rows and takes away the old rows of the same objects.

The protocol. Workers write fragments that nobody sees. The driver then asks Lance for one `Merge`, which names every
fragment the table is to consist of: the present ones, less the rows that go, plus the new ones. Lance accepts it only
if nobody else has committed since the driver looked (compare-and-swap), so all of it happens, or none.

Invariants.
1. Atomic: new rows of a changed object appear in the step in which its old rows go.
2. Lost updates are impossible: a step built on an old version is refused, read again, rebuilt, tried again.
3. One object, one generation: when others have committed since `base` (the version on which the run decided what is
   new), rows with a uri that this step brings are replaced, so two drivers with the same work leave it done once.
4. Idempotent under an unknown outcome: fragments have random names, transactions too. If one of the fragments is in the
   table, or the version this step was meant to make is its transaction's, the step has landed and is not repeated.
5. Fenced: a run takes its workload's fence (its id, in the schema's metadata) before it commits rows. Whoever finds
   another run's id there has been taken over, by a run started while this one was believed dead, and commits nothing.
6. Nothing here grows with the number of commits or objects: no ledger, only the table itself; what it holds is asked
   by `object_id`. Driver memory holds the ids of replaced objects and one line a fragment.

Found by experiment on pylance 14.0.2, and the reasons for three odd lines below: new fragments must carry the id 0,
which Lance replaces with a number never used before (a number used twice is believed covered by the old indexes, and
its rows are not found); a Merge may not name fewer fragments than the table has, so one that lost all its rows is
named as wholly deleted, and Lance leaves it out; and schema metadata is only safe in a LanceSchema, which keeps the
numbers of the columns.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
from lance import FragmentMetadata, LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.file import LanceFileSession
from lance.schema import LanceSchema

from raycluster.errors import CommitConflict, LakeError, NotFound, TakenOver
from raycluster.lake import store
from raycluster.lake.generation import Filled, require_columns
from raycluster.lake.sql import any_of
from raycluster.lake.table import COMMIT, ENCODERS, FENCE, RAN, Table

_ATTEMPTS = 16
_FIRST_PAUSE = 0.02  # seconds; doubled each time, up to _LONGEST_PAUSE, times a random factor: about 20 s in all
_LONGEST_PAUSE = 2.0
_ROW_BITS = 32  # a row address is the fragment's number, then the row's place in it


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one step does to a table."""

    run_id: str
    workload: str
    fragments: Sequence[str] = ()  # JSON, from `Sink.write`; whole objects only
    removed: Sequence[str] = ()  # object ids whose rows go: old generations of changed objects, pruned ones
    base: int | None = None  # the version on which the run decided what is new; None: any of it may be there already
    encoders: Sequence[Mapping[str, Any]] | None = None  # as `Table.create_or_check`; None: as they were
    # take the workload's fence; refuse unless `run_id` holds it; or also give it back, the work being proven
    fence: Literal["none", "take", "hold", "release"] = "none"
    own: Collection[str] = ()  # names of files that this run committed before (`write.files`): none of the others'
    declaration: Mapping[str, str] = field(default_factory=dict)  # `digest` and `yaml`; kept with the fence's taking
    filled: Filled | None = None  # new columns of old rows
    # A run's memory of others' fragments, and of its own that were joined: file -> its least and its greatest uri.
    spans: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What a step has done. `version` is the latest when it was seen to have landed."""

    version: int
    added: int
    removed: int


def commit(table: Table, change: Change) -> Landed:
    """Make a change visible, exactly once, whatever others commit meanwhile.

    Raises:
        CommitConflict: others were faster every time; nothing of the change is visible.
        TakenOver: another run of this workload holds the fence; nothing of the change is visible.
        LakeError: the store failed every time; the change may be tried again, also from another process.
    """
    fragments = [FragmentMetadata.from_json(text) for text in change.fragments]
    added = sum(fragment.physical_rows for fragment in fragments)
    trouble: Exception | None = None
    tried: _Step | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0.5, 1.5) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)))
        try:
            dataset = table.open()
            if _has_landed(dataset, fragments, tried):
                return Landed(version=dataset.version, added=added, removed=_noted_removals(dataset, change))
            _require_fence(table, dataset, change)
            step = _Step.prepare(table, dataset, change, fragments)
            if step is None:
                return Landed(version=dataset.version, added=0, removed=0)
            tried = step
            after = step.take(dataset)
            return Landed(version=after.version, added=added, removed=step.removed)
        except (CommitConflictError, LakeError, OSError) as error:
            trouble = error
    if isinstance(trouble, CommitConflictError):
        raise CommitConflict(
            f"others committed to {table.name!r} first, {_ATTEMPTS} times in a row", fix="run it again"
        ) from trouble
    raise LakeError(
        f"cannot commit to {table.uri}: {store.plain(trouble or OSError())}", fix=store.fix_for(table.uri, trouble)
    ) from trouble


@dataclass(frozen=True)
class _Step:
    """One Merge, built on one version."""

    fragments: list[FragmentMetadata]
    schema: LanceSchema
    note: dict[str, Any]
    version: int  # that it makes
    uuid: str = field(default_factory=lambda: str(uuid4()))

    @property
    def removed(self) -> int:
        return int(self.note["removed"])

    @classmethod
    def prepare(cls, table: Table, dataset: Any, change: Change, fragments: list[FragmentMetadata]) -> _Step | None:
        """Build the step; None when the table is already as the change wants it."""
        require_columns(dataset, fragments)
        stale = set(change.removed) | _brought_by_others(table, dataset, change, fragments)
        rows = _places(dataset, stale)
        encoders = None if change.encoders is None else json.dumps(list(change.encoders)).encode()
        idle = not fragments and not rows and change.fence not in ("take", "release")
        filled = None if change.filled is None or change.filled.is_in(dataset) else change.filled
        if idle and not filled and encoders in (None, (dataset.schema.metadata or {}).get(ENCODERS)):
            return None
        note = {
            "run_id": change.run_id,
            "workload": change.workload,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "added": sum(fragment.physical_rows for fragment in fragments),
            "removed": sum(map(len, rows.values())),
        }
        facts = {COMMIT: json.dumps(note).encode()} | ({ENCODERS: encoders} if encoders is not None else {})
        if change.fence in ("take", "release"):
            facts[_fence(change)] = change.run_id.encode() if change.fence == "take" else b""
        if change.fence == "take":
            facts[RAN + change.workload.encode()] = json.dumps({"run_id": change.run_id, **change.declaration}).encode()
        kept = [_without(fragment, rows.get(fragment.fragment_id)) for fragment in dataset.get_fragments()]
        fields = None
        if filled is not None:
            facts |= filled.facts()
            kept, fields = filled.into(dataset, kept)
        new = [_unnumbered(fragment) for fragment in fragments]
        return cls([*kept, *new], _with_facts(dataset, facts, fields), note, dataset.version + 1)

    def take(self, dataset: Any) -> Any:
        """Ask Lance for it: accepted only if `dataset` is still the latest version."""
        merge = LanceOperation.Merge(self.fragments, self.schema)
        properties = {key: str(value) for key, value in self.note.items()}
        transaction = Transaction(dataset.version, merge, self.uuid, properties)
        return LanceDataset.commit(dataset, transaction, max_retries=0)

    def has_landed(self, dataset: Any) -> bool:
        """Tell whether the version that this step was to make is its own.

        Raises:
            LakeError: nobody can tell any more, because that version has been removed. `maintain` keeps those of the
                last hour while a run is unfinished.
        """
        if dataset.version < self.version:
            return False
        with store.explained(dataset.uri, f"tell whether version {self.version} was committed by this run in"):
            made = dataset.read_transaction(self.version)
        return made is not None and str(made.uuid) == self.uuid


def _fence(change: Change) -> bytes:
    return FENCE + change.workload.encode()


def _require_fence(table: Table, dataset: Any, change: Change) -> None:
    holder = (dataset.schema.metadata or {}).get(_fence(change), b"").decode()
    if change.fence in ("hold", "release") and not holder:
        raise TakenOver(
            f"run {change.run_id} of {change.workload!r} commits nothing more to {table.name!r}: the dataset was "
            "rolled back while it ran, or another run of the workload has taken its place and finished",
            fix=f"see what happened: raycluster datasets {table.name}",
        )
    if change.fence in ("hold", "release") and holder != change.run_id:
        raise TakenOver(
            f"run {change.run_id} of {change.workload!r} has been taken over by run {holder}: it commits nothing more "
            f"to {table.name!r}",
            fix=f"follow the other: raycluster runs {holder}",
        )


def _has_landed(dataset: Any, fragments: list[FragmentMetadata], tried: _Step | None) -> bool:
    ours = _names(fragments)
    if ours and ours & _names(fragment.metadata for fragment in dataset.get_fragments()):
        return True
    return tried is not None and tried.has_landed(dataset)


def _names(fragments: Iterable[FragmentMetadata]) -> set[str]:
    return {str(one.path) for fragment in fragments for one in fragment.files}


def _noted_removals(dataset: Any, change: Change) -> int:
    note = json.loads((dataset.schema.metadata or {}).get(COMMIT, b"{}"))
    return int(note["removed"]) if note.get("run_id") == change.run_id else 0


def _brought_by_others(table: Table, dataset: Any, change: Change, fragments: list[FragmentMetadata]) -> set[str]:
    """Return the ids of objects that others committed since `base` under a uri that this change brings too."""
    if not fragments or change.base == dataset.version:
        return set()
    before, younger = set[str](), None
    if change.base is not None:
        try:
            before = set(_names_at(table, change.base))
            # A compaction moves old rows into new fragments: without this filter each commit after one reads every
            # uri again (200 ms a million rows, 6 ms with it). A row keeps the version that brought it.
            younger = f"_row_created_at_version > {change.base}"
        except NotFound:  # removed since, by age: then look at everything
            pass
    before |= set(change.own)
    foreign = [one for one in dataset.get_fragments() if not _names([one.metadata]) <= before]
    if not foreign:
        return set()
    ours = sorted(set(_uris(table, fragments)))
    spans = ((one, _span(dataset, one, change.spans)) for one in foreign)
    near = [one for one, (least, greatest) in spans if least <= ours[-1] and greatest >= ours[0]]
    if not near:
        return set()
    found, wanted = set[str](), pa.array(ours, pa.string())
    for batch in dataset.scanner(columns=["uri", "object_id"], fragments=near, filter=younger).to_batches():
        found.update(batch.filter(pc.is_in(batch.column("uri"), wanted)).column("object_id").to_pylist())
    return found


@lru_cache(maxsize=8)
def _names_at(table: Table, version: int) -> frozenset[str]:
    """Return the files of a version, which never change; a run asks for those of its base at every commit."""
    return frozenset(_names(fragment.metadata for fragment in table.open(version).get_fragments()))


def _span(dataset: Any, fragment: Any, known: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """Return between which uris a fragment's rows lie; each file is read once.

    Listings are in the order of uris, so drivers of other places, and what was joined before, lie apart from what is
    committed now. Without this every commit reads all uris that others have brought since the run began.
    """
    name = str(fragment.metadata.files[0].path)
    if name not in known:
        ends = pc.min_max(dataset.scanner(columns=["uri"], fragments=[fragment]).to_table()["uri"]).as_py()
        known[name] = (ends["min"] or "", ends["max"] or "")
    return known[name]


def _uris(table: Table, fragments: list[FragmentMetadata]) -> Iterator[str]:
    place = LanceFileSession(f"{table.uri}/data")
    for name in sorted(_names(fragments)):
        for batch in place.open_reader(name, columns=["uri"]).read_all().to_batches():
            yield from batch.column("uri").unique().to_pylist()


def _places(dataset: Any, object_ids: set[str]) -> dict[int, list[int]]:
    """Return where the rows of these objects lie: fragment -> places in it."""
    rows: dict[int, list[int]] = defaultdict(list)
    for part in any_of("object_id", sorted(object_ids)):
        for batch in dataset.scanner(columns=[], filter=part, with_row_address=True).to_batches():
            for address in batch.column("_rowaddr").to_pylist():
                rows[address >> _ROW_BITS].append(address & ((1 << _ROW_BITS) - 1))
    return rows


def _without(fragment: Any, places: list[int] | None) -> FragmentMetadata:
    """Return a fragment without some of its rows, uncommitted."""
    if not places:
        return _metadata(fragment)
    left: FragmentMetadata | None = fragment.delete_rows(places)
    if left is not None:
        return left
    gone = _metadata(fragment).to_json()
    gone["deletion_file"] = {
        "read_version": 0,
        "id": 0,
        "file_type": "array",
        "num_deleted_rows": gone["physical_rows"],
        "base_id": None,
    }
    return FragmentMetadata.from_json(json.dumps(gone))


def _metadata(fragment: Any) -> FragmentMetadata:
    metadata: FragmentMetadata = fragment.metadata
    return metadata


def _unnumbered(fragment: FragmentMetadata) -> FragmentMetadata:
    return replace(fragment, id=0)


def _with_facts(dataset: Any, facts: dict[bytes, bytes], fields: list[bytes] | None = None) -> LanceSchema:
    """Return the table's schema, or `fields`, with more metadata, through the door by which Lance's schemas pickle."""
    rebuild, (_, *present) = dataset.lance_schema.__reduce__()
    metadata = {**(dataset.schema.metadata or {}), **facts}
    # metadata: text -> its bytes as a list of numbers
    schema: LanceSchema = rebuild(
        json.dumps({key.decode(): list(value) for key, value in metadata.items()}), *(fields or present)
    )
    return schema
