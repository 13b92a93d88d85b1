"""What a person asks of the bill becomes a closed set of keys, filters and two moments; and a filter for the lake.

Under `bill.py`. Days, hours and months are those of local time; a window belongs to the moment at which it began, and
windows are short, so none is cut in two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.errors import InvalidUse
from raycluster.lake.ledger import COSTS
from raycluster.lake.sql import instant, quoted
from raycluster.stage import unknown

# What lines may be grouped and chosen by -> the column that holds it.
COLUMNS = {
    "team": "team",
    "project": "project",
    "environment": "environment",
    "workload": "workload",
    "run": "run_id",
    "stage": "stage",
    "modality": "modality",
    "dataset": "dataset",
    "version": "version",
    "outcome": "outcome",
    "kind": "kind",
    "node": "node",
    "node_type": "node_type",
    "market": "market",
    "prices": "prices",
}
# Parts of local time -> how they are written; such text also chooses the lines of that day, hour or month. The hour
# that comes twice when clocks go back is one.
MOMENTS = {"day": "%Y-%m-%d", "hour": "%Y-%m-%d %H:00", "month": "%Y-%m"}
KEYS = (*COLUMNS, *MOMENTS)
DEFAULT_BY = ("team", "workload", "stage")

_QUARTER = 900_000_000  # us; every offset from UTC that is in use is a whole number of quarter hours
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(min|h|d|w)")
_UNITS = {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_MOMENT_FIX = "write 7d, 24h, 2026-11-01, 2026-11-01T18:00, today, yesterday, or this or last week or month"

Span = tuple[datetime, datetime]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which lines are asked for, and by what they are put together.

    `only`: key -> the values of which a line has one; None is that of lines that have none. Moments are in UTC;
    `since` is the first that counts, `until` the first that does not.
    """

    by: tuple[str, ...] = DEFAULT_BY
    only: Mapping[str, tuple[str | int | None, ...]] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    @property
    def when(self) -> str | None:
        """Return the SQL condition on time, of `_usage` and `_costs` alike; None: any time."""
        ends = [(">=", self.since), ("<", self.until)]
        said = [f"started_at {sign} {instant(moment)}" for sign, moment in ends if moment]
        for key in MOMENTS.keys() & self.only.keys():
            spans = (period(key, str(value)) for value in self.only[key])
            inside = (Question(since=start, until=stop).when for start, stop in spans)
            said.append(f"({' OR '.join(f'({one})' for one in inside)})")
        return " AND ".join(said) or None

    @property
    def who(self) -> str | None:
        """Return the SQL condition on everything but time; None: anything."""
        said = []
        for key, values in self._columns.items():
            given = ", ".join(str(one) if isinstance(one, int) else quoted(one) for one in values if one is not None)
            parts = [f"{key} IN ({given})"] if given else []
            parts += [f"{key} IS NULL"] if None in values else []
            said.append(f"({' OR '.join(parts)})")
        return " AND ".join(said) or None

    @property
    def limits(self) -> list[str]:
        """Return which lines are asked for, for people; nothing where it is all of them."""
        said = [f"from {self.since.astimezone():%Y-%m-%d %H:%M}"] if self.since else []
        said += [f"to {self.until.astimezone():%Y-%m-%d %H:%M}"] if self.until else []
        named = ((key, ("-" if one is None else str(one) for one in values)) for key, values in self.only.items())
        return said + [f"{key}={' or '.join(values)}" for key, values in named]

    def choose(self, lines: pa.Table) -> pa.Table:
        """Return those lines of a table for which `when` and `who` hold."""
        ends = ((pc.greater_equal, self.since), (pc.less, self.until))
        for compare, moment in ends:
            if moment is not None:
                lines = lines.filter(compare(lines["started_at"], pa.scalar(moment, COSTS.field("started_at").type)))
        for key in MOMENTS.keys() & self.only.keys():
            lines = lines.filter(pc.is_in(local(lines["started_at"], key), value_set=pa.array(self.only[key])))
        for column, values in self._columns.items():
            lines = lines.filter(pc.is_in(lines[column], value_set=pa.array(values, COSTS.field(column).type)))
        return lines

    @property
    def _columns(self) -> dict[str, tuple[str | int | None, ...]]:
        return {COLUMNS[key]: values for key, values in self.only.items() if key in COLUMNS}


def ask(
    *,
    by: str | Sequence[str] = DEFAULT_BY,
    only: Iterable[str] = (),
    since: str | None = None,
    until: str | None = None,
    now: datetime | None = None,
) -> Question:
    """Turn what a person wrote into a question.

    Args:
        by: keys, or a comma list of them.
        only: `key=value`; the same key twice asks for either value, another key narrows down; `key=` asks for lines
            that have no such thing.
        since: where a span (`last week`) stands alone, it also says the end.
        until: a moment that no longer counts; of a span, its end.
        now: another present than this one, with its time zone.

    Raises:
        NotFound: no such key; says the nearest.
        InvalidUse: a filter or a moment that says nothing, or an end before its beginning.
    """
    present = (now or datetime.now(UTC)).astimezone()
    start, stop = since and span(since, present), until and span(until, present)
    first = start[0] if start else None
    last = stop[1] if stop else (start[1] if start and start[0] < start[1] else None)
    if first and last and last <= first:
        raise InvalidUse(f"--until {until} is not after --since {since}", fix=_MOMENT_FIX)
    return Question(by=keys(by), only=filters(only), since=first, until=last)


