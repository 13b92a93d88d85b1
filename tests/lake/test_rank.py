"""Lists of hits are what brute force says, on any filter, indexed or not; pages, objects and reasons fit together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycluster.lake import query
from raycluster.lake.query import Page, Question, search
from raycluster.lake.rank import fuse
from raycluster.lake.sql import quoted
from raycluster.lake.table import Table

Row = dict[str, Any]
# A filter in SQL and in Python; None where SQL's answer is null.
Filter = tuple[str, Callable[[Row], bool | None]]


def unit(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(16)


@pytest.fixture(scope="module")
def truth(measured: Any) -> list[Row]:
    columns = ("id", "object_id", "uri", "modality", "position", "start_seconds", "text", "vector", "features.width")
    return list(query.rows(measured, Page(limit=5000, columns=columns)).to_pylist())


def compared(name: str, values: list[Any]) -> st.SearchStrategy[Filter]:
    signs: dict[str, Callable[[Any, Any], bool]] = {
        "=": lambda one, two: one == two,
        "<>": lambda one, two: one != two,
        "<": lambda one, two: one < two,
        ">=": lambda one, two: one >= two,
    }

    def made(sign: str, value: Any) -> Filter:
        written = quoted(value) if isinstance(value, str) else value
        return f"{name} {sign} {written}", lambda row: None if row[name] is None else signs[sign](row[name], value)

    return st.builds(made, st.sampled_from(list(signs)), st.sampled_from(values))


LEAVES: list[st.SearchStrategy[Filter]] = [
    compared("modality", ["image", "audio", "text", "it's"]),
    compared("position", [0, 1, 2]),
    compared("start_seconds", [0.5, 99.0, 250.0]),
    compared("features.width", [3, 150, 299]),
    compared("text", ["cat", "m", "river"]),
    st.sampled_from(["text", "start_seconds", "vector"]).map(
        lambda name: (f"{name} IS NULL", lambda row: row[name] is None)
    ),
    st.sampled_from(["cat", "o", "zzz"]).map(
        lambda part: (f"text LIKE '%{part}%'", lambda row: None if row["text"] is None else part in row["text"])
    ),
    st.lists(st.sampled_from(["image", "audio", "x"]), min_size=1, max_size=3).map(
        lambda some: (f"modality IN ({', '.join(map(repr, some))})", lambda row: row["modality"] in some)
    ),
    st.tuples(st.integers(0, 300), st.integers(0, 300)).map(
        lambda ends: (
            f"features.width BETWEEN {ends[0]} AND {ends[1]}",
            lambda row: ends[0] <= row["features.width"] <= ends[1],
        )
    ),
    st.integers(-3, 3).map(
        lambda by: (
            f"features.width * {by} + position > start_seconds / 2",
            lambda row: (
                None
                if row["start_seconds"] is None
                else row["features.width"] * by + row["position"] > row["start_seconds"] / 2
            ),
        )
    ),
]


def both(one: bool | None, two: bool | None) -> bool | None:
    return False if one is False or two is False else None if one is None or two is None else True


def either(one: bool | None, two: bool | None) -> bool | None:
    return True if one or two else None if one is None or two is None else False


def inverse(one: bool | None) -> bool | None:
    return None if one is None else not one


FILTERS: st.SearchStrategy[Filter] = st.recursive(
    st.one_of(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda one: (f"NOT ({one[0]})", lambda row: inverse(one[1](row)))),
        st.tuples(inner, inner).map(
            lambda pair: (f"({pair[0][0]}) AND {pair[1][0]}", lambda row: both(pair[0][1](row), pair[1][1](row)))
        ),
        st.tuples(inner, inner).map(
            lambda pair: (f"({pair[0][0]} OR ({pair[1][0]}))", lambda row: either(pair[0][1](row), pair[1][1](row)))
        ),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("which", ["measured", "unindexed", "hot"])
@settings(max_examples=25, deadline=None)
@given(chosen=FILTERS, seed=st.integers(0, 1000), k=st.sampled_from([1, 10, 600]))
def test_any_filter_is_exact_before_ranking(asked: Any, which: str, chosen: Filter, seed: int, k: int) -> None:
    table, truth = asked[which], asked["truth"]
    text, keep = chosen
    kept = [row for row in truth if keep(row)]
    assert query.count(table, text) == len(kept)
    vector = unit(seed)
    vector /= np.linalg.norm(vector)
    scored = {row["id"]: float(np.dot(row["vector"], vector)) for row in kept if row["vector"] is not None}
    more = {"k": k, "filter": text, "columns": ("id", "text")}
    by_vector = search(table, Question(vector=vector, **more))
    found_scores = [hit["score"] for hit in by_vector.hits]
    assert found_scores == pytest.approx(sorted(scored.values(), reverse=True)[:k], abs=1e-5)
    assert found_scores == pytest.approx([scored[hit["id"]] for hit in by_vector.hits], abs=1e-5)
    found = search(table, Question(mode="text", text="cat violin", **more))
    words = [row["id"] for row in kept if {"cat", "violin"} & set((row["text"] or "").split())]
    assert len(found.hits) == min(k, len(words))
    assert {hit["id"] for hit in found.hits} <= set(words)
    fused = search(table, Question(mode="hybrid", text="cat violin", vector=vector, **more))
    either_way = set(scored) | set(words)
    assert {hit["id"] for hit in fused.hits} <= either_way
    assert len(fused.hits) >= min(k, len(words), 100)


@pytest.fixture(scope="session")
def unindexed(measured: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same rows, and no index."""
    folder = tmp_path_factory.mktemp("unindexed")
    shutil.copytree(measured.uri, folder / "u.lance")
    table = Table("u", str(folder / "u.lance"))
    dataset = table.open()
    for one in dataset.describe_indices():
        dataset.drop_index(one.name)
    table.set_live(table.version())
    return table


