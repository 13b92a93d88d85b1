from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raycluster.declare.workload import Index
from raycluster.errors import InvalidUse, NotFound, TooLarge
from raycluster.lake import index, query
from raycluster.lake.query import ANSWER, Page, Question, search
from raycluster.row import object_id, row_id

BOTH = (Index(column="vector", kind="ivf_rq"), Index(column="text", kind="fts"))

# Each SQL filter beside the same condition in Python, on a row as a dictionary; null is false, as in SQL.
Row = dict[str, Any]
FILTERS: dict[str, Callable[[Row], bool]] = {
    "modality = 'image'": lambda row: row["modality"] == "image",
    "modality != 'image'": lambda row: row["modality"] != "image",
    "start_seconds > 100": lambda row: row["start_seconds"] is not None and row["start_seconds"] > 100,
    "NOT (start_seconds > 100)": lambda row: row["start_seconds"] is not None and row["start_seconds"] <= 100,
    "start_seconds IS NULL": lambda row: row["start_seconds"] is None,
    "text LIKE '%cat%'": lambda row: row["text"] is not None and "cat" in row["text"],
    "text IS NULL OR position = 1": lambda row: row["text"] is None or row["position"] == 1,
    "position = 0 AND modality IN ('text', 'audio')": lambda row: (
        row["position"] == 0 and row["modality"] in ("text", "audio")
    ),
    "uri = 'f/1/7'": lambda row: row["uri"] == "f/1/7",
    "position > 5": lambda row: False,
    "thumbnail IS NOT NULL": lambda row: row["has_picture"],
    "provenance.run_id = 'r' AND position = 1": lambda row: row["position"] == 1,
    "ingested_at >= timestamp '1970-01-01 00:05:00'": lambda row: row["ingested_at"].timestamp() >= 300,
}


@pytest.fixture(scope="module")
def truth(filled) -> list[Row]:
    """Every row of the dataset, with its vector as it was stored."""
    dataset = filled.open()
    columns = [name for name in dataset.schema.names if name != "thumbnail"]
    rows = dataset.to_table(columns=columns).to_pylist()
    with_picture = set(dataset.to_table(columns=["id"], filter="thumbnail IS NOT NULL")["id"].to_pylist())
    return [{**row, "has_picture": row["id"] in with_picture} for row in rows]


def nearest(rows: list[Row], vector, keep: Callable[[Row], bool], k: int) -> dict[str, float]:
    """The brute force that search is compared with: id -> cosine similarity."""
    kept = [row for row in rows if row["vector"] is not None and keep(row)]
    if not kept:
        return {}
    # matrix: (rows, width) float64
    matrix = np.array([row["vector"] for row in kept])
    scores = matrix @ vector / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector))
    best = np.argsort(-scores)[:k]
    return {kept[place]["id"]: float(scores[place]) for place in best}


def close(found: dict[str, float], wanted: dict[str, float]) -> bool:
    return list(found) == list(wanted) and np.allclose(list(found.values()), list(wanted.values()), atol=1e-5)


def scores(answer) -> dict[str, float]:
    return {hit["id"]: hit["score"] for hit in answer.hits}


def unit(seed: int, width: int = 16):
    return np.random.default_rng(seed).standard_normal(width)


@pytest.mark.parametrize("condition", FILTERS)
def test_filters_are_what_brute_force_says(filled, truth, condition):
    assert any(row["has_picture"] for row in truth)
    for seed, k in ((1, 10), (2, 1), (3, 50)):
        vector = unit(seed)
        found = scores(search(filled, Question(vector=vector, k=k, filter=condition)))
        assert close(found, nearest(truth, vector, FILTERS[condition], k))


def test_no_filter(filled, truth):
    for seed in range(20):
        vector = unit(seed) * 10**seed / 10**10  # cosine does not care for length
        assert close(scores(search(filled, Question(vector=vector))), nearest(truth, vector, lambda row: True, 10))


def test_rows_without_a_vector_are_never_hits(filled, truth):
    have = sum(row["vector"] is not None for row in truth)
    assert 0 < have < len(truth)
    assert len(search(filled, Question(vector=unit(1), k=5000)).hits) == have


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_sq", "ivf_pq", "ivf_hnsw_sq", "ivf_flat"])
def test_an_index_finds_nearly_the_same(copy, truth, kind):
    index.build(copy, (Index(column="vector", kind=kind),))
    wanted, shared = 0, 0
    for seed in range(20):
        vector = unit(seed)
        exact = nearest(truth, vector, lambda row: row["modality"] == "image", 10)
        found = scores(search(copy, Question(vector=vector, filter="modality = 'image'", version="latest")))
        wanted, shared = wanted + len(exact), shared + len(set(exact) & set(found))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert all(abs(found[one] - exact[one]) < 1e-4 for one in set(exact) & set(found)), "refined scores are exact"
    assert shared / wanted >= 0.9


