"""What a source lists and what is known become what is to be done: two streams of any length, joined on disk.

Under `plan.py`. DuckDB does it, in a file that is gone when the comparison is made: memory stays the same however
many objects there are. What comes out is mapped from files that have no name any more; the disk gives their space
back with the last reference to them, also when the process is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from raycluster.errors import RayclusterError
from raycluster.row import OBJECT, object_id

# What a dataset and its quarantine know of an object, one row at least. `settled`: it is done, under this very
# declaration; `bad`: some row of it is in quarantine; `again`: one that a replay is to try again; `outdated`: it was
# done by a decoder that is now declared otherwise.
KNOWN = pa.schema(
    [
        ("uri", pa.string()),
        ("object_id", pa.string()),
        ("modality", pa.string()),
        ("workload", pa.string()),
        ("settled", pa.bool_()),
        ("bad", pa.bool_()),
        ("again", pa.bool_()),
        ("outdated", pa.bool_()),
    ]
)
# What is to be done. `replaces`: the ids whose rows in the dataset and the quarantine this object's rows replace: those
# of its older versions, and its own where it is worked on again. `is_change`: some version of it was done before.
TODO = pa.schema(
    [
        *OBJECT,
        pa.field("object_id", pa.string(), nullable=False),
        ("replaces", pa.list_(pa.string())),
        ("is_change", pa.bool_()),
    ]
)
# Where an object of a fragment lies. An object may lie in several fragments, or be named twice.
LOCATED = pa.schema([pa.field("fragment", pa.int64()), *OBJECT, pa.field("object_id", pa.string(), nullable=False)])
UNREAD = "unread"  # the modality of what nobody has looked at

_MEMORY = "384MB"  # what does not fit is spilled; 2 x 10^6 changed objects pass in 128 MB too. Python and Arrow add 250
_THREADS = 4  # DuckDB wants about 100 MB each
_INSERTED_ROWS = 122_880  # DuckDB's row group: what it compresses at once
_READ_ROWS = 65_536
_ASKED_ROWS = 65_536  # of the listing at once: tens of MB with what they replace

_IDS = pa.schema([("object_id", pa.string())])
_LISTED = pa.schema([*TODO][: len(OBJECT) + 1]).append(pa.field("place", pa.int64()))

# One step joins two tables, groups or sorts one, and never more: side by side such operators do not share memory, and
# fail where each alone would spill (three joins over 10^6 objects in 384 MB, duckdb 2.0.0).
_STEPS = f"""
    -- Every uri that is known. A video's sound track is known by the video.
    CREATE TABLE facts AS
    SELECT uri,
           CASE WHEN bool_or(modality = 'video') THEN 'video' ELSE coalesce(min(modality), '{UNREAD}') END AS modality,
           bool_or(settled) AS settled, $replay AND bool_or(again) AS again, bool_or(workload = $workload) AS is_own
    FROM known GROUP BY uri;

    -- Every version of it that is known. What decodes a video decodes its sound track.
    CREATE TABLE same AS
    SELECT object_id, bool_or(bad) AS bad,
           CASE WHEN bool_or(modality = 'video') THEN bool_or(outdated AND modality = 'video')
                ELSE bool_or(outdated) END AS is_outdated,
           bool_or(settled) AND NOT is_outdated AS settled
    FROM known GROUP BY object_id;

    -- What is listed twice counts where it comes first.
    CREATE TABLE once AS SELECT min(place) AS place FROM listed GROUP BY uri;

    CREATE TABLE by_uri AS SELECT place, settled, again, modality FROM listed JOIN facts USING (uri);

    CREATE TABLE by_id AS SELECT place, settled, bad, is_outdated FROM listed JOIN same USING (object_id);

    CREATE TABLE verdicts AS
    SELECT place, max(size) AS size,
           CASE WHEN bool_or(is_settled) AND bool_or(again) IS NOT TRUE THEN 'done'
                WHEN bool_or(was_settled) THEN 'changed' ELSE 'new' END AS state,
           CASE WHEN state = 'done' THEN max(modality) ELSE '{UNREAD}' END AS modality,
           state = 'done' AND bool_or(bad) AS is_known_bad,
           CASE WHEN state <> 'done' AND bool_or(is_outdated) THEN max(modality) END AS outdated
    FROM (
        SELECT place, true AS is_first FROM once
        UNION ALL BY NAME SELECT place, size FROM listed
        UNION ALL BY NAME SELECT place, settled AS was_settled, again, modality FROM by_uri
        UNION ALL BY NAME SELECT place, settled AS is_settled, bad, is_outdated FROM by_id
    )
    GROUP BY place HAVING bool_or(is_first) AND (NOT $replay OR bool_or(again) OR bool_or(is_settled));

    CREATE TABLE judged AS SELECT * FROM verdicts ORDER BY place;

    CREATE TABLE wanted AS
    SELECT place, uri FROM listed SEMI JOIN (FROM judged WHERE state <> 'done') AS judged USING (place);

    CREATE TABLE pairs AS SELECT place, known.object_id FROM known JOIN wanted USING (uri);

    CREATE TABLE older AS SELECT * FROM pairs ORDER BY place;

    -- Of what is done under its present version, the older ones in quarantine: a run died before it cleared them away.
    CREATE TABLE suspects AS
    SELECT place, known.object_id FROM known JOIN listed USING (uri) WHERE bad AND known.object_id <> listed.object_id;

    CREATE TABLE superseded AS
    SELECT object_id FROM suspects SEMI JOIN (FROM judged WHERE state = 'done') AS judged USING (place);

    CREATE TABLE stale AS SELECT DISTINCT object_id FROM superseded;

    CREATE TABLE gone AS
    SELECT uri, modality FROM facts ANTI JOIN listed USING (uri) WHERE is_own AND NOT $replay;

    CREATE TABLE departed AS SELECT object_id FROM known SEMI JOIN gone USING (uri);

    CREATE TABLE vanished AS SELECT DISTINCT object_id FROM departed;
