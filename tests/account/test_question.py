"""What a person writes: keys, filters and moments, in local time, and what is wrong with them."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from cost_lines import NOW, line, table

from raycluster.account.question import Question, ask, filters, keys, local, period, span
from raycluster.errors import InvalidUse, NotFound


@pytest.fixture
def berlin() -> Iterator[None]:
    """Let local time be that of a place whose clocks change."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def at(*parts: int) -> datetime:
    """Return a local moment, in UTC."""
    return datetime(*parts).astimezone(UTC)  # type: ignore[arg-type]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_come_as_a_list_each_once() -> None:
    assert keys("team, stage,team") == ("team", "stage")
    assert keys(["run", "day"]) == ("run", "day")


def test_an_unknown_key_says_the_nearest() -> None:
    with pytest.raises(NotFound, match="unknown key 'taem'") as caught:
        keys("taem,stage")
    assert caught.value.fix == "did you mean 'team'?"


@pytest.mark.parametrize("by", ["", "team,,stage", ","])
def test_an_empty_key_is_refused(by: str) -> None:
    with pytest.raises(InvalidUse, match="names no key"):
        keys(by)


# --- filters ---------------------------------------------------------------------------------------------------------


def test_the_same_key_twice_asks_for_either_and_another_narrows_down() -> None:
    asked = Question(only=filters(["stage=video", "stage=image", "team=a=b", "version=3", "outcome="]))
    assert asked.only == {"stage": ("video", "image"), "team": ("a=b",), "version": (3,), "outcome": (None,)}
    assert asked.who == (
        "(stage IN ('video', 'image')) AND (team IN ('a=b')) AND (version IN (3)) AND (outcome IS NULL)"
    )


def test_a_quote_stays_within_its_value() -> None:
    assert Question(only=filters(["team=it's"])).who == "(team IN ('it''s'))"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage", "is no filter"),
        ("stgae=video", "unknown key 'stgae'"),
        ("version=latest", "not a number"),
        ("day=19.11.2026", "not written like 2026-11-01"),
        ("month=2026-13", "not written like 2026-11"),
    ],
)
def test_a_wrong_filter_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(InvalidUse, match=said):
        filters([text])


def test_choosing_from_a_table_is_choosing_in_sql() -> None:
    lines = table(
        line(team="a"),
        line(team="b"),
        line(team=None),
        line(team="a", started_at=at(2026, 11, 12, 9)),
        line(team="a", started_at=at(2026, 11, 20, 9)),
    )
    assert Question(only={"team": ("a", None)}).choose(lines).num_rows == 4
    assert Question(only={"team": ("a",), "day": ("2026-11-12",)}).choose(lines).num_rows == 1
    assert Question(since=at(2026, 11, 12, 9), until=at(2026, 11, 20, 9)).choose(lines).num_rows == 1


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("today", at(2026, 11, 19), at(2026, 11, 20)),
        ("yesterday", at(2026, 11, 18), at(2026, 11, 19)),
        ("last week", at(2026, 11, 9), at(2026, 11, 16)),
        ("  Last   WEEK ", at(2026, 11, 9), at(2026, 11, 16)),
        ("this week", at(2026, 11, 16), at(2026, 11, 23)),
        ("last month", at(2026, 10, 1), at(2026, 11, 1)),
        ("this month", at(2026, 11, 1), at(2026, 12, 1)),
        ("7d", at(2026, 11, 12, 12), at(2026, 11, 12, 12)),
        ("24h", at(2026, 11, 18, 12), at(2026, 11, 18, 12)),
        ("90min", at(2026, 11, 19, 10, 30), at(2026, 11, 19, 10, 30)),
        ("2w", at(2026, 11, 5, 12), at(2026, 11, 5, 12)),
        ("2026-11-01", at(2026, 11, 1), at(2026, 11, 1)),
        ("2026-11-01T18:30", at(2026, 11, 1, 18, 30), at(2026, 11, 1, 18, 30)),
        ("2026-11-01T18:00+02:00", datetime(2026, 11, 1, 16, tzinfo=UTC), datetime(2026, 11, 1, 16, tzinfo=UTC)),
    ],
)
def test_spans(text: str, first: datetime, last: datetime) -> None:
    assert span(text, NOW) == (first, last)


@pytest.mark.parametrize("text", ["", "soon", "7", "7 years", "last year", "2026-02-30", "99999999999w"])
def test_what_names_no_moment(text: str) -> None:
    with pytest.raises(InvalidUse) as caught:
        span(text, NOW)
    assert "last" in caught.value.fix


def test_a_span_alone_says_its_end_too_and_a_moment_does_not() -> None:
    assert (ask(since="last week", now=NOW).since, ask(since="last week", now=NOW).until) == span("last week", NOW)
    assert ask(since="7d", now=NOW).until is None
    assert ask(until="yesterday", now=NOW).until == at(2026, 11, 19)
    assert ask(since="last week", until="today", now=NOW).until == at(2026, 11, 20)


def test_an_end_before_its_beginning_is_refused() -> None:
    with pytest.raises(InvalidUse, match="is not after"):
        ask(since="2026-11-02", until="2026-11-02", now=NOW)


@pytest.mark.usefixtures("berlin")
def test_days_are_local_and_as_long_as_they_are() -> None:
    first, last = period("day", "2026-10-25")  # the clocks go back
    assert first == datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert last - first == timedelta(hours=25)
    assert period("hour", "2026-07-01 00:00")[0] == datetime(2026, 6, 30, 22, tzinfo=UTC)
    assert period("month", "2026-12")[1] == datetime(2026, 12, 31, 23, tzinfo=UTC)
    monday = span("last week", datetime(2026, 10, 28, tzinfo=UTC).astimezone())[0]
    assert monday == datetime(2026, 10, 18, 22, tzinfo=UTC)


@pytest.mark.usefixtures("berlin")
def test_moments_are_written_in_local_time() -> None:
    moments = [datetime(2026, 6, 30, 22, 5, tzinfo=UTC), None, datetime(2026, 12, 31, 22, 59, tzinfo=UTC)]
    column = pa.array(moments, pa.timestamp("us", "UTC"))
    assert local(column, "day").to_pylist() == ["2026-07-01", None, "2026-12-31"]
    assert local(column, "hour").to_pylist() == ["2026-07-01 00:00", None, "2026-12-31 23:00"]
    assert local(column, "month").to_pylist() == ["2026-07", None, "2026-12"]