def test_every_match_is_found_however_few_and_however_many_partitions(copy, truth, monkeypatch):
    monkeypatch.setattr(index, "_PARTITION_VECTORS", 10)  # 90 partitions, more than are looked into at first
    index.build(copy, BOTH)
    keep = FILTERS["position = 0 AND modality IN ('text', 'audio')"]
    matches = [row["id"] for row in truth if keep(row) and row["vector"] is not None]
    condition = "position = 0 AND modality IN ('text', 'audio')"
    answer = search(copy, Question(vector=unit(5), k=1000, filter=condition, version="latest"))
    assert sorted(scores(answer)) == sorted(matches)


def test_rows_added_after_the_index_are_found(copy, writer_of):
    index.build(copy, BOTH)
    writer = writer_of(copy)
    writer.put(["late"], seed=99, base=copy.version())
    rows = [row for row in writer.rows(["late"], seed=99).to_pylist() if row["vector"] is not None]
    assert rows
    for row in rows:
        first = search(copy, Question(vector=row["vector"], k=1, version="latest")).hits[0]
        assert (first["id"], round(first["score"], 4)) == (row["id"], 1.0)
    row = next(row for row in writer.rows(["late"], seed=99).to_pylist() if row["text"])
    hits = search(copy, Question(mode="text", text=row["text"], k=1000, version="latest")).hits
    assert row["id"] in [hit["id"] for hit in hits]


def test_replaced_rows_are_not_found_though_indexed(copy, writer_of):
    index.build(copy, BOTH)
    writer = writer_of(copy)
    old = object_id("f/0/3", "1")
    gone = set(copy.open().to_table(columns=["id"], filter=f"object_id = '{old}'")["id"].to_pylist())
    writer.put(["f/0/3"], version="2", removed=[old], base=copy.version(), seed=7)
    found = set(scores(search(copy, Question(vector=unit(1), k=5000, version="latest"))))
    found |= set(scores(search(copy, Question(mode="text", text="cat dog piano river", k=5000, version="latest"))))
    assert len(gone) == 2
    assert not gone & found


@pytest.mark.parametrize("indexed", [False, True])
def test_text_finds_the_words(copy, truth, indexed):
    if indexed:
        index.build(copy, BOTH)
    found = search(copy, Question(mode="text", text="violin", k=5000, version="latest"))
    assert {hit["id"] for hit in found.hits} == {row["id"] for row in truth if "violin" in (row["text"] or "")}
    ranked = [hit["score"] for hit in found.hits]
    assert ranked == sorted(ranked, reverse=True)
    assert min(ranked) > 0
    narrow = search(copy, Question(mode="text", text="violin", k=5000, filter="modality = 'text'", version="latest"))
    assert {hit["id"] for hit in narrow.hits} == {
        row["id"] for row in truth if "violin" in (row["text"] or "") and row["modality"] == "text"
    }


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    "text", ['"', "cat AND", "((", "*", "cat~2 ^", "\x00", "🐈", "the", "a" * 5000, "cat's", "NOT", "+cat -dog", "a:b"]
)
def test_no_text_is_malformed(filled, copy, text, indexed):
    table = copy if indexed else filled
    if indexed:
        index.build(copy, BOTH)
    for mode in ("text", "hybrid"):
        search(table, Question(mode=mode, text=text, vector=unit(1), version="latest"))


def test_hybrid_is_the_fusion_of_both_lists(filled):
    asked = {"text": "snow storm", "vector": unit(4), "filter": "position = 0"}
    by_vector = list(scores(search(filled, Question(mode="vector", k=100, **asked))))
    by_text = list(scores(search(filled, Question(mode="text", k=100, **asked))))
    for weights in ((1.0, 1.0), (3.0, 0.5), (0.0, 1.0)):
        wanted: dict[str, float] = {}
        for ranked, weight in zip((by_vector, by_text), weights, strict=True):
            for rank, one in enumerate(ranked, start=1):
                wanted[one] = wanted.get(one, 0.0) + weight / (60 + rank)
        found = scores(search(filled, Question(mode="hybrid", k=10, weights=weights, **asked)))
        assert sorted(found.values(), reverse=True) == pytest.approx(sorted(wanted.values(), reverse=True)[:10])
        assert all(found[one] == pytest.approx(wanted[one]) for one in found)


