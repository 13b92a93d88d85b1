"""Lines without owner become shares of those who have one, as many nano-dollars as before."""

import pytest

from raycluster.account.spread import Line, Owner, Share, spread
from raycluster.declare.prices import Owner as Named
from raycluster.declare.prices import Shared, To

RED = Owner("red", "p", None, "r1", "w")
BLUE = Owner("blue", None, None, "r2", "w")


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        ("proportional", [(BLUE, 75), (RED, 26)]),
        ("even", [(BLUE, 51), (RED, 50)]),
        ("keep", [(None, 101)]),
        (To(to=Named(team="platform")), [(Owner("platform", None, None, None, None), 101)]),
    ],
)
def test_each_rule(rule, shares):
    lines = [Line(0, "task", RED, 10), Line(1, "idle", None, 101), Line(2, "driver", BLUE, 29)]
    found = [(share.bearer, share.amount) for share in spread(lines, Shared(idle=rule)) if share.place == 1]
    assert found == shares


def test_lines_of_one_owner_count_together_whatever_their_kind():
    lines = [Line(0, "idle", RED, 1), Line(1, "task", RED, 2), Line(2, "task", BLUE, 3), Line(3, "idle", None, 6)]
    assert [share for share in spread(lines, Shared()) if share.place == 3] == [Share(3, BLUE, 3), Share(3, RED, 3)]


def test_a_share_of_nothing_is_no_line():
    lines = [Line(0, "task", RED, 1), Line(1, "task", BLUE, 0), Line(2, "idle", None, 5), Line(3, "system", None, 0)]
    assert list(spread(lines, Shared()))[2:] == [Share(2, RED, 5), Share(3, None, 0)]


def test_where_nobody_can_bear_it_a_line_stays():
    assert list(spread([Line(0, "idle", None, 5)], Shared())) == [Share(0, None, 5)]


@pytest.mark.parametrize("kind", ["task", "driver", None, "to"])
def test_a_kind_without_rule_stays(kind):
    lines = [Line(0, "task", RED, 1), Line(1, kind, None, 5)]
    assert list(spread(lines, Shared()))[1] == Share(1, None, 5)