@pytest.fixture(scope="session")
def hot(measured: Any, held: Any) -> Any:
    """The same rows, their vectors in memory."""
    return held(measured)


@pytest.fixture(scope="module")
def asked(measured: Any, unindexed: Any, hot: Any, truth: list[Row]) -> Any:
    class Named(dict[str, Any]):
        __repr__ = object.__repr__  # Hypothesis prints what a test is given

    return Named(measured=measured, unindexed=unindexed, hot=hot, truth=truth)


ASKED = {
    "vector": {"vector": unit(3)},
    "text": {"mode": "text", "text": "cat dog"},
    "hybrid": {"mode": "hybrid", "text": "cat dog", "vector": unit(3)},
}


@pytest.mark.parametrize("group", [None, "object"])
@pytest.mark.parametrize("mode", ASKED)
@pytest.mark.parametrize("which", ["measured", "unindexed", "hot"])
def test_pages_are_the_whole_list_in_pieces(request: pytest.FixtureRequest, which: str, mode: str, group: Any) -> None:
    table = request.getfixturevalue(which)
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = search(table, Question(**ASKED[mode], k=7, offset=offset, group=group))
        assert len(page.hits) == 7 or page.next is None
        seen += [hit["id"] for hit in page.hits]
        offset = page.next
    assert len(seen) == len(set(seen)) > 90
    if mode != "hybrid":  # which fuses the best hundred of each list
        whole = search(table, Question(**ASKED[mode], k=5000, group=group)).hits
        assert seen == [hit["id"] for hit in whole]


def test_there_is_no_next_page_after_the_last(measured: Any) -> None:
    found = query.count(measured, "vector IS NOT NULL")
    assert search(measured, Question(vector=unit(1), k=found)).next is None
    assert search(measured, Question(vector=unit(1), k=found - 1)).next == found - 1
    assert search(measured, Question(vector=unit(1), k=10, offset=found)).hits == []


@pytest.mark.parametrize("k", [1, 10, 200, 1000])
def test_the_best_piece_of_each_object(measured: Any, truth: list[Row], k: int) -> None:
    vector = unit(4)
    best: dict[str, tuple[float, str]] = {}
    for row in truth:
        if row["vector"] is not None:
            score = float(np.dot(row["vector"], vector))
            best[row["object_id"]] = max(best.get(row["object_id"], (-9.0, "")), (score, row["id"]))
    wanted = [key for _, key in sorted(best.values(), reverse=True)][:k]
    found = search(measured, Question(vector=vector, k=k, group="object", columns=("id",))).hits
    assert [hit["id"] for hit in found] == wanted
    assert set(found[0]) == {"id", "score"}