def test_hits_have_the_columns_that_were_asked_for(filled, truth):
    first = search(filled, Question(vector=unit(1), k=1)).hits[0]
    assert set(first) == {*ANSWER, "score"}
    by_id = {row["id"]: row for row in truth}
    columns = ("id", "position", "provenance", "features", "ingested_at", "provenance.run_id")
    hit = search(filled, Question(vector=unit(1), k=1, columns=columns)).hits[0]
    assert set(hit) == {*columns, "score"}
    assert hit["provenance"] == by_id[hit["id"]]["provenance"]
    assert hit["provenance.run_id"] == "r"
    without_id = search(filled, Question(mode="text", text="cat", k=1, columns=("uri",))).hits[0]
    assert set(without_id) == {"uri", "score"}


WRONG = {
    "k": {"k": 0},
    "text": {"mode": "text", "text": "  "},
    "vector": {"vector": None},
    "columns": {"columns": ("id", "txt")},
    "column": {"column": "text"},
    "weights": {"weights": (0.0, 0.0)},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named(filled, name):
    with pytest.raises(InvalidUse) as caught:
        search(filled, Question(**{"vector": unit(1), **WRONG[name]}))
    assert caught.value.where == name
    assert caught.value.status == 400


@pytest.mark.parametrize("vector", [[0.0] * 16, [math.nan] * 16, [math.inf] + [0.0] * 15, [1.0] * 15, []])
def test_a_vector_that_points_nowhere(filled, vector):
    with pytest.raises(InvalidUse) as caught:
        search(filled, Question(vector=vector))
    assert caught.value.where == "vector"


def test_a_misspelt_column_gets_the_nearest(filled):
    with pytest.raises(InvalidUse, match="did you mean 'modality'"):
        search(filled, Question(vector=unit(1), columns=("modalty",)))
    with pytest.raises(InvalidUse, match="did you mean 'run_id'"):
        search(filled, Question(vector=unit(1), columns=("provenance.runid",)))
    with pytest.raises(InvalidUse, match="holds pictures"):
        search(filled, Question(vector=unit(1), columns=("thumbnail",)))


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "nope = 3",
        "modality",
        "text =",
        "modality = 'image'; DROP TABLE x",
        "modality = 'image' ANDD position = 1",
        "modality = 'image') OR (1 = 1",
        "modality = 'image' -- and more",
        "modality = 'image",
        "position / 0 = 1",
        "id > 5",
        "end > 4",
        "regexp_match(text, '(')",
        "nosuchfunction(text) = 1",
        "(SELECT 1) = 1",
    ],
)
@pytest.mark.parametrize("mode", ["vector", "text", "hybrid", "rows", "count"])
def test_a_wrong_filter_is_said_to_be_wrong(filled, condition, mode):
    ask = {
        "rows": lambda: query.rows(filled, Page(filter=condition)),
        "count": lambda: filled.count_rows(filter=condition),
    }.get(mode, lambda: search(filled, Question(mode=mode, text="cat", vector=unit(1), filter=condition)))
    with pytest.raises(InvalidUse) as caught:
        ask()
    assert caught.value.where == "filter"
    assert repr(condition) in caught.value.message
    assert ".rs:" not in caught.value.message


def test_quotes_inside_text_are_text(filled):
    for condition in ("text = 'a;b'", "text = 'it''s (--'", "uri != ')'", "`modality` = 'image'"):
        search(filled, Question(vector=unit(1), filter=condition))


def test_an_empty_dataset_has_no_hits(writer):
    writer.table.create_or_check(writer.schema())
    for mode in ("vector", "text", "hybrid"):
        answer = search(writer.table, Question(mode=mode, text="cat", vector=unit(1), version="latest"))
        assert (answer.version, answer.hits) == (1, [])


def test_versions_are_searched_as_they_were(anywhere):
    """Also on an object store: create, commit, index, replace, search, live."""
    uris = [f"u{number}" for number in range(200)]
    anywhere.put(uris)
    indexes = index.build(anywhere.table, BOTH)
    live = max(one.version for one in indexes)
    anywhere.table.set_live(live)
    target = next(row for row in anywhere.rows(uris).to_pylist() if row["vector"] is not None)
    question = {"vector": target["vector"], "k": 1}
    assert search(anywhere.table, Question(**question)).hits[0]["id"] == target["id"]
    removed = [target["object_id"]]
    anywhere.put([target["uri"]], version="2", removed=removed, base=live, seed=5)
    after = search(anywhere.table, Question(**question, version="latest"))
    assert after.hits[0]["id"] != target["id"]
    assert search(anywhere.table, Question(**question)).version == live
    assert search(anywhere.table, Question(**question)).hits[0]["id"] == target["id"]
    assert search(anywhere.table, Question(**question, version=live)).hits[0]["id"] == target["id"]
    with pytest.raises(NotFound):
        search(anywhere.table, Question(**question, version=10_000))


