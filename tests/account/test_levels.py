"""The levels of a living process are its CPU, split; those of a dead one are what is known for sure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycluster.account.levels import STARTUP, Part, background, levels, used
from raycluster.account.slots import COUNTERS, OPEN, Call, Reading

EMPTY = Reading(pid=1, started=1, job="", first_call=0)
CALL = Call(key=("s", "image", OPEN), thread=7, is_alone=True, mark=100, thread_mark=30, wall_mark=1000)


def sums(*known: int) -> tuple[int, ...]:
    return (*known, *(0,) * (COUNTERS - len(known)))


def test_before_its_first_call_all_is_startup() -> None:
    found = levels(EMPTY, 500, now=0, going={}, dead=False)
    assert found == {STARTUP: {"cpu": 500}, Part("background"): {"cpu": 0}}


def test_what_is_open_goes_well_until_its_process_is_dead() -> None:
    reading = replace(EMPTY, first_call=50, calls=(CALL,), sums={("s", "image", OPEN): sums(1, 20, 40, 5)})
    alive = levels(reading, 300, now=1500, going={CALL.id: 200}, dead=False)
    assert alive[Part("task", "s", "image", "ok")] == {
        "calls": 1,
        "cpu": 220,
        "wall": 540,
        "rows_in": 5,
        "rows_out": 0,
        "bytes_read": 0,
        "bytes_written": 0,
    }
    assert alive[Part("background")] == {"cpu": 30}
    dead = levels(reading, 300, now=1500, going={CALL.id: 200}, dead=True)
    assert dead[Part("task", "s", "image", "killed")] == alive[Part("task", "s", "image", "ok")]
    assert {part.kind for part in dead} == {"task", "startup"}


def test_a_call_that_began_after_a_dead_process_was_seen_has_used_nothing_known() -> None:
    reading = replace(EMPTY, first_call=50, calls=(replace(CALL, wall_mark=2000),))
    dead = levels(reading, 300, now=1500, going={CALL.id: 200}, dead=True)
    assert dead[Part("task", "s", "image", "killed")] == {"cpu": 0, "wall": 0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 200),  # its process's clock: 300 - 100
        ({"mark": 400}, 0),
        ({"is_alone": False}, 15),  # its thread's: 45 - 30
        ({"is_alone": False, "thread_mark": 90}, 0),
        ({"is_alone": False, "thread": 0}, 0),  # a coroutine: its steps are not told while it goes on
        ({"is_alone": False, "thread_mark": 0}, 0),  # the clock of its thread was not taken
    ],
)
def test_what_a_call_has_used_so_far(changes: dict[str, int], expected: int) -> None:
    assert used(replace(CALL, **changes), 300, {7: 45}.__getitem__) == expected


@given(
    cpu=st.integers(0, 10**12),
    first=st.integers(0, 10**12),
    parts=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x"]), st.sampled_from(["ok", "failed", OPEN])),
        st.integers(0, 10**11),
    ),
    going=st.integers(0, 10**11),
)
def test_levels_add_up_to_the_process(cpu: int, first: int, parts: dict[tuple[str, str, str], int], going: int) -> None:
    reading = replace(
        EMPTY, first_call=first, sums={key: sums(1, amount) for key, amount in parts.items()}, calls=(CALL,)
    )
    found = levels(reading, cpu, now=0, going={CALL.id: going}, dead=False)
    assert sum(amounts["cpu"] for amounts in found.values()) == cpu


def test_a_process_is_called_after_the_only_class_that_began_in_it() -> None:
    assert background(EMPTY) is None
    one = replace(EMPTY, sums={("Sink.__init__", "", "ok"): sums(1), ("map", "", "ok"): sums(1)})
    assert background(one) == "Sink"
    assert background(replace(one, sums={**one.sums, ("job:Oven.__init__", "", "ok"): sums(1)})) is None
