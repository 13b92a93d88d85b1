from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.errors import Mismatch, NotFound
from raycluster.lake.commit import Change, commit
from raycluster.lake.write import Sink, count_rows


def stored(writer) -> list[str]:
    return sorted(str(path) for path in Path(writer.table.uri, "data").rglob("*") if path.is_file())


def test_what_is_written_is_invisible_until_committed(anywhere):
    anywhere.put(["a"])
    version = anywhere.table.version()
    fragments = anywhere.write(["b", "c"])
    assert count_rows(fragments) == 4
    assert anywhere.ids() == anywhere.ids_of(["a"])
    assert anywhere.table.version() == version
    assert [row["uri"] for batch in anywhere.table.known() for row in batch.to_pylist()] == ["a"]


def test_what_is_read_is_what_was_written(anywhere):
    anywhere.put(["a", "b", "c"])
    rows = anywhere.rows(["a", "b", "c"])
    names = [name for name in rows.schema.names if name != "thumbnail"]
    found = anywhere.table.open().to_table(columns=names)
    assert found.to_pylist() == rows.select(names).to_pylist()


def test_a_sink_travels_and_tells_the_columns(writer):
    sink = pickle.loads(pickle.dumps(writer.table.create_or_check(writer.schema())))
    assert sink.schema.field("thumbnail").type == pa.binary()
    assert sink.schema.field("vector").type == pa.list_(pa.float32(), writer.width)
    assert len(pickle.dumps(sink)) < 20_000


def test_nothing_to_write(writer):
    sink = writer.table.create_or_check(writer.schema())
    assert sink.write(iter([])) == []
    assert sink.write(iter([writer.rows([])])) == []


def test_the_iterators_own_error_comes_out_and_leaves_nothing(writer):
    sink = writer.table.create_or_check(writer.schema())

    def breaks():
        yield writer.rows(["a"])
        yield writer.rows(["b"])
        raise KeyError("the decoder's own")

    with pytest.raises(KeyError, match="the decoder's own"):
        sink.write(breaks())
    assert stored(writer) == []


def test_rows_that_do_not_fit_are_refused(writer):
    sink = writer.table.create_or_check(writer.schema())
    rows = writer.rows(["a"])
    wide = pa.array([[0.0] * 99] * rows.num_rows, pa.list_(pa.float32(), 99))
    with pytest.raises(Mismatch, match="column 'vector': wanted fixed_size_list"):
        sink.write(iter([rows.set_column(rows.schema.get_field_index("vector"), "vector", wide)]))
    with pytest.raises(Mismatch, match="column 'object_id': 2 of 2 rows have no value"):
        sink.write(iter([rows.drop_columns(["object_id"])]))
    assert writer.ids() == []


def test_a_dataset_that_has_gone(writer, tmp_path):
    with pytest.raises(NotFound):
        Sink(str(tmp_path / "nowhere.lance"), writer.schema()).write(iter([writer.rows(["a"])]))


def test_features_are_matched_by_name(writer):
    sink = writer.table.create_or_check(writer.schema())
    kind = sink.schema.field("features").type
    names = [field.name for field in kind if pa.types.is_int32(field.type)][:2]
    rows = writer.rows(["a"])
    features = pa.array([{names[1]: 7, names[0]: 5}, None], pa.struct([(names[1], pa.int32()), (names[0], pa.int32())]))
    written = sink.write(iter([rows.append_column("features", features)]))
    commit(writer.table, Change(run_id="r", workload="w", fragments=written))
    first, second = writer.table.open().to_table(columns=["features"])["features"].to_pylist()
    assert first == {field.name: {names[0]: 5, names[1]: 7}.get(field.name) for field in kind}
    assert second is None


def test_memory_does_not_grow_with_the_rows(writer):
    """One 100 MB stream of pictures; Python holds a few batches of it at a time."""
    sink = writer.table.create_or_check(writer.schema())
    rows = writer.rows([f"u{index}" for index in range(32)])
    place = rows.schema.get_field_index("thumbnail")
    produced = [0]

    def stream():
        for turn in range(100):
            produced[0] += 1
            pictures = pa.array([bytes([turn]) * 16_000] * rows.num_rows)
            yield rows.set_column(place, "thumbnail", pictures)

    tracemalloc.start()
    before = pa.total_allocated_bytes()
    peak = [0]

    def watched():
        for batch in stream():
            peak[0] = max(peak[0], pa.total_allocated_bytes() - before)
            yield batch

    fragments = sink.write(watched())
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert produced == [100]
    assert count_rows(fragments) == 6400
    assert max(peak[0], python_peak) < 50 << 20


def test_a_million_rows_are_one_file(writer):
    """Lance's own bound on rows falls into a batch, and a batch with nulls cannot be cut there."""
    row = writer.rows(["a"]).slice(0, 1)
    some = pa.Table.from_batches([row.drop_columns(["thumbnail", "vector"])] * 10_000).combine_chunks().to_batches()
    sink = writer.table.create_or_check(writer.schema())
    fragments = sink.write(batch for _ in range(106) for batch in some)
    assert (len(fragments), count_rows(fragments)) == (1, 1_060_000)