def test_pages_are_all_rows_once_in_order(filled, truth):
    for condition, keep in ((None, lambda row: True), *list(FILTERS.items())[:7]):
        seen, after = [], None
        while True:
            page = query.rows(filled, Page(limit=97, after=after, filter=condition, columns=("uri", "text")))
            assert page.schema.names == ["id", "uri", "text"]
            seen += page["id"].to_pylist()
            if page.num_rows < 97:
                break
            after = seen[-1]
        assert seen == sorted(row["id"] for row in truth if keep(row))


def test_a_page_has_every_column_but_pictures(filled):
    page = query.rows(filled, Page(limit=3))
    assert set(page.schema.names) == set(filled.schema().names) - {"thumbnail"}
    assert page.num_rows == 3
    with pytest.raises(InvalidUse) as caught:
        query.rows(filled, Page(limit=0))
    assert caught.value.where == "limit"


def test_one_row_and_its_picture(anywhere):
    anywhere.put(["a", "b"])
    anywhere.table.set_live(anywhere.table.version())
    rows = anywhere.rows(["a", "b"]).to_pylist()
    for row in rows:
        found = query.row(anywhere.table, row["id"])
        assert (found["uri"], found["position"], found["text"]) == (row["uri"], row["position"], row["text"])
        assert query.thumbnail(anywhere.table, row["id"]) == row["thumbnail"]
    assert [row["thumbnail"] for row in rows] == [None, b"picture 1", None, b"picture 3"]
    for key in (row_id("x", "image", 0), "' OR '1'='1", ""):
        with pytest.raises(NotFound, match="has no row"):
            query.row(anywhere.table, key)
        with pytest.raises(NotFound, match="has no row"):
            query.thumbnail(anywhere.table, key)


def test_search_of_a_compacted_and_reindexed_table(copy, truth):
    """Stable row ids: what was found before is found after."""
    index.build(copy, BOTH)
    before = scores(search(copy, Question(vector=unit(3), version="latest")))
    copy.open().optimize.compact_files(target_rows_per_fragment=100_000)
    index.build(copy, BOTH)
    assert len(copy.open().get_fragments()) == 1
    assert scores(search(copy, Question(vector=unit(3), version="latest"))) == pytest.approx(before)


def test_random_conditions_against_brute_force(filled, truth):
    """Combinations of the filters above, with AND, OR and brackets."""
    rng = random.Random(0)
    for seed in range(25):
        one, two, three = rng.sample(sorted(FILTERS), 3)
        kept = [row for row in truth if FILTERS[one](row) and (FILTERS[two](row) or FILTERS[three](row))]
        question = Question(vector=unit(seed), filter=f"({one}) AND (({two}) OR ({three}))")
        assert close(scores(search(filled, question)), nearest(kept, unit(seed), lambda row: True, 10))


@pytest.mark.parametrize("condition", [None, *list(FILTERS)[:7], "false"])
def test_facets_are_what_counting_says(filled, truth, condition):
    keep = FILTERS.get(condition, lambda row: condition is None)
    kept = [row for row in truth if keep(row)]
    found = query.facets(filled, ["modality", "start_seconds", "provenance.run_id"], filter=condition)
    assert found.rows == query.count(filled, condition) == len(kept)
    wanted = Counter(row["modality"] for row in kept)
    assert {one["value"]: one["rows"] for one in found.facets["modality"]} == wanted
    assert [one["rows"] for one in found.facets["modality"]] == sorted(wanted.values(), reverse=True)
    assert len(found.facets["start_seconds"]) == min(50, len({row["start_seconds"] for row in kept}))
    assert found.facets["provenance.run_id"] == ([{"value": "r", "rows": len(kept)}] if kept else [])


def test_a_column_of_too_many_values_is_no_facet(filled, monkeypatch):
    monkeypatch.setattr(query, "_MOST_VALUES", 1000)
    with pytest.raises(InvalidUse, match="'id' has more than 1000 different values") as caught:
        query.facets(filled, ["id"])
    assert caught.value.where == "columns"
    assert len(query.facets(filled, ["id"], filter="position = 1").facets["id"]) == 50
    for column in ("thumbnail", "vector", "features", "sha"):
        with pytest.raises(InvalidUse) as caught:
            query.facets(filled, [column])
        assert caught.value.where == "columns"


def test_pages_stay_within_bounds(filled):
    with pytest.raises(TooLarge) as caught:
        search(filled, Question(vector=unit(1), k=10, offset=query.MOST_HITS))
    assert caught.value.where == "offset"
    assert search(filled, Question(vector=unit(1), k=10, offset=query.MOST_HITS - 10)).hits == []
