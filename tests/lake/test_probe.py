"""Recall and coverage are measured on real indexes: a good one, a bad one, part of a large one, and none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raycluster.declare.workload import Index
from raycluster.lake import query
from raycluster.lake.commit import Change, commit
from raycluster.lake.index import build
from raycluster.lake.probe import recall, unindexed


def test_without_an_index_search_is_exact(filled):
    assert recall(filled) == 1.0
    assert unindexed(filled) == {}


def test_of_a_good_index_recall_is_high(copy):
    build(copy, [Index(column="vector", kind="ivf_rq"), Index(column="text", kind="fts")])
    copy.set_live(copy.version())
    assert recall(copy) > 0.95
    assert unindexed(copy) == {"vector_ivf_rq": 0, "text_fts": 0, "id_btree": 0, "object_id_btree": 0}


def test_a_search_that_misses_rows_shows(copy):
    """With a byte a vector, what is nearest by its code is often not the nearest."""
    coarse = {"num_partitions": 1, "num_sub_vectors": 2, "num_bits": 4}
    copy.open().create_index("vector", "IVF_PQ", metric="cosine", name="vector_ivf_pq", **coarse)
    copy.set_live(copy.version())
    assert 0.3 < recall(copy) < 0.85


def test_part_of_a_large_dataset_is_looked_at(copy, monkeypatch):
    read = []
    search = query.search

    def note(table, question, **more):
        read.append(question.filter)
        return search(table, question, **more)

    monkeypatch.setattr(query, "search", note)
    assert recall(copy, most_rows=300) == 1.0
    (where,) = set(read)
    assert 200 < copy.count_rows(filter=where) < 400


@pytest.mark.parametrize(("k", "known"), [(3, True), (2000, False)])
def test_too_few_vectors_tell_nothing(filled, k, known):
    assert (recall(filled, k=k) is not None) == known


def test_equal_vectors_are_equally_good(writer):
    """Of a thousand copies of one picture any ten are the nearest."""
    rows = writer.rows([f"u{number}" for number in range(100)], pieces=1)
    same = np.ones((100, writer.width), np.float32) / np.sqrt(writer.width)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(same.ravel()), writer.width)
    rows = rows.set_column(rows.schema.get_field_index("vector"), "vector", vectors)
    fragments = writer.table.create_or_check(writer.schema()).write(iter([rows]))
    writer.table.set_live(commit(writer.table, Change(run_id="r", workload="w", fragments=fragments)).version)
    assert recall(writer.table) == 1.0


def test_rows_that_came_after_the_index_are_counted(copy, writer_of):
    build(copy, [Index(column="vector", kind="ivf_rq")])
    landed = writer_of(copy).put([f"new/{number}" for number in range(10)])
    copy.set_live(landed.version)
    found = unindexed(copy)
    assert (found["vector_ivf_rq"], found["id_btree"]) == (20, 20)
