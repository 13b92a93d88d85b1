"""New columns of old rows: all at once or not at all, whatever happens to the fragments meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raycluster.declare.workload import Index
from raycluster.errors import CommitConflict, Mismatch, TakenOver
from raycluster.lake.commit import Change, commit
from raycluster.lake.generation import (
    Filled,
    Generation,
    Maker,
    Part,
    Writer,
    finished,
    keys,
    makers,
    physical_rows,
    rows,
)
from raycluster.lake.index import build
from raycluster.lake.table import Table

MARK = pa.schema([("mark", pa.string()), ("pair", pa.struct([("one", pa.int32()), ("two", pa.list_(pa.string()))]))])
NARROW = pa.schema([("vector", pa.list_(pa.float32(), 8))])


def generation(columns: pa.Schema = MARK, *, digest: str = "1", count: int = 1) -> Generation:
    maker = Maker(name="marking", digest=digest, revision="m@1", columns=tuple(columns.names))
    return Generation(workload="w", columns=columns, makers=(maker,), digest=digest, rows=count)


def values(old: pa.RecordBatch, columns: pa.Schema) -> pa.RecordBatch:
    """Make values that tell the row they belong to."""
    ids = old.column("id").to_pylist()
    made = {
        "mark": pa.array([f"of {one}" for one in ids]),
        "pair": pa.array([{"one": len(one), "two": [one]} for one in ids], MARK.field("pair").type),
        "vector": pa.array([[float(int(one[:4], 16))] * 8 for one in ids], NARROW.field("vector").type),
    }
    return pa.RecordBatch.from_arrays([made[name] for name in columns.names], schema=columns)


def write(table: Table, made: Generation, *, only: int | None = None) -> dict[str, Part]:
    """Write the files that a table lacks, or the first `only` of them."""
    version, wanted = keys(table, made)
    parts = finished(table, wanted.values())
    left = [(fragment, key) for fragment, key in wanted.items() if key not in parts]
    for fragment, key in left[:only]:
        writer = Writer(table.uri, key, made.columns)
        for batch in rows(table.uri, version, fragment, {"id": "id"}):
            writer.add(values(batch, made.columns), batch.column("_place").to_pylist())
        parts[key] = writer.close(physical_rows(table.uri, version, fragment), filled=1, bad=[])
    return parts


def land(table: Table, made: Generation, parts: dict[str, Part], **change: Any) -> int:
    filled = Filled(generation=made, parts=parts)
    return commit(table, Change(run_id="r", workload="w", filled=filled, **change)).version


def require_right(table: Table, columns: pa.Schema, version: int | None = None) -> None:
    found = table.open(version).to_table(columns=["id", *columns.names]).combine_chunks().to_batches()[0]
    assert found.select(columns.names).equals(values(found, columns))


@pytest.fixture
def table(anywhere: Any) -> Table:
    """Two fragments of 60 rows, one of them with deleted rows: the first, the last, and one between."""
    for half in range(2):
        anywhere.put([f"f/{half}/{index}" for index in range(30)], seed=half)
    made: Table = anywhere.table
    made.open().delete("uri IN ('f/1/0', 'f/1/7', 'f/1/29')")
    return made


def test_columns_join_all_rows_in_one_step_and_nothing_else_is_written(table: Table) -> None:
    before = {str(one.path) for each in table.open().get_fragments() for one in each.metadata.files}
    base, ids = table.version(), table.open().to_table(columns=["id"])
    parts = write(table, generation())
    assert (table.version(), "mark" in table.schema().names) == (base, False)
    assert land(table, generation(), parts) == base + 1
    require_right(table, MARK)
    table.open().validate()
    assert table.open().to_table(columns=["id"]).equals(ids)
    now = {str(one.path) for each in table.open().get_fragments() for one in each.metadata.files}
    assert now - before == {part.name for part in parts.values()}
    assert before < now
    assert makers(table)["w"] == list(generation().makers)


def test_landing_twice_changes_nothing(table: Table) -> None:
    parts = write(table, generation())
    assert land(table, generation(), parts) == land(table, generation(), parts)


def test_a_fragment_without_its_file_holds_up_all(table: Table) -> None:
    base = table.version()
    with pytest.raises(CommitConflict):
        land(table, generation(), write(table, generation(), only=1))
    assert table.version() == base


def test_rows_that_come_meanwhile_hold_it_up_until_they_have_the_columns(anywhere: Any, table: Table) -> None:
    parts = write(table, generation())
    anywhere.put(["late/1", "late/2"])
    with pytest.raises(CommitConflict):
        land(table, generation(), parts)
    more = write(table, generation())
    assert len(more.keys() - parts.keys()) == 1
    land(table, generation(), more)
    require_right(table, MARK)


def test_rows_deleted_meanwhile_stay_deleted(table: Table) -> None:
    parts = write(table, generation())
    table.open().delete("uri = 'f/0/3'")
    count = table.count_rows()
    land(table, generation(), parts)
    assert table.count_rows() == count
    require_right(table, MARK)


def test_what_a_dead_writer_left_is_not_taken_for_finished(table: Table) -> None:
    version, wanted = keys(table, generation())
    fragment, key = next(iter(wanted.items()))
    writer = Writer(table.uri, key, MARK)
    for batch in rows(table.uri, version, fragment, {"id": "id"}):
        writer.add(values(batch, MARK), batch.column("_place").to_pylist())
    assert finished(table, wanted.values()) == {}
    silent = Writer(table.uri, key, MARK)  # complete as a file, but without its last words
    silent.add(values(batch, MARK), batch.column("_place").to_pylist())
    silent._file.close()
    assert finished(table, wanted.values()) == {}
    part = writer.close(physical_rows(table.uri, version, fragment), filled=60, bad=[])
    assert finished(table, wanted.values()) == {key: replace(part, size=0)}


def test_files_with_rows_that_may_pass_by_themselves_are_made_again(table: Table) -> None:
    _, wanted = keys(table, generation())
    key = next(iter(wanted.values()))
    bad = {"object_id": "o", "code": "unreadable", "passes": True}
    Writer(table.uri, key, MARK).close(60, filled=0, bad=[bad])
    assert finished(table, wanted.values()) == {}
    Writer(table.uri, key, MARK).close(60, filled=0, bad=[bad | {"passes": False}])
    assert finished(table, wanted.values()).keys() == {key}


def test_compaction_while_columns_are_computed_costs_work_never_values(table: Table) -> None:
    parts = write(table, generation(), only=1)
    table.open().optimize.compact_files()
    _, wanted = keys(table, generation())
    assert not wanted.keys() & parts.keys()
    assert finished(table, wanted.values()) == {}
    land(table, generation(), write(table, generation()))
    require_right(table, MARK)
    table.open().optimize.compact_files()
    require_right(table, MARK)
    table.open().validate()


def test_another_generation_takes_the_place_and_the_index_of_the_one_before(copy: Table) -> None:
    index = [Index(column="vector", kind="ivf_flat")]
    build(copy, index)
    live = copy.set_live(copy.version())
    before = copy.open(live).to_table(columns=["vector"])
    second = generation(NARROW, digest="2")
    land(copy, second, write(copy, second))
    assert [one.name for one in copy.open().describe_indices()] == ["id_btree", "object_id_btree"]
    assert build(copy, index)[0].rows == copy.count_rows()
    require_right(copy, NARROW)
    query = {"column": "vector", "q": np.ones(16, np.float32), "k": 3}
    assert copy.open("live").to_table(columns=["id"], nearest=query).num_rows == 3
    assert copy.open(live).to_table(columns=["vector"]).equals(before)
    third = generation(NARROW, digest="3")
    land(copy, third, write(copy, third))
    files = [len(each.metadata.files) for each in copy.open().get_fragments()]
    assert files == [2, 2]  # that of the second is in no version any more that holds the third
    copy.open().validate()


def test_rolled_back_and_redone_it_is_there_again_without_work(table: Table) -> None:
    before = table.version()
    land(table, generation(), write(table, generation()))
    table.open(before).restore()
    assert "mark" not in table.schema().names
    assert makers(table) == {}
    land(table, generation(), write(table, generation(), only=0))
    require_right(table, MARK)


def test_rows_written_for_a_column_that_has_made_way_since_are_refused(writer: Any) -> None:
    writer.put(["one"])
    late = writer.write(["two"])
    made = generation(NARROW)
    land(writer.table, made, write(writer.table, made))
    with pytest.raises(Mismatch, match="replaced while this run wrote"):
        commit(writer.table, Change(run_id="late", workload="other", fragments=late))
    assert writer.table.count_rows() == 2


def test_a_run_that_was_taken_over_lands_nothing(table: Table) -> None:
    parts = write(table, generation())
    commit(table, Change(run_id="other", workload="w", fence="take"))
    base = table.version()
    with pytest.raises(TakenOver):
        land(table, generation(), parts, fence="hold")
    assert table.version() == base


def test_without_rows_of_its_own_a_workload_only_adds_columns(table: Table) -> None:
    land(table, generation(count=0), {})
    assert set(table.open().to_table(columns=["mark"])["mark"].to_pylist()) == {None}
    table.open().validate()


@pytest.fixture
def empty(writer: Any) -> Table:
    writer.write(["one"])  # a fragment that nobody commits
    return writer.table


def test_an_empty_dataset_gets_columns_too(empty: Table) -> None:
    land(empty, generation(count=0), {})
    assert set(MARK.names) < set(empty.schema().names)