def keys(by: str | Sequence[str]) -> tuple[str, ...]:
    """Return the keys of a comma list, each once.

    Raises:
        NotFound: no such key; says the nearest.
        InvalidUse: there is none.
    """
    named = [one.strip() for one in (by.split(",") if isinstance(by, str) else by)]
    for one in named:
        if one not in KEYS:
            raise unknown("key", one, list(KEYS)) if one else InvalidUse("--by names no key", fix=", ".join(KEYS))
    return tuple(dict.fromkeys(named))


def filters(only: Iterable[str]) -> dict[str, tuple[str | int | None, ...]]:
    """Return what `key=value` texts ask for, by key.

    Raises:
        NotFound: no such key; says the nearest.
        InvalidUse: there is no `=`, or the value cannot be one of that key.
    """
    found: dict[str, tuple[str | int | None, ...]] = {}
    for text in only:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise InvalidUse(f"{text!r} is no filter", fix="write KEY=VALUE, as in --only stage=video")
        if key not in KEYS:
            raise unknown("key", key, list(KEYS))
        found[key] = (*found.get(key, ()), _value(key, value))
    return found


def _value(key: str, text: str) -> str | int | None:
    if key in MOMENTS:
        period(key, text)
        return text
    if not text:
        return None
    if key != "version":
        return text
    if not text.isdecimal():
        raise InvalidUse(f"version {text!r} is not a number", fix="raycluster datasets NAME lists a dataset's versions")
    return int(text)


def period(key: str, text: str) -> Span:
    """Return the first moment of a local day, hour or month and the first after it, in UTC.

    Raises:
        InvalidUse: it is not written as these are.
    """
    try:
        start = datetime.strptime(text, MOMENTS[key])
    except ValueError as error:
        like = datetime(2026, 11, 1, 18).strftime(MOMENTS[key])
        raise InvalidUse(f"{key} {text!r} is not written like {like}", fix=f"--only {key}={like!r}") from error
    if key == "month":
        stop = (start + timedelta(days=31)).replace(day=1)
    else:
        stop = start + (timedelta(days=1) if key == "day" else timedelta(hours=1))
    return _utc(start), _utc(stop)


def span(text: str, now: datetime) -> Span:
    """Return the two moments, in UTC, that text names; one moment is a span of no length.

    Weeks are ISO's: from Monday on. What has no zone is local time, and a date is its midnight.

    Raises:
        InvalidUse: it names none.
    """
    said = " ".join(text.lower().split())
    if named := _named(now.date()).get(said):
        return _utc(datetime(*named[0].timetuple()[:3])), _utc(datetime(*named[1].timetuple()[:3]))
    if found := _AGO.fullmatch(said):
        try:
            return (moment := (now - float(found[1]) * _UNITS[found[2]]).astimezone(UTC)), moment
        except OverflowError as error:
            raise InvalidUse(f"{text!r} is longer ago than time itself", fix=_MOMENT_FIX) from error
    try:
        return (moment := _utc(datetime.fromisoformat(text.strip()))), moment
    except (ValueError, OverflowError) as error:
        raise InvalidUse(f"{text!r} names no moment", fix=_MOMENT_FIX) from error


def _named(today: date) -> dict[str, tuple[date, date]]:
    """Return the spans that have names."""
    day, week = timedelta(days=1), timedelta(weeks=1)
    monday, first = today - today.weekday() * day, today.replace(day=1)
    return {
        "today": (today, today + day),
        "yesterday": (today - day, today),
        "this week": (monday, monday + week),
        "last week": (monday - week, monday),
        "this month": (first, (first + 31 * day).replace(day=1)),
        "last month": ((first - day).replace(day=1), first),
    }


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)  # what has no zone is local


def local(started_at: pa.ChunkedArray | pa.Array, key: str) -> pa.Array:
    """Return the local day, hour or month in which each moment lies, as text.

    Python knows local time also where it has no name; it is asked once a quarter hour, not once a line.
    """
    whole = started_at.combine_chunks() if isinstance(started_at, pa.ChunkedArray) else started_at
    quarters = pc.divide(whole.cast(pa.int64()), _QUARTER).dictionary_encode()
    names = [_written(quarter, MOMENTS[key]) for quarter in quarters.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(quarters.indices)


def _written(quarter: Any, form: str) -> str:
    seconds = quarter * _QUARTER // 1_000_000
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime(form)
