"""Columns that are computed later become columns of old rows, all at once, and nothing else is rewritten.

A generation is what one declaration of a workload's encoders makes of a column: in Lance, a field number. Workers
write one file more for each fragment, with the new columns only and as many rows as the fragment has ever had. No
reader sees such a file until one `Merge` (`commit.py`) adds them all, and in the same step takes an older column of
the same name out of the table. Older versions keep theirs, with its index: readers see the old generation until
`live` moves, and again when it is moved back.

Invariants.
1. All or nothing: a version holds one generation of a column. The step is refused while any fragment lacks its file.
2. No ledger: a file's name begins with a digest of what it is made of (the encoders, the fragment's own file, the
   numbers of the columns that it reads), so a later run finds what is done by listing. Compaction makes new fragments,
   hence other names: what it touched is computed again, never taken for done.
3. A file is finished when it says so: its last words, in its own metadata, are what was counted and found bad. A
   writer that died left a file without them.
4. Rows deleted since a file was written stay deleted, and rows added since have no file: see 1.

Found by experiment on pylance 14.0.2. A Merge may add fields only with numbers above all that any file of any fragment
has, so numbers are given at the very step. Files named in fragments before their columns are in the schema are read
past, but `validate()` calls them corrupt. All-null columns (`add_columns` of a schema) are filled with real nulls by
compaction, after which nobody can tell what was computed. Hence: no trace in the table until all is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from lance import FragmentMetadata
from lance.file import LanceFileSession
from lance.fragment import DataFile
from lance.schema import LanceSchema

from raycluster.errors import CommitConflict, Mismatch, RunFailed
from raycluster.lake import store
from raycluster.lake.columns import conform
from raycluster.lake.table import Table
from raycluster.lake.write import STORAGE_VERSION

MADE_BY = b"raycluster:made-by:"  # + a workload's name: which encoders have worked on all its rows, as JSON
_LAST_WORDS = "raycluster:filled"
FILL = "fill-"  # how the names of such files begin


@dataclass(frozen=True, kw_only=True)
class Maker:
    """One encoder that has worked on all rows of a workload."""

    name: str
    digest: str
    revision: str
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Columns that a workload's old rows are to get. Encoders are named by their place among the declared ones."""

    workload: str
    columns: pa.Schema  # to be added, or put in the place of those of the same name
    makers: tuple[Maker, ...]  # of all that the workload declares, once this has landed
    due: tuple[int, ...] = ()  # the encoders that work on old rows, in order
    fresh: tuple[int, ...] = ()  # those of them that are new or changed; the others read what these write
    first: tuple[int, ...] = ()  # those of them that this workload never had: their columns may be others' already
    digest: str = ""  # of all that decides a value
    rows: int = 0  # of this workload, when it was planned; with none, columns are only added
    again: frozenset[str] = frozenset()  # ids of rows that an earlier generation could not be computed for
    reasons: tuple[str, ...] = ()  # a line a column, for people


