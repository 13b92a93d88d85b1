"""A ticket opens exactly one row's media, for some minutes, under the policy that it was issued under."""

import base64
import time
from dataclasses import replace
from typing import Any

import pytest

from raycluster.errors import Unauthenticated
from raycluster.serve import ticket as module
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.ticket import SECONDS, Grant, issue, require

GRANT = Grant("gallery", "a" * 64, "live")


def holds(context: Context, grant: Grant, ticket: str) -> bool:
    try:
        require(context, grant, ticket)
    except Unauthenticated:
        return False
    return True


def test_what_it_opens(context: Context) -> None:
    ticket, ends = issue(context, GRANT)
    assert holds(context, GRANT, ticket)
    assert abs(ends - time.time() - SECONDS) <= 1
    for other in ({"dataset": "other"}, {"row": "b" * 64}, {"version": "2"}, {"row": ""}):
        assert not holds(context, replace(GRANT, **other), ticket)


def test_when_it_ends(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket, ends = issue(context, GRANT)
    for now, expected in [(ends - 1, True), (ends, False), (ends + 10**6, False)]:
        monkeypatch.setattr(module.time, "time", lambda now=now: float(now))
        assert holds(context, GRANT, ticket) is expected


def test_one_that_is_tampered_with(context: Context) -> None:
    ticket, ends = issue(context, GRANT)
    _, _, mark = ticket.partition(".")
    raw = bytearray(base64.urlsafe_b64decode(mark + "="))
    raw[0] ^= 1
    flipped = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    wrong = [f"{ends + 60}.{mark}", f"{ends}.{flipped}", f"{ends}.", f"{ends}", f".{mark}", mark, "", "new.new"]
    wrong += [f"{ends}.{mark}=", f"+{ends}.{mark}", f"0{ends}.{mark}x", f"{'9' * 99}.{mark}", f"\u0661.{mark}", "é.ü"]
    assert [one for one in wrong if holds(context, GRANT, one)] == []


def test_one_under_another_policy(context: Context, told: Any) -> None:
    ticket, _ = issue(context, GRANT)
    told.revision = "2"
    assert not holds(context, GRANT, ticket)
    again, _ = issue(context, GRANT)
    assert holds(context, GRANT, again)


def test_any_replica_of_a_lake_knows_it_and_no_other_lake(context: Context, tmp_path: Any) -> None:
    ticket, _ = issue(context, GRANT)
    beside, elsewhere = Context.open(context.settings), Context.open(Settings(lake=str(tmp_path / "elsewhere")))
    try:
        assert holds(beside, GRANT, ticket)
        assert not holds(elsewhere, GRANT, ticket)
    finally:
        beside.close()
        elsewhere.close()


def test_what_is_said_of_one_that_does_not_hold(context: Context) -> None:
    with pytest.raises(Unauthenticated, match="does not hold") as caught:
        require(context, GRANT, "1.x")
    assert "ticket=new" in caught.value.fix
