"""Costly work beside requests: once in a while, once at a time, and never waited for longer than is said."""

from __future__ import annotations

import threading
import time

import pytest

from raycluster.serve.seldom import Seldom


def test_it_is_done_once_in_a_while_however_often_it_is_asked_for():
    done = []
    work = Seldom(lambda: done.append(time.monotonic()), every=0.3)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        assert work.nudge(5)
        time.sleep(0.001)
    assert 2 <= len(done) <= 3
    assert done[1] - done[0] >= 0.3


def test_it_is_never_done_twice_at_a_time():
    begun, let = [], threading.Event()
    work = Seldom(lambda: (begun.append(1), let.wait(30)), every=0.0)
    asking = [threading.Thread(target=work.nudge, args=(10,)) for _ in range(20)]
    for one in asking:
        one.start()
    started = time.monotonic()
    assert not work.nudge(0.05)
    assert time.monotonic() - started < 5
    assert len(begun) == 1
    let.set()
    for one in asking:
        one.join(10)
    assert work.nudge(10)


def test_what_goes_wrong_is_told_and_may_go_well_the_next_time(caplog):
    results = iter([OSError("no lake"), None])

    def do():
        if (result := next(results)) is not None:
            raise result

    work = Seldom(do, every=0.0)
    assert not work.nudge(10)
    assert work.trouble == "OSError: no lake"
    assert [one.getMessage() for one in caplog.records] == ["OSError: no lake"]
    assert work.nudge(10)
    assert work.trouble == ""


@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_work_that_hangs_holds_nobody_up(wait):
    let = threading.Event()
    work = Seldom(lambda: let.wait(30), every=0.0)
    started = time.monotonic()
    assert not any(work.nudge(wait) for _ in range(5))
    assert time.monotonic() - started < 3
    assert sum(one.name.endswith("(_work)") for one in threading.enumerate()) <= 1
    let.set()
