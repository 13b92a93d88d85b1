"""Recall and coverage are measured on real indexes: a good one, a bad one, part of a large one, and none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raycluster.declare.workload import Index
from raycluster.lake import probe, query
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


def test_part_of_the_rows_tells_of_all(copy, monkeypatch):
    """The index is as coarse as before: had it to search among those rows only, it would find them all."""
    monkeypatch.setattr(probe, "_BLOCK", 20)
    coarse = {"num_partitions": 1, "num_sub_vectors": 2, "num_bits": 4}
    copy.open().create_index("vector", "IVF_PQ", metric="cosine", name="vector_ivf_pq", **coarse)
    copy.set_live(copy.version())
    asked = []
    search = query.search
    monkeypatch.setattr(query, "search", lambda table, question: (asked.append(question), search(table, question))[1])
    whole = np.mean([recall(copy, seed=seed) for seed in range(3)])
    few = len(asked)
    part = np.mean([recall(copy, most_rows=200, seed=seed) for seed in range(3)])
    assert len(asked) - few > 3 * few  # more questions, where each sees less
    assert {question.filter for question in asked} == {None}
    assert abs(part - whole) < 0.12


def test_where_much_is_missed_it_is_somewhat_lower_than_recall_at_ten(copy):
    """A search whose last hit is far off should have found all that is nearer, not ten rows only."""
    coarse = {"num_partitions": 1, "num_sub_vectors": 2, "num_bits": 4}
    copy.open().create_index("vector", "IVF_PQ", metric="cosine", name="vector_ivf_pq", **coarse)
    copy.set_live(copy.version())
    rows = copy.open("live").to_table(columns=["id", "vector"]).drop_null()
    vectors = np.array(rows["vector"].to_pylist(), np.float32)
    shares = []
    for one, key in enumerate(rows["id"].to_pylist()[:100]):
        cosines = vectors @ vectors[one]
        true = {rows["id"][int(at)].as_py() for at in np.argsort(-cosines)[:11]} - {key}
        found = query.search(copy, query.Question(k=11, columns=("id",), vector=vectors[one].tolist())).hits
        shares.append(len(true & {hit["id"] for hit in found}) / 10)
    told = np.mean([recall(copy, seed=seed) for seed in range(3)])
    assert np.mean(shares) - 0.25 < told < np.mean(shares) + 0.05


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