def test_an_object_of_many_pieces_hides_no_other(writer: Any) -> None:
    writer.put(["film"], pieces=2000)
    landed = writer.put([f"photo/{number}" for number in range(30)], pieces=1, seed=5, base=1)
    writer.table.set_live(landed.version)
    rows = query.rows(writer.table, Page(limit=5000, columns=("uri", "vector"))).to_pylist()
    have = {row["uri"] for row in rows if row["vector"] is not None}
    film = next(row["vector"] for row in rows if row["uri"] == "film" and row["vector"] is not None)
    found = search(writer.table, Question(vector=film, k=20, group="object")).hits
    assert found[0]["uri"] == "film"
    assert len({hit["uri"] for hit in found}) == 20
    everything = search(writer.table, Question(vector=film, k=100, group="object"))
    assert {hit["uri"] for hit in everything.hits} == have
    assert everything.next is None


def test_reasons_are_the_ranks_in_each_list(measured: Any) -> None:
    asked = {"text": "cats and dogs", "vector": unit(3), "k": 30}
    lists = {
        mode: {hit["id"]: (rank, hit["score"]) for rank, hit in enumerate(found.hits, start=1)}
        for mode in ("vector", "text")
        for found in [search(measured, Question(**{**asked, "k": 120}, mode=mode))]
    }
    found = search(measured, Question(mode="hybrid", weights=(2.0, 0.5), explain=True, **asked)).hits
    for hit in found:
        why = hit["why"]
        assert set(why) <= {"mode", "vector", "text", "matched"}
        assert why["mode"] == "hybrid"
        total = 0.0
        for mode, weight in (("vector", 2.0), ("text", 0.5)):
            assert (mode in why) == (hit["id"] in lists[mode])
            if mode in why:
                assert (why[mode]["rank"], why[mode]["score"]) == lists[mode][hit["id"]]
                total += weight / (60 + why[mode]["rank"])
        assert hit["score"] == pytest.approx(total)
        assert set(why["matched"]) == {"cat", "dog"} & set((hit["text"] or "").split())
    later = search(measured, Question(vector=unit(3), explain=True, k=5, offset=10)).hits
    assert [hit["why"]["vector"]["rank"] for hit in later] == [11, 12, 13, 14, 15]


def test_what_is_asked_for_more_is_given_and_nothing_else(measured: Any) -> None:
    plain = search(measured, Question(vector=unit(1), k=1, columns=("uri",))).hits[0]
    assert set(plain) == {"uri", "score"}
    told = search(
        measured, Question(vector=unit(1), text="cat", k=1, columns=("uri",), explain=True, highlight=True)
    ).hits[0]
    assert set(told) == {"uri", "score", "why", "highlights"}


def test_what_is_marked_is_what_was_found(measured: Any) -> None:
    for hit in search(measured, Question(mode="text", text="Violins", k=50, highlight=True)).hits:
        words = [part["text"][start:end] for part in hit["highlights"] for start, end in part["words"]]
        assert words == [word for word in hit["text"].split() if word == "violin"]
        for part in hit["highlights"]:
            assert hit["text"][part["start"] :].startswith(part["text"])


def test_hits_of_equal_score_keep_their_order() -> None:
    lists = {"vector": [{"key": "a", "score": 1.0}, {"key": "b", "score": 0.5}], "text": [{"key": "c", "score": 9.0}]}
    assert [hit["key"] for hit in fuse(lists, (1.0, 1.0), key=lambda hit: hit["key"])] == ["a", "c", "b"]
    assert [hit["key"] for hit in fuse(lists, (0.0, 1.0), key=lambda hit: hit["key"])] == ["c", "a", "b"]


@pytest.mark.parametrize("scale", [1e-300, 1e300, 1e-45])
def test_a_vector_s_length_does_not_count(measured: Any, scale: float) -> None:
    ids = [hit["id"] for hit in search(measured, Question(vector=unit(1))).hits]
    assert [hit["id"] for hit in search(measured, Question(vector=unit(1) * scale)).hits] == ids
