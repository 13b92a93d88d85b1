from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycluster.errors import InvalidUse
from raycluster.lake import sql
from raycluster.lake.sql import any_of, enclosed, quoted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("a = 1; b = 2", "';' at character 6 does not belong there"),
        ("a = 1 -- b", "'--' at character 7"),
        ("a = 1 /* b */", "'/*' at character 7"),
        ("a = $1", "'$' at character 5"),
        ("a = ?", "'?' at character 5"),
        ("a = 1) OR (b = 2", "the bracket at character 6 closes nothing"),
        ("(a = 1", "a bracket is not closed"),
        ("a = 'x", "a ' is not closed"),
        ('"a = 1', 'a " is not closed'),
        ("a = 'it''s' OR (b = 'x'')", "a ' is not closed"),
    ],
)
def test_what_is_not_one_enclosed(text, reason):
    with pytest.raises(InvalidUse) as caught:
        enclosed(text)
    assert reason in caught.value.message
    assert caught.value.where == "filter"


@pytest.mark.parametrize(
    "text", ["a = 1", "(a = 1) OR (b = 2)", "a = ';--/*)('", "a = 'it''s' AND \"b;c\" = 1", "a - -1 = 2"]
)
def test_one_condition_is_put_in_brackets(text):
    assert enclosed(text) == f"({text})"


@given(st.text())
def test_no_quoted_text_ends_its_literal_early(text):
    if "\n" not in text:
        assert enclosed(f"a = {quoted(text)}") == f"(a = {quoted(text)})"


def test_many_values_make_several_filters(monkeypatch):
    monkeypatch.setattr(sql, "_VALUES_A_FILTER", 2)
    assert list(any_of("id", ["a", "it's", "c"])) == ["id IN ('a','it''s')", "id IN ('c')"]
    assert list(any_of("id", [])) == []