@dataclass(frozen=True, kw_only=True)
class Part:
    """One finished file: the new columns of one fragment."""

    name: str
    size: int
    rows: int
    filled: int = 0  # rows that were computed
    bad: list[dict[str, Any]] = field(default_factory=list)  # as `outlet.Outlet.bad`
    mended: list[str] = field(default_factory=list)  # ids of rows that were bad and are not


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a step adds: the columns of a generation, and the files that hold them, by `key`."""

    generation: Generation
    parts: Mapping[str, Part]

    def facts(self) -> dict[bytes, bytes]:
        """Return what the table is to remember."""
        made = json.dumps([asdict(maker) for maker in self.generation.makers]).encode()
        return {MADE_BY + self.generation.workload.encode(): made}

    def is_in(self, dataset: Any) -> bool:
        """Tell whether the step has landed."""
        facts, types = dataset.schema.metadata or {}, {one.name: one.type for one in dataset.schema}
        is_known = all(facts.get(key) == fact for key, fact in self.facts().items())
        return is_known and all(types.get(one.name) == one.type for one in self.generation.columns)

    def into(self, dataset: Any, fragments: list[FragmentMetadata]) -> tuple[list[FragmentMetadata], list[bytes]]:
        """Return the fragments with the files and the table's fields with the columns.

        Raises:
            CommitConflict: a fragment has no file yet.
        """
        new = _fields(self.generation.columns, first=dataset.max_field_id + 1)
        fields = _merged(dataset.lance_schema, new)
        known = set(_ids(LanceSchema._from_protos("{}", *fields).fields()))
        leaves = list(_leaves(new.fields()[dataset.max_field_id + 1 :]))
        grown = []
        for fragment in fragments:
            part = self.parts.get(key(self.generation, dataset, fragment))
            if part is None and self.generation.rows:
                raise CommitConflict("others added rows while columns were computed", fix="run it again")
            files = [one for one in fragment.files if known & set(one.fields)]
            grown.append(replace(fragment, files=[*files, *([_file(part, leaves)] if part else [])]))
        return grown, fields


def require_columns(dataset: Any, fragments: Iterable[FragmentMetadata]) -> None:
    """Check that new rows have no column that has made way for another generation of it since they were written.

    Raises:
        Mismatch: they do; values in it would be lost without a word.
    """
    known = set(_ids(dataset.lance_schema.fields()))
    if any(set(one.fields) - known for fragment in fragments for one in fragment.files):
        raise Mismatch("columns of the dataset were replaced while this run wrote rows for it", fix="run it again")


def makers(table: Table, version: int | str | None = None) -> dict[str, list[Maker]]:
    """Return, for each workload, which encoders made the columns of its rows: name, digest, revision, columns.

    A row's `provenance` says what made it at first; this says what its columns are made of now.
    """
    facts = table.open(version).schema.metadata or {}
    found = {key.removeprefix(MADE_BY).decode(): fact for key, fact in facts.items() if key.startswith(MADE_BY)}
    return {
        workload: [Maker(**{**one, "columns": tuple(one["columns"])}) for one in json.loads(fact)]
        for workload, fact in found.items()
    }


def key(generation: Generation, dataset: Any, fragment: FragmentMetadata) -> str:
    """Return how the names of files begin that hold this generation of a fragment."""
    ids = {one.name(): one.id() for one in dataset.lance_schema.fields()}
    read = [(name, ids.get(name)) for name in ("text", *generation.columns.names)]
    whole = [generation.digest, str(generation.columns), read, str(fragment.files[0].path), fragment.physical_rows]
    return f"{FILL}{hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]}"


def keys(table: Table, generation: Generation) -> tuple[int, dict[int, str]]:
    """Return the latest version, and the key of each of its fragments."""
    dataset = table.open()
    return int(dataset.version), {
        one.fragment_id: key(generation, dataset, one.metadata) for one in dataset.get_fragments()
    }


def finished(table: Table, keys: Iterable[str]) -> dict[str, Part]:
    """Return the finished files that earlier runs left, by key; not those where trying again may help."""
    wanted, found = set(keys), dict[str, Part]()
    with store.explained(table.uri):
        place = LanceFileSession(f"{table.uri}/data")
        for name in place.list():
            if name.rpartition("-")[0] in wanted and (part := _part(place, name)):
                found[name.rpartition("-")[0]] = part
    return found


def _part(place: LanceFileSession, name: str) -> Part | None:
    try:
        words = (place.open_reader(name).metadata().schema.metadata or {}).get(_LAST_WORDS.encode())
    except (OSError, ValueError, RuntimeError):  # its writer died
        return None
    part = Part(**json.loads(words) | {"name": name}) if words else None
    return None if part is None or any(one["passes"] for one in part.bad) else part


def rows(uri: str, version: int, fragment: int, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield a fragment's rows that are not deleted, with their places in it as `_place`."""
    with store.explained(uri):
        dataset = store.open_dataset(uri, version)
        scanner = dataset.get_fragment(fragment).scanner(columns=dict(columns), with_row_address=True, batch_size=1024)
        for batch in scanner.to_batches():
            # the lower 32 bits of a row's address
            places = batch.column("_rowaddr").to_numpy() & 0xFFFFFFFF
            yield batch.drop_columns(["_rowaddr"]).append_column("_place", pa.array(places.astype(np.int64)))


