"""Only what filters may have gets to Lance, and it means there what it meant to who wrote it."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raycluster.errors import InvalidUse, TooLarge
from raycluster.lake.columns import dataset_schema
from raycluster.lake.expression import condition
from raycluster.lake.sql import quoted

SCHEMA = dataset_schema(pa.schema([]), 16)


def sql(text: str) -> str:
    return condition(text, SCHEMA).sql


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("modality = 'image'", "(`modality` = 'image')"),
        ('"modality" <> \'it\'\'s\'', "(`modality` != 'it''s')"),
        ("MODALITY = 'image'", "(`modality` = 'image')"),
        ("features.width > 640", "(`features`.`width` > 640)"),
        ("text is null", "(`text` IS NULL)"),
        ("text IS NOT NULL", "(NOT (`text` IS NULL))"),
        ("position = 1 AND position = 2 AND position = 3",
         "((`position` = 1) AND (`position` = 2) AND (`position` = 3))"),
        ("position = 1 OR (position = 2 AND NOT text LIKE 'a%')",
         "((`position` = 1) OR ((`position` = 2) AND (NOT (`text` LIKE 'a%'))))"),
        ("position NOT IN (1, -2)", "(NOT (`position` IN (1, (- 2))))"),
        ("position BETWEEN 1 AND 2", "(`position` BETWEEN 1 AND 2)"),
        ("start_seconds / 2 > 1", "((`start_seconds` / nullif(2, 0)) > 1)"),
        ("position::int = 1", "(TRY_CAST(`position` AS INT) = 1)"),
        ("CAST(text AS double) > 1", "(TRY_CAST(`text` AS DOUBLE) > 1)"),
        ("ingested_at > timestamp '2026-01-01'", "(`ingested_at` > timestamp '2026-01-01')"),
        ("extract(year from ingested_at) = 2026", "(date_part('year', `ingested_at`) = 2026)"),
        ("Lower(text) = 'a'", "(lower(`text`) = 'a')"),
        ("array_has(provenance.stages, 's')", "(array_has(`provenance`.`stages`, 's'))"),
        ("text ILIKE '%A%' AND (position = 1) IS NOT TRUE",
         "((`text` ILIKE '%A%') AND (NOT ((`position` = 1) IS true)))"),
        ("((((((true))))))", "(true)"),
        ("position IS DISTINCT FROM NULL", "(`position` IS DISTINCT FROM NULL)"),
    ],
)  # fmt: skip
def test_what_filters_may_have_is_written_anew(text: str, written: str) -> None:
    assert sql(text) == written


def test_the_columns_of_a_filter_are_known() -> None:
    found = condition("Features.width > 1 AND lower(text) = 'a' OR position IN (1, 2)", SCHEMA)
    assert found.columns == {"features.width", "text", "position"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("position = 1; DROP TABLE x", "';' at character"),
        ("position = 1 -- and more", "a comment at character"),
        ("position = 1 /* and more */", "a comment at character"),
        ("position = 1) OR (1 = 1", "the bracket at character 13 closes nothing"),
        ("(position = 1", "a bracket is not closed"),
        ("text = 'x", "a quote is not closed"),
        ("position = 1 ANDD text = 'a'", "at character"),
        ("SELECT", "'select' is not for filters"),
        ("(SELECT 1) = 1", "'subquery' is not for filters"),
        ("id IN (SELECT id FROM dataset)", "IN needs a list"),
        ("EXISTS (SELECT 1)", "'exists' is not for filters"),
        ("position = 1 UNION SELECT 1", "'union' is not for filters"),
        ("position = $1", "there is no column '$1'"),
        ("position = ?", "'placeholder' is not for filters"),
        ("position = :x", "'placeholder' is not for filters"),
        ("nosuchfunction(text) = 1", "unknown function 'nosuchfunction'"),
        ("random() > 0.5", "unknown function 'random'"),
        ("version() = 'x'", "unknown function 'version'"),
        ("read_csv('/etc/passwd') = 1", "unknown function 'read_csv'"),
        ("repeat(text, 1000000000) = 'a'", "unknown function 'repeat'"),
        ("length(text, text) = 1", "takes 1 to 1 arguments, not 2"),
        ("regexp_like(text, text)", "argument 2 of regexp_like has to be a literal"),
        ("count(*) > 1", "unknown function 'count'"),
        ("text LIKE 'a' ESCAPE '!'", "'escape' is not for filters"),
        ("CASE WHEN true THEN true END", "'case' is not for filters"),
        ("CAST(text AS BLOB) = 'a'", "a value can become one of"),
        ("text = (text, text)", "'tuple' is not for filters"),
        ("position / 0 = 1", "it divides by zero"),
        ("position % (0.0) = 1", "it divides by zero"),
        ("text IS 'a'", "IS is for NULL, TRUE and FALSE"),
        ("_rowid = 1", "there is no column '_rowid'"),
        ("text.x = 1", "there is no column 'text.x'"),
        ("features.widht = 1", "there is no column 'features.widht'"),
        ('modality = "image"', "there is no column 'image'"),
        ("text = 'a\ud800'", "half a character"),
        ("modality", None),
    ],
)  # fmt: skip
def test_nothing_else_does(text: str, reason: str | None) -> None:
    if reason is None:
        assert sql(text) == "(`modality`)"  # Lance says that this is no condition
        return
    with pytest.raises(InvalidUse) as caught:
        condition(text, SCHEMA)
    assert caught.value.where == "filter"
    assert reason in caught.value.message
    assert "\x1b" not in caught.value.message


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(InvalidUse) as caught:
        condition("features.widht = 1", SCHEMA)
    assert caught.value.fix == "did you mean 'width'?"
    with pytest.raises(InvalidUse) as caught:
        condition("modalty = 'image'", SCHEMA)
    assert caught.value.fix == "did you mean 'modality'?"


LARGE = {
    "brackets": "(" * 10_000 + "position = 1" + ")" * 10_000,
    "few brackets": "(" * 25 + "position = 1" + ")" * 25,
    "negations": "NOT " * 2000 + "position = 1",
    "few negations": "NOT " * 25 + "position = 1",
    "signs": "position = " + "- " * 2000 + "1",
    "sums": "position = " + "+".join(["position"] * 1000),
    "functions": "lower(" * 25 + "text" + ")" * 25 + " = 'a'",
    "casts": "text" + "::varchar" * 500 + " = 'a'",
    "a list": f"id IN ({','.join(map(str, range(10_000)))})",
    "alternatives": " OR ".join(["position = 1"] * 5000),
    "a literal": f"text = '{'a' * 200_000}'",
    "a path": "features" + ".width" * 2000 + " = 1",
}


@pytest.mark.parametrize("what", LARGE)
def test_size_and_depth_are_bounded(what: str) -> None:
    with pytest.raises(InvalidUse) as caught:
        condition(LARGE[what], SCHEMA)
    assert caught.value.where == "filter"
    assert len(caught.value.message) < 500


def test_too_large_is_said_to_be_so() -> None:
    with pytest.raises(TooLarge) as caught:
        condition(LARGE["brackets"], SCHEMA)
    assert caught.value.status == 413


def test_what_is_just_small_enough_gets_through_lance(filled: Any) -> None:
    total = filled.count_rows()
    ids = ",".join(f"'{number:064d}'" for number in range(1000))
    deep = "NOT " * 18 + "true"
    for text in (f"id NOT IN ({ids})", deep, " OR ".join(["position >= 0"] * 1000), "(" * 20 + "true" + ")" * 20):
        assert filled.count_rows(filter=text) == total


@given(st.text())
@example("'; DROP TABLE x --")
@example("\\")
@example("\x00")
def test_no_text_leaves_its_literal(text: str) -> None:
    assert sql(f"text = {quoted(text)}") == f"(`text` = {quoted(text)})"


WORDS = (
    *("position", "text", "features", ".width", "vector", "ingested_at", "'a'", "'year'", "1", "1e400", "true", "NULL"),
    *("=", "<", "AND", "OR", "NOT", "IN", "IS", "LIKE", "BETWEEN", "+", "-", "/", "%", "||", "::int", "CAST(", "AS"),
    *("(", ")", "[", "]", "{", "}", ",", "lower(", "abs(", "date_part(", "*", "'", "$1", "?", ":", "@", "interval"),
    *("date", "timestamp"),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_whatever_is_written_is_answered_or_refused(filled: Any, words: list[str]) -> None:
    text = " ".join(words)
    refusal = None
    try:
        assert 0 <= filled.count_rows(filter=text) <= 1200
    except InvalidUse as error:
        refusal = error
    assert refusal is None or (refusal.where == "filter" and not re.search(r"\.rs:\d|panicked", refusal.message))


# Of what Lance would have failed on, with somebody's value in the error.
DATA_DEPENDENT = """
1 / (position - 1) > 5
1 % (position - 1) > 5
CAST(text AS int) > 0
CAST(start_seconds AS int) > 9999
CAST(position * 1e30 AS int) = 3
abs(position - 9223372036854775807 - 2) > 1e30
CAST(position * 10000000000 + 1e15 AS int) > 5
position * 9223372036854775807 * 3 > 1e300
CAST(text AS timestamp) > timestamp '2026-01-01'
""".strip().splitlines()


@pytest.mark.parametrize("text", DATA_DEPENDENT)
def test_nothing_fails_on_one_row_and_not_on_another(filled: Any, text: str) -> None:
    """Else the error would tell who may not see that row that it is there."""
    assert filled.count_rows(filter=text) == 0


def test_what_divides_divides(filled: Any) -> None:
    assert filled.count_rows(filter="1 / position = 1") == filled.count_rows(filter="position = 1") == 600
    assert filled.count_rows(filter="start_seconds / 2 > 100") == filled.count_rows(filter="start_seconds > 200")


@pytest.mark.parametrize(
    "text",
    [
        *("modality = 'image' AND NOT (text LIKE 'a%' OR position IN (1, -2))", "features.width > 640.5"),
        *("text IS NULL", "provenance.workload = 'w'", "position BETWEEN -1 AND 2", "start_seconds >= '1'"),
    ],
)
def test_plain_conditions_are_sure(text: str) -> None:
    assert condition(text, SCHEMA).is_sure


@pytest.mark.parametrize(
    "text",
    [
        *("text = position", "provenance.workload = 5", "text IN (id, 'a')", "lower(text) = 'a'", "position / 2 > 1"),
        *("CAST(position AS BIGINT) = 1", "text = DATE '2020-01-01'", "'a' LIKE text", "text = true"),
    ],
)
def test_what_a_row_s_value_may_break_is_not(text: str) -> None:
    assert not condition(text, SCHEMA).is_sure


def test_only_columns_are_truncated() -> None:
    with pytest.raises(InvalidUse, match="argument 2 of date_trunc has to be a column"):
        sql("date_trunc('week', CAST(position AS TIMESTAMP)) IS NULL")
