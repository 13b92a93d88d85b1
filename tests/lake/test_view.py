"""What a policy hides stays hidden, whatever is asked: filters, masks, and policies that do not work."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from raycluster.errors import Forbidden, InvalidUse, LakeError, NotFound
from raycluster.lake import query
from raycluster.lake.access import Access
from raycluster.lake.expression import condition
from raycluster.lake.query import Page, Question, search
from raycluster.lake.table import Table

PICTURES = Access(filters=("modality = 'image'",))
NOTHING = Access(filters=("false",))


def unit(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(16)


ASKED = {
    "vector": {"vector": unit(1)},
    "text": {"mode": "text", "text": "cat dog piano river engine"},
    "hybrid": {"mode": "hybrid", "text": "cat dog", "vector": unit(2)},
    "objects": {"vector": unit(1), "group": "object"},
}


@pytest.mark.parametrize("asked", ASKED)
def test_hidden_rows_are_no_hits_and_take_no_places(measured: Any, asked: str) -> None:
    question = Question(**ASKED[asked], k=20, columns=("id", "modality", "uri"))
    seen = search(measured, question, access=PICTURES).hits
    assert {hit["modality"] for hit in seen} == {"image"}
    assert len(seen) == 20
    alone = search(measured, Question(**ASKED[asked], k=20, filter="modality = 'image'", columns=("id",))).hits
    assert [hit["id"] for hit in seen] == [hit["id"] for hit in alone]
    assert search(measured, question, access=NOTHING).hits == []


def test_filters_hold_together_and_with_the_reader_s(measured: Any) -> None:
    access = Access(filters=("modality = 'image' OR modality = 'audio'", "position = 0 OR false"))
    asked = "modality = 'text' OR position = 1 OR modality = 'image'"
    assert query.count(measured, asked, access=access) == measured.count_rows(
        filter="modality = 'image' AND position = 0"
    )
    rows = query.rows(measured, Page(filter=asked, columns=("modality", "position")), access=access)
    assert set(rows["modality"].to_pylist()) == {"image"}
    assert set(rows["position"].to_pylist()) == {0}


def test_pages_of_what_may_be_seen(measured: Any) -> None:
    seen, after = [], None
    while True:
        page = query.rows(measured, Page(limit=13, after=after, columns=("modality",)), access=PICTURES)
        seen += page["id"].to_pylist()
        if page.num_rows < 13:
            break
        after = seen[-1]
    wanted = measured.open("live").to_table(columns=["id"], filter="modality = 'image'")["id"].to_pylist()
    assert seen == sorted(wanted)


def test_a_hidden_row_is_not_there(measured: Any) -> None:
    hidden = query.rows(measured, Page(limit=1, filter="modality = 'text' AND vector IS NOT NULL"))["id"][0].as_py()
    absent = "0" * 64
    for ask in (
        lambda key, **access: query.row(measured, key, **access),
        lambda key, **access: query.thumbnail(measured, key, **access),
        lambda key, **access: query.like(measured, key, None, version="live", **access),
    ):
        ask(hidden)
        said = []
        for key in (hidden, absent):
            with pytest.raises(NotFound) as caught:
                ask(key, access=PICTURES)
            said.append(caught.value.message.replace(key, "KEY"))
        assert said[0] == said[1], "the message tells a hidden row from none"


def test_counts_and_facets_are_of_what_may_be_seen(measured: Any) -> None:
    assert query.count(measured, access=PICTURES) == measured.count_rows(filter="modality = 'image'")
    assert query.count(measured, "modality = 'text'", access=PICTURES) == 0
    found = query.facets(measured, ["modality", "position"], access=PICTURES)
    assert [one["value"] for one in found.facets["modality"]] == ["image"]
    assert found.rows == sum(one["rows"] for one in found.facets["position"]) == query.count(measured, access=PICTURES)


MASKS = {
    "NULL": lambda row: None,
    "substr(text, 1, 3)": lambda row: row["text"] and row["text"][:3],
    "CASE WHEN position = 1 THEN text ELSE 'hidden' END": lambda row: row["text"] if row["position"] == 1 else "hidden",
    "'***'": lambda row: "***",
    "coalesce(left(text, 1), '-') || id": lambda row: (row["text"] or "-")[:1] + row["id"],
}


@pytest.mark.parametrize("mask", MASKS)
def test_masked_values_are_replaced_wherever_they_leave(measured: Any, mask: str) -> None:
    access = Access(masks={"text": mask})
    plain = {row["id"]: row for row in query.rows(measured, Page(limit=5000)).to_pylist()}
    wanted = {key: MASKS[mask](row) for key, row in plain.items()}
    page = query.rows(measured, Page(limit=5000), access=access)
    assert page.schema.field("text").type == pa.string()
    assert page.schema.names == query.rows(measured, Page(limit=1)).schema.names
    assert {row["id"]: row for row in page.to_pylist()} == {
        key: row | {"text": wanted[key]} for key, row in plain.items()
    }
    for hit in search(measured, Question(vector=unit(1), k=50), access=access).hits:
        assert hit["text"] == wanted[hit["id"]]
    key = next(iter(plain))
    assert query.row(measured, key, access=access) == plain[key] | {"text": wanted[key]}
    assert query.rows(measured, Page(filter="false"), access=access).num_rows == 0


def test_a_mask_inside_a_struct_holds_for_the_whole_and_for_the_part(measured: Any) -> None:
    access = Access(masks={"features.width": "features.width * 0 - 1"})
    row = query.rows(measured, Page(limit=1, columns=("features", "features.width", "features.height")), access=access)
    found = row.to_pylist()[0]
    assert found["features"]["width"] == found["features.width"] == -1
    assert found["features"]["height"] == found["features.height"] == 7
    assert found["features"]["title"].startswith("t")


def test_a_mask_of_a_whole_struct_holds_for_its_parts(measured: Any) -> None:
    columns = ("features", "features.width", "provenance.run_id", "provenance")
    access = Access(
        masks={"features": "NULL", "provenance": "named_struct('run_id', 'x')", "provenance.workload": "'ignored'"}
    )
    found = query.rows(measured, Page(limit=1, columns=columns), access=access).to_pylist()[0]
    assert (found["features"], found["features.width"], found["provenance.run_id"]) == (None, None, "x")
    assert found["provenance"] == {"run_id": "x", "workload": None, "stages": None, "models": None}


def test_a_mask_that_leads_into_a_list_hides_the_list(copy: Any) -> None:
    access = Access(masks={"provenance.stages.first": "'x'"})
    page = Page(limit=1, version="latest", columns=("provenance", "provenance.stages"))
    found = query.rows(copy, page, access=access).to_pylist()[0]
    assert found["provenance"]["stages"] is None is found["provenance.stages"]
    assert found["provenance"]["run_id"] == "r"


def test_names_in_a_policy_are_found_whatever_their_case(measured: Any) -> None:
    access = Access(masks={"Text": "NULL", "Features.WIDTH": "NULL", "nosuch": "nosuch"})
    found = query.rows(measured, Page(limit=1, columns=("text", "features")), access=access).to_pylist()[0]
    assert found["text"] is None is found["features"]["width"]
    assert found["features"]["height"] == 7


CHOOSING = {
    "filter": lambda table, access: search(table, Question(vector=unit(1), filter="text = 'a'"), access=access),
    "text": lambda table, access: search(table, Question(mode="text", text="a"), access=access),
    "hybrid": lambda table, access: search(table, Question(mode="hybrid", text="a", vector=unit(1)), access=access),
    "highlight": lambda table, access: search(table, Question(vector=unit(1), highlight=True), access=access),
    "rows": lambda table, access: query.rows(table, Page(filter="length(text) > 3"), access=access),
    "count": lambda table, access: query.count(table, "text IS NULL", access=access),
    "facets": lambda table, access: query.facets(table, ["text"], access=access),
    "facets by": lambda table, access: query.facets(table, ["modality"], filter="text > 'a'", access=access),
}


@pytest.mark.parametrize("ask", CHOOSING)
def test_nobody_chooses_rows_by_what_is_masked(measured: Any, ask: str) -> None:
    CHOOSING[ask](measured, Access())
    with pytest.raises(Forbidden) as caught:
        CHOOSING[ask](measured, Access(masks={"text": "NULL"}))
    assert "'text' is masked" in caught.value.message


@pytest.mark.parametrize(
    ("mask", "ask"),
    [
        ("features", lambda table, access: query.count(table, "features.width > 3", access=access)),
        ("features.width", lambda table, access: query.count(table, "features IS NOT NULL", access=access)),
        ("features.width", lambda table, access: query.facets(table, ["features.width"], access=access)),
        ("FEATURES", lambda table, access: query.count(table, "features.width > 3", access=access)),
        ("vector", lambda table, access: search(table, Question(vector=unit(1)), access=access)),
        ("object_id", lambda table, access: search(table, Question(vector=unit(1), group="object"), access=access)),
        ("id", lambda table, access: query.rows(table, Page(after="0"), access=access)),
        ("id", lambda table, access: query.row(table, "0" * 64, access=access)),
        ("thumbnail", lambda table, access: query.thumbnail(table, "0" * 64, access=access)),
        ("thumbnail", lambda table, access: query.count(table, "thumbnail IS NULL", access=access)),
    ],
)
def test_nor_by_a_part_or_the_whole_of_it(measured: Any, mask: str, ask: Any) -> None:
    with pytest.raises(Forbidden):
        ask(measured, Access(masks={mask: "NULL"}))


def test_reasons_tell_no_masked_words(measured: Any) -> None:
    asked = Question(vector=unit(1), text="cat dog piano river engine snow", explain=True)
    hit = search(measured, asked, access=Access(masks={"text": "NULL"})).hits[0]
    assert hit["why"]["matched"] == []
    assert hit["text"] is None


BROKEN = {
    "no such column": Access(filters=("nosuch = 1",)),
    "half a condition": Access(filters=("modality =",)),
    "two conditions": Access(filters=("modality = 'image'; true",)),
    "a bracket too many": Access(filters=("false) OR (true",)),
    "a comment": Access(filters=("false -- never",)),
    "a placeholder": Access(filters=("modality = $1",)),
    "mask: a placeholder": Access(masks={"text": "$1"}),
    "mask: more statements": Access(masks={"text": "text); COPY (SELECT 1) TO '/nowhere/x.csv'; SELECT (1"}),
    "nothing": Access(filters=("",)),
    "no condition": Access(filters=("modality",)),
    "fails on some rows": Access(filters=("1 / position = 1",)),
    "mask: no such column": Access(masks={"text": "nosuch"}),
    "mask: no such function": Access(masks={"text": "nosuch(text)"}),
    "mask: nothing": Access(masks={"text": ""}),
    "mask: two": Access(masks={"text": "'a') AS m0, (text"}),
    "mask: fails": Access(masks={"text": "1 / position"}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_policy_that_does_not_work_shows_nothing(measured: Any, what: str, caplog: pytest.LogCaptureFixture) -> None:
    access = BROKEN[what]
    asks = [
        lambda: search(measured, Question(vector=unit(1), k=100), access=access),
        lambda: query.rows(measured, Page(), access=access),
        lambda: query.rows(measured, Page(filter="position = 0"), access=access),
    ]
    if access.filters:
        asks += [
            lambda: search(measured, Question(mode="text", text="cat"), access=access),
            lambda: query.count(measured, access=access),
            lambda: query.facets(measured, ["modality"], access=access),
        ]
    for ask in asks:
        caplog.clear()
        with caplog.at_level(logging.ERROR), pytest.raises(LakeError) as caught:
            ask()
        told = str(caught.value)
        assert "the policy in force cannot be applied to dataset 'd'" in told
        for secret in (*access.filters, *access.masks.values()):
            assert not secret or secret not in told, "what a policy says is not for its readers"
        assert "cannot be applied to dataset d" in caplog.text


def test_a_wrong_filter_of_the_reader_s_is_the_reader_s(measured: Any) -> None:
    with pytest.raises(InvalidUse) as caught:
        query.rows(measured, Page(filter="position = 'a'"), access=PICTURES)
    assert caught.value.where == "filter"
    assert "modality" not in caught.value.message


SECRET = "the vault is open"
_IF = f"TRY_CAST(text = '{SECRET}' AS BIGINT)"  # 1 on the hidden row
# Each is about all rows, and fails on the hidden one where nothing keeps it from being looked at.
TELLTALE = {
    "cast of a column": "text = number",
    "cast within a function": "nullif(text, '1') = number",
    "cast in a list": "number IN (text)",
    "cast of a part": "part.word = 5",
    "text as a day": "text <> DATE '2020-01-01'",
    "text as a moment": "text > TIMESTAMP '2020-01-01 00:00:00'",
    "division": f"(-9223372036854775807 - {_IF}) / -1 <> 5",
    "time": f"(TRY_CAST(-9223372036854775807 * {_IF} AS TIMESTAMP) - TIMESTAMP '2200-01-01 00:00:00') IS NOT NULL",
    "days": f"(TRY_CAST(TRY_CAST(2147483647 * {_IF} AS INT) AS DATE) <> at)",
    "pattern": f"'x' LIKE left('{'_' * 90_000}', 90000 * {_IF})",
}


def hiding(folder: Path, hidden: str) -> Table:
    rows = 20
    words = ["1", hidden, *["1"] * (rows - 2)]
    columns = {
        "id": [str(row) for row in range(rows)],
        "modality": ["image", "text", *["image"] * (rows - 2)],
        "text": words,
        "part": [{"word": word} for word in words],
        "number": pa.array([1] * rows, pa.int32()),
        "at": pa.array([0] * rows, pa.timestamp("us")),
    }
    lance.write_dataset(pa.table(columns), folder)
    return Table("d", str(folder))


def outcome(table: Table, asked: str, access: Access) -> Any:
    try:
        version = table.version()
        answers = [query.count(table, asked, version=version, access=access)]
        answers += [query.facets(table, ["modality"], filter=asked, version=version, access=access).rows]
        return [*answers, query.rows(table, Page(filter=asked, version=version), access=access).num_rows]
    except InvalidUse as error:
        return str(error)


@pytest.mark.parametrize("telltale", TELLTALE)
def test_no_error_tells_of_a_hidden_row(tmp_path: Path, telltale: str) -> None:
    asked = TELLTALE[telltale]
    secret, other = hiding(tmp_path / "secret", SECRET), hiding(tmp_path / "other", "1")
    for filters in (
        ("modality = 'image'",),
        ("modality = 'image'", "number = 1"),
        ("modality = 'image' OR text IS NULL",),
    ):
        access = Access(filters=filters)
        assert outcome(secret, asked, access) == outcome(other, asked, access)
        assert SECRET not in str(outcome(secret, asked, access))
    assert not condition(asked, secret.schema()).is_sure
    with pytest.raises((ValueError, OSError)):  # what it would come to
        secret.open().count_rows(f"(modality = 'image') AND {condition(asked, secret.schema()).sql}")


def test_nor_does_a_policy_s_null(tmp_path: Path) -> None:
    table = hiding(tmp_path / "d", SECRET)
    access = Access(filters=("nullif(modality, 'text') = 'image'",))
    assert outcome(table, "text = number", access) == [19, 19, 19]
    assert outcome(table, "coalesce(text, '') = '1' OR true", access) == [19, 19, 19]
    assert outcome(table, f"lower(text) = '{SECRET}'", access) == [0, 0, 0]


def test_an_error_on_a_visible_row_quotes_neither_policy_nor_values(tmp_path: Path) -> None:
    told = outcome(hiding(tmp_path / "d", SECRET), "text = number", Access(filters=("number < 2",)))
    assert "it fails on a row" in told
    assert "number < 2" not in told
    assert SECRET not in told
