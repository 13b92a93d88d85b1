"""Values are read where they lie, as Arrow would have them: nulls, slices, numbers of every kind."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raycluster.lake.pile import piled

COLUMNS = {
    "text": pa.array(["a", None, "é", "", "日本"], pa.large_string()),
    "full": pa.array(["one", "two", "three", "", "日本"], pa.large_string()),
    "empty": pa.array([""] * 5, pa.large_string()),
    "nothing": pa.nulls(5, pa.float64()),
    "double": pa.array([1.5, None, float("inf"), -0.0, 3.0]),
    "float": pa.array([0.1, None, 1e30, 2.0, 3.0], pa.float32()),
    "int": pa.array([1, -(2**31), 3, 2**31 - 1, 5], pa.int32()),
    "large": pa.array([1, None, -(2**63), 2**63 - 1, 5], pa.int64()),
    "yes": pa.array([True, None, False, True, False]),
    "moment": pa.array([1, None, 3, 4, 5], pa.timestamp("us")),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(("start", "length"), [(0, 5), (1, 4), (2, 1)])
def test_values_are_as_arrow_has_them(name: str, start: int, length: int) -> None:
    rows = pa.record_batch({name: COLUMNS[name]}).slice(start, length)
    pile = piled(np.eye(length, 8, dtype=np.float32), np.arange(length), rows)
    places = list(range(length))[::-1]
    expected: list[Any] = rows.to_pylist()[::-1]
    found = pile.told(places, [name])
    assert found == expected
    assert [type(one[name]) for one in found] == [type(one[name]) for one in expected]