"""
_COUNTS = """
    SELECT state, modality, count(*), sum(size)::BIGINT FROM judged GROUP BY ALL
    UNION ALL SELECT 'vanished', modality, count(*), 0 FROM gone GROUP BY ALL ORDER BY ALL
"""
_OUTDATED = "SELECT outdated, count(*) FROM judged WHERE outdated IS NOT NULL GROUP BY ALL ORDER BY ALL"
# All three lie in the order of the listing, so that little more than the part that is asked for is read.
_TODO = """
    SELECT uri, version, listed.size, locator, listed.object_id, coalesce(ids, []), state = 'changed'
    FROM (FROM listed WHERE place >= $start AND place < $stop) AS listed
    JOIN (FROM judged WHERE place >= $start AND place < $stop AND state <> 'done') AS judged USING (place)
    LEFT JOIN (
        SELECT place, list(DISTINCT object_id ORDER BY object_id) AS ids
        FROM older WHERE place >= $start AND place < $stop GROUP BY place
    ) AS older USING (place)
    ORDER BY place
"""
_LOCATE = """
    CREATE TABLE pairs AS
    SELECT fragment, uri, version, size, locator, held.object_id FROM held JOIN listed USING (object_id);

    CREATE TABLE located AS SELECT * FROM pairs ORDER BY fragment;
"""
_STALE = "SELECT object_id FROM stale ORDER BY object_id"
_VANISHED = "SELECT object_id FROM vanished ORDER BY object_id"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out. Tables are mapped from disk: slices and batches of them are read when they are used."""

    counts: list[tuple[str, str, int, int]]  # state, modality, objects, bytes
    todo: pa.Table  # schema TODO, in the order of the listing
    vanished: pa.ChunkedArray  # ids of objects that the source no longer lists
    stale: pa.ChunkedArray  # ids of older versions, still in quarantine, of objects that are done
    known_bad: int  # listed objects that are done and have rows in quarantine
    outdated: dict[str, int]  # modality -> objects to be done again, since what decodes them has changed


def compare(
    listed: Iterable[pa.RecordBatch], known: Iterable[pa.RecordBatch], *, workload: str, replay: bool = False
) -> Comparison:
    """Compare what is listed (schema `row.OBJECT`) with what is known (schema KNOWN).

    Args:
        listed: what the source has.
        known: what the dataset and its quarantine have.
        workload: only what it brought can vanish.
        replay: what is to be tried `again` is to be done, whatever else is known of it; what is done counts as such,
            and the rest is left out: a replay brings nothing new.

    Raises:
        RayclusterError: the disk for temporary files is full.
    """
    with TemporaryDirectory(prefix="raycluster-plan-") as folder, _Scratch(folder) as scratch:
        scratch.fill("known", KNOWN, known)
        rows = scratch.fill("listed", _LISTED, _placed(listed))
        for step in _STEPS.split(";\n")[:-1]:
            scratch.run(step, workload=workload, replay=replay)
        parts = ({"start": start, "stop": start + _ASKED_ROWS} for start in range(0, rows, _ASKED_ROWS))
        ((known_bad,),) = scratch.ask("SELECT count(*) FROM judged WHERE is_known_bad")
        return Comparison(
            counts=scratch.ask(_COUNTS),
            todo=scratch.mapped(_TODO, TODO, parts),
            vanished=scratch.mapped(_VANISHED, _IDS, [{}])["object_id"],
            stale=scratch.mapped(_STALE, _IDS, [{}])["object_id"],
            known_bad=known_bad,
            outdated=dict(scratch.ask(_OUTDATED)),
        )


