from __future__ import annotations

import threading

import pytest

from raycluster.declare.workload import Index
from raycluster.errors import InvalidUse
from raycluster.lake import index
from raycluster.lake.index import build, partitions

DECLARED = (Index(column="vector", kind="ivf_rq"), Index(column="text", kind="fts"))


def states(made):
    return {(one.column, one.kind): one.state for one in made}


def covered(table):
    dataset = table.open()
    fragments = {one.fragment_id for one in dataset.get_fragments()}
    return {
        one.name
        for one in dataset.describe_indices()
        if set().union(*(segment.fragment_ids for segment in one.segments)) >= fragments
    }


def test_built_then_current_then_updated(copy, writer_of):
    made = build(copy, DECLARED)
    assert states(made) == {
        ("vector", "ivf_rq"): "built",
        ("text", "fts"): "built",
        ("id", "btree"): "built",
        ("object_id", "btree"): "built",
    }
    names = {"vector_ivf_rq", "text_fts", "id_btree", "object_id_btree"}
    assert covered(copy) == names
    assert max(one.version for one in made) == copy.version()
    version = copy.version()
    assert set(states(build(copy, DECLARED)).values()) == {"current"}
    assert copy.version() == version
    writer_of(copy).put(["new"], base=version)
    assert covered(copy) == set()
    assert set(states(build(copy, DECLARED)).values()) == {"updated"}
    assert covered(copy) == names


def test_too_few_vectors_stay_flat_and_say_so(writer):
    writer.put(["a", "b"])
    made = {one.column: one for one in build(writer.table, DECLARED)}
    assert made["vector"].state == "flat"
    assert "from 256 on an index is built" in made["vector"].reason
    assert made["text"].state == "built"
    assert covered(writer.table) == {"text_fts", "id_btree", "object_id_btree"}


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_sq", "ivf_pq", "ivf_hnsw_sq", "ivf_flat"])
def test_the_fewest_vectors_are_enough_for_every_kind(writer, kind):
    rows = 360
    writer.put([f"u{number}" for number in range(rows)], pieces=1)
    vectors = writer.table.count_rows(filter="vector IS NOT NULL")
    assert 256 <= vectors < 300
    made = build(writer.table, (Index(column="vector", kind=kind),))
    assert (made[0].state, made[0].rows) == ("built", vectors)


def test_an_empty_dataset(writer):
    writer.table.create_or_check(writer.schema())
    assert states(build(writer.table, DECLARED))["vector", "ivf_rq"] == "flat"
    writer.put([f"u{number}" for number in range(300)])
    assert states(build(writer.table, DECLARED))["vector", "ivf_rq"] == "built"
    assert len(covered(writer.table)) == 4


def test_scalar_kinds(copy):
    declared = (
        Index(column="modality", kind="bitmap"),
        Index(column="position", kind="btree"),
        Index(column="text", kind="btree"),
        Index(column="text", kind="fts"),
    )
    build(copy, declared)
    assert {"modality_bitmap", "position_btree", "text_btree", "text_fts"} <= covered(copy)
    before = copy.count_rows(filter="modality = 'image' AND position = 1", version=1)
    assert before == 0
    plain = sum(
        row["modality"] == "image" and row["position"] == 1
        for row in copy.open().to_table(columns=["modality", "position"]).to_pylist()
    )
    assert copy.count_rows(filter="modality = 'image' AND position = 1") == plain > 0


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Index(column="vectr", kind="ivf_rq"), "there is no column 'vectr'"),
        (Index(column="text", kind="ivf_rq"), "needs a vector; column 'text' is string"),
        (Index(column="vector", kind="fts"), "needs text; column 'vector'"),
        (Index(column="position", kind="fts"), "needs text; column 'position' is int32"),
        (Index(column="vector", kind="btree"), "needs a scalar; column 'vector'"),
        (Index(column="features", kind="bitmap"), "needs a scalar; column 'features'"),
        (Index(column="thumbnail", kind="btree"), "needs a scalar; column 'thumbnail' is pictures"),
    ],
)
def test_a_column_that_a_kind_cannot_index(copy, declared, message):
    version = copy.version()
    with pytest.raises(InvalidUse) as caught:
        build(copy, (*DECLARED, declared))
    assert message in str(caught.value)
    assert copy.version() == version


def test_indexing_beside_a_committing_driver(copy, writer_of):
    """Each refuses the other's stale step; both get there."""
    errors = []
    done = threading.Event()

    def ingest():
        try:
            for number in range(15):
                writer_of(copy).put([f"beside/{number}"])
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)
        done.set()

    thread = threading.Thread(target=ingest)
    thread.start()
    while not done.is_set():
        build(copy, DECLARED)
    thread.join()
    build(copy, DECLARED)
    assert errors == []
    assert copy.count_rows() == 1230
    assert len(covered(copy)) == 4


def test_segments_are_joined_before_they_are_many(copy, writer_of, monkeypatch):
    monkeypatch.setattr(index, "_MOST_SEGMENTS", 3)
    build(copy, DECLARED)
    most = 0
    for number in range(7):
        writer_of(copy).put([f"more/{number}"], base=copy.version(), seed=number)
        build(copy, DECLARED)
        most = max(most, *(len(one.segments) for one in copy.open().describe_indices()))
        assert len(covered(copy)) == 4
    assert 1 < most <= 3


def test_an_index_that_became_too_coarse_is_trained_anew(writer, monkeypatch):
    monkeypatch.setattr(index, "_PARTITION_VECTORS", 1000)

    def parts():
        return [one["num_partitions"] for one in writer.table.open().stats.index_stats("vector_ivf_rq")["indices"]]

    writer.put([f"a/{number}" for number in range(400)])
    build(writer.table, DECLARED)
    assert parts() == [1]
    writer.put([f"b/{number}" for number in range(4000)], seed=1)
    made = build(writer.table, DECLARED)
    assert states(made)["vector", "ivf_rq"] == "updated"
    assert parts() == [partitions(made[0].rows)]
    assert partitions(made[0].rows) > 4
    assert len(covered(writer.table)) == 4


@pytest.mark.parametrize(("vectors", "parts"), [(256, 1), (7999, 1), (100_000, 25), (10**9, 8192)])
def test_partitions_grow_with_the_vectors(vectors, parts):
    assert partitions(vectors) == parts


def test_parts_of_a_vector_divide_it():
    assert [index._sub_vectors(width) for width in (384, 1280, 512, 16, 8, 7)] == [48, 160, 64, 2, 1, 1]
