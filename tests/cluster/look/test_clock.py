"""Clocks that differ: a store's by the header of its answers, nodes' by two moments around one of theirs."""

import pytest
from fronting import Front

from raycluster.cluster.look import Site, _nodes, clock


@pytest.mark.parametrize(
    ("late", "level", "words"),
    [
        (0.0, "ok", "agree"),
        (10.0, "warning", "ahead of"),
        (-10.0, "warning", "behind"),
        (1200.0, "problem", "15 minutes"),
    ],
)
def test_a_store_s_clock(store: Front, late: float, level: str, words: str) -> None:
    store.late = late
    (found,) = clock.look(Site(lake="s3://lake/here"))
    assert (found.level, words in found.what) == (level, True), found.what
    if late:
        assert abs(late) - 2 <= float(found.what.split()[3]) <= abs(late)


def test_without_a_store_there_is_nothing_to_compare_with() -> None:
    (found,) = clock.look(Site(lake="/somewhere"))
    assert found.level == "note"


@pytest.mark.parametrize(
    ("before", "at", "after", "told"),
    [
        (100.0, 100.5, 101.0, []),
        (100.0, 90.0, 130.0, ["warning", "10 s behind"]),  # however long it was on the way
        (100.0, 170.0, 101.0, ["problem", "69 s ahead of"]),
    ],
)
def test_a_node_s_clock_is_off_by_what_the_way_cannot_explain(
    before: float, at: float, after: float, told: list
) -> None:
    found = list(_nodes.skews([("node a", before, at, after)]))
    assert len(found) == bool(told)
    assert all(one.level == told[0] and told[1] in one.what and one.where == "node a" for one in found)
