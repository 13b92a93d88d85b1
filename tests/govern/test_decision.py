"""An answer of exactly the right shape lets somebody in; every other is a no."""

from __future__ import annotations

import pytest

from raycluster.govern.decision import Decision, Undecided, decide

NO = Decision(allowed=False)


@pytest.mark.parametrize("answer", [{}, {"allow": False}, {"allow": False, "rowFilters": 7}, {"allow": None}], ids=str)
def test_no(answer):
    assert decide(answer) == NO


@pytest.mark.parametrize("allow", [1, "true", "yes", [True], {"a": True}, 0, ""], ids=repr)
def test_only_true_is_yes(allow):
    with pytest.raises(Undecided, match="allow"):
        decide({"allow": allow})


def test_filters_and_masks():
    answer = {
        "allow": True,
        "rowFilters": [{"expression": "a = 1"}, "b IN ('x;y', 'z')"],
        "columnMasks": {"text": {"expression": "NULL"}, "features.width": "features.width / 10"},
        "somethingElse": 7,
    }
    assert decide(answer) == Decision(
        allowed=True,
        filters=("a = 1", "b IN ('x;y', 'z')"),
        masks={"text": "NULL", "features.width": "features.width / 10"},
    )
    assert decide({"allow": True, "columnMask": {"text": {"expression": "NULL"}}}).masks == {"text": "NULL"}
    assert decide({"allow": True, "rowFilters": [], "columnMasks": {}}) == Decision(allowed=True)


@pytest.mark.parametrize(
    "more",
    [
        {"rowFilters": "a = 1"},
        {"rowFilters": {"a = 1": True}},  # `rowFilters["a = 1"] := true`: an object, no set
        {"rowFilters": None},
        {"rowFilters": [1]},
        {"rowFilters": [None]},
        {"rowFilters": [["a = 1"]]},
        {"rowFilters": [{"expression": 1}]},
        {"rowFilters": [{"expression": ""}]},
        {"rowFilters": [" "]},
        {"rowFilters": ["a = 1; b = 2"]},
        {"rowFilters": ["a = 1) OR (true"]},
        {"rowFilters": ["a = 1 -- b"]},
        {"rowFilters": ["a = 'x"]},
        {"rowFilters": [{"expr": "a = 1"}]},
        {"rowFilters": [{"expression": "a = 1", "identity": "root"}]},
        {"columnMasks": []},
        {"columnMasks": "text"},
        {"columnMasks": None},
        {"columnMasks": {"text": None}},
        {"columnMasks": {"text": True}},
        {"columnMasks": {"text": {"expression": None}}},
        {"columnMasks": {"text": "NULL, id"[:-4] + ";"}},
        {"columnMask": {"text": {"expression": 1}}},
        {"columnMask": {"expression": "NULL"}, "columnMasks": {"a": "NULL"}},
    ],
    ids=str,
)
def test_whatever_else_is_said_of_rows_and_columns_is_a_no(more):
    with pytest.raises(Undecided):
        decide({"allow": True, **more})


@pytest.mark.parametrize("answer", [None, True, [], "allow", 1], ids=repr)
def test_what_is_no_answer(answer):
    with pytest.raises(Undecided, match="says nothing"):
        decide(answer)