def physical_rows(uri: str, version: int, fragment: int) -> int:
    """Return how many rows a fragment has had, deleted ones included."""
    return int(store.open_dataset(uri, version).get_fragment(fragment).physical_rows)


class Writer:
    """Writes one file of a generation: rows at their places, null at those of deleted rows."""

    def __init__(self, uri: str, key: str, columns: pa.Schema) -> None:
        self.name = f"{key}-{uuid4().hex}.lance"
        self.columns = columns
        self.rows = 0
        self._file = LanceFileSession(f"{uri}/data").open_writer(self.name, schema=columns, version=STORAGE_VERSION)

    def add(self, batch: pa.RecordBatch, places: Sequence[int]) -> None:
        """Write rows at ascending places, after those written so far."""
        # indices: (place from here on) int64, masked where a row is deleted
        at = np.asarray(places, np.int64) - self.rows
        indices, gaps = np.zeros(at[-1] + 1, np.int64), np.ones(at[-1] + 1, bool)
        indices[at], gaps[at] = np.arange(len(at)), False
        self._file.write_batch(conform(batch.take(pa.array(indices, mask=gaps)), self.columns))
        self.rows += len(indices)

    def close(self, rows: int, **counted: Any) -> Part:
        """Fill up to `rows` and write the last words, the rest of a Part."""
        if rows > self.rows:
            nothing = pa.RecordBatch.from_arrays(
                [pa.nulls(rows - self.rows, one.type) for one in self.columns], schema=self.columns
            )
            self._file.write_batch(nothing)
            self.rows = rows
        if rows < self.rows:
            raise RunFailed(f"{self.name} has {self.rows} rows, its fragment {rows}", fix="run it again")
        part = Part(name=self.name, size=0, rows=rows, **counted)
        self._file.add_schema_metadata(_LAST_WORDS, json.dumps(asdict(part)))
        self._file.close()
        return replace(part, size=int(self._file.size_bytes or 0))


def _file(part: Part, leaves: list[int]) -> DataFile:
    major, minor = map(int, STORAGE_VERSION.split("."))
    return DataFile(part.name, leaves, list(range(len(leaves))), major, minor, part.size or None)


def _fields(columns: pa.Schema, first: int) -> LanceSchema:
    """Return a schema whose last fields are `columns`, numbered from `first` on: Lance numbers fields in order."""
    return LanceSchema.from_pyarrow(pa.schema([*(pa.field(f"_{n}", pa.int8()) for n in range(first)), *columns]))


def _merged(schema: LanceSchema, new: LanceSchema) -> list[bytes]:
    """Return the fields of `schema`, each replaced by that of the same name in `new`, then the others of `new`."""
    added = {name: protos for name, protos in _protos(new).items() if not name.startswith("_")}
    return [proto for protos in (_protos(schema) | added).values() for proto in protos]


def _protos(schema: LanceSchema) -> dict[str, list[bytes]]:
    """Return a schema's columns as Lance stores them: each a field and those inside it."""
    pickled: Any = schema.__reduce__()
    left = iter(pickled[1][1:])
    return {one.name(): [next(left) for _ in _ids([one])] for one in schema.fields()}


def _ids(fields: Iterable[Any]) -> Iterator[int]:
    for one in fields:
        yield one.id()
        yield from _ids(one.children())


def _leaves(fields: Iterable[Any]) -> Iterator[int]:
    """Yield the numbers of the fields that a file stores: those with nothing inside them."""
    for one in fields:
        inner = one.children()
        yield from _leaves(inner) if inner else (one.id(),)