def located(listed: Iterable[pa.RecordBatch], held: Iterable[pa.RecordBatch]) -> pa.Table:
    """Return where the objects lie that fragments hold, fragment by fragment: schema LOCATED, mapped from disk.

    Args:
        listed: what the source has; of schema `row.OBJECT`.
        held: `fragment` and `object_id`; what the source no longer lists is left out.

    Raises:
        RayclusterError: the disk for temporary files is full.
    """
    with TemporaryDirectory(prefix="raycluster-fill-") as folder, _Scratch(folder) as scratch:
        scratch.fill("held", pa.schema([LOCATED.field("fragment"), LOCATED.field("object_id")]), held)
        scratch.fill("listed", _LISTED, _placed(listed))
        for step in _LOCATE.split(";\n")[:-1]:
            scratch.run(step)
        return scratch.mapped("FROM located", LOCATED, [{}])


class _Scratch:
    """A database that spills beyond `_MEMORY`, in a folder that is deleted after it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files = 0

    def __enter__(self) -> _Scratch:
        settings: dict[str, Any] = {
            "memory_limit": _MEMORY,
            "threads": min(_THREADS, os.cpu_count() or 1),
            "temp_directory": self.folder,
            "preserve_insertion_order": False,  # which takes memory; `place` says it where it matters
            "autoinstall_known_extensions": False,
        }
        with self._explained():
            self.database = duckdb.connect(f"{self.folder}/compared.duckdb", config=settings)
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def fill(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Make a table of batches, and return how many rows it has; what the batches raise comes out as it is."""
        self._insert(f"CREATE TABLE {name} AS SELECT * FROM part", schema.empty_table())
        rows = 0
        for part in _gathered(batches, schema):
            self._insert(f"INSERT INTO {name} SELECT * FROM part", part)
            rows += part.num_rows
        return rows

    def _insert(self, statement: str, part: pa.Table) -> None:
        with self._explained():
            self.database.register("part", part)
            self.database.execute(statement)
            self.database.unregister("part")

    def run(self, statement: str, **values: object) -> None:
        """Carry out one statement, with those of the values that it names."""
        with self._explained():
            self.database.execute(statement, {name: value for name, value in values.items() if f"${name}" in statement})

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a small answer."""
        with self._explained():
            return self.database.execute(query).fetchall()

    def mapped(self, query: str, schema: pa.Schema, parts: Iterable[dict[str, int]]) -> pa.Table:
        """Return the answer of all parts as a table mapped from a file of this folder."""
        self.files += 1
        path = f"{self.folder}/{self.files}.arrow"
        with self._explained():
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for values in parts:
                    for batch in self.database.sql(query, params=values).to_arrow_reader(_READ_ROWS):
                        columns = pa.Table.from_batches([batch]).rename_columns(schema.names)
                        writer.write_table(columns.cast(schema))
            return pa.ipc.open_file(pa.memory_map(path)).read_all()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise RayclusterError(
                f"cannot compare the source with what is known, in {self.folder}: {reason}",
                fix="free space there (about 500 bytes an object), or set TMPDIR to a folder on a larger disk",
            ) from error


def _gathered(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield batches together, enough of them to be inserted at once."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(pa.RecordBatch.from_arrays(batch.columns, schema=schema))  # whatever may be null in a source
        rows += batch.num_rows
        if rows >= _INSERTED_ROWS:
            yield pa.Table.from_batches(held, schema)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _placed(listed: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Name each object, and number it in the order of the listing."""
    place = 0
    for batch in listed:
        uris, versions = (batch.column(name).to_pylist() for name in ("uri", "version"))
        names = pa.array([object_id(uri, version) for uri, version in zip(uris, versions, strict=True)], pa.string())
        places = pa.array(range(place, place + batch.num_rows), pa.int64())
        place += batch.num_rows
        yield pa.RecordBatch.from_arrays([*batch.columns, names, places], schema=_LISTED)
