from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from raycluster.lake.events import Event

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, **more) -> Event:
    fields = {
        "event_id": f"e{number}",
        "at": START + timedelta(minutes=number),
        "kind": "budget_warn",
        "subject": "discovery-month",
        "run_id": f"run{number}",
        "message": "80 % of it's spent",
        "detail": {"spent": 10**18, "share": 0.8, "text": "ü"},
    }
    return Event(**(fields | more))


def test_an_event_comes_back_as_it_was(place):
    events = place.events()
    assert events.recent() == []
    events.put()
    assert events.recent() == []
    told = [event(1), event(2, kind="unexplained", run_id=None, detail={})]
    events.put(*told)
    assert events.recent() == told[::-1]


def test_what_is_told_twice_is_entered_once_as_it_was_told_first(lake):
    first = event(1)
    again = replace(first, at=START + timedelta(days=1), run_id="later", message="again")
    lake.events().put(first, again)
    lake.events().put(again, event(2))
    assert lake.events().recent() == [event(2), first]


def test_newest_first_by_kind_and_time(lake):
    events = lake.events()
    events.put(*(event(number, kind="budget_stop" if number % 2 else "budget_warn") for number in (2, 4, 1, 3)))
    assert [one.event_id for one in events.recent()] == ["e4", "e3", "e2", "e1"]
    assert [one.event_id for one in events.recent("budget_stop")] == ["e3", "e1"]
    assert [one.event_id for one in events.recent(limit=1)] == ["e4"]
    since = (START + timedelta(minutes=3)).astimezone(timezone(timedelta(hours=-7)))
    assert [one.event_id for one in events.recent(since=since)] == ["e4", "e3"]
    assert [one.event_id for one in events.recent("budget_warn", since)] == ["e4"]


def test_two_runs_that_tell_the_same_at_once(lake):
    start, errors = threading.Barrier(4), []

    def tell(number):
        try:
            start.wait()
            lake.events().put(event(0, run_id=f"run{number}"), event(number + 1))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    assert sorted(one.event_id for one in lake.events().recent()) == ["e0", "e1", "e2", "e3", "e4"]
