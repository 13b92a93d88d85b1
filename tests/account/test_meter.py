"""Calls of every order and in every thread are billed what they used, and leave nothing open behind them."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import burns
import pytest

from raycluster.account import meter, slots
from raycluster.account.meter import Meter
from raycluster.account.slots import BYTES_READ, CALLS, COUNTERS, CPU, LAST, ROWS_IN, ROWS_OUT, WALL, Reading, Tape

CELLS = 63


class Core:
    """Stands in for Ray's core worker: the real one is asked in test_truth.py."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.attempt = 0

    def get_current_task_name(self) -> str:
        return self.names.get(threading.get_ident(), "task")

    def get_current_task_attempt_number(self) -> int:
        return self.attempt

    def get_current_job_id(self) -> Any:
        return SimpleNamespace(binary=lambda: b"\0\0\0\7")


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def here(tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    made = Meter(Tape(tmp_path / "tape", node="n"), SimpleNamespace(core_worker=core))
    monkeypatch.setattr(meter._Process, "meter", made)
    yield made
    assert len(made.free) == len({call.cell for call in made.free}) == CELLS
    assert made.open == set()
    assert told(made).calls == ()


def told(here: Meter) -> Reading:
    reading = slots.read(here.tape.path)
    assert reading is not None
    return reading


def sums(here: Meter, stage: str, outcome: str = "ok", modality: str = "") -> tuple[int, ...]:
    return told(here).sums.get((stage, modality, outcome), (0,) * COUNTERS)


def cpu(here: Meter, stage: str, outcome: str = "ok", modality: str = "") -> float:
    return sums(here, stage, outcome, modality)[CPU] / 1e9


def near(seconds: float) -> Any:
    return pytest.approx(seconds, rel=0.05, abs=0.02)


def in_thread(work: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []


def test_a_call_alone_is_billed_its_process(here: Meter) -> None:
    call = here.begin()
    burns.burn(0.05)
    in_thread(lambda: burns.burn(0.05))
    (going,) = told(here).calls
    assert (going.key, going.is_alone, going.thread) == (("task", "", "open"), True, threading.get_native_id())
    here.end(call, failed=False)
    assert cpu(here, "task") == near(0.1)
    assert sums(here, "task")[CALLS] == 1
    assert sums(here, "task")[WALL] >= sums(here, "task")[CPU] * 0.9
    assert told(here).job == "00000007"
    assert 0 < told(here).first_call < time.process_time_ns()


OUTCOMES = {(False, 0): "ok", (True, 0): "failed", (False, 2): "retried", (True, 1): "failed"}


@pytest.mark.parametrize(("failed", "attempt"), OUTCOMES)
@pytest.mark.parametrize("laps", [False, True])
def test_outcomes(here: Meter, failed: bool, attempt: int, laps: bool) -> None:
    here.worker.core_worker.attempt = attempt
    call = here.begin()
    if laps:
        meter.lap("one")
        meter.lap("two", {"image": 1})
    here.end(call, failed=failed)
    names = [("task", ""), ("one", ""), ("two", "image")] if laps else [("task", "")]
    outcome = OUTCOMES[failed, attempt]
    assert {key: one[CALLS] for key, one in told(here).sums.items()} == {(*name, outcome): 1 for name in names}


def test_laps_and_counts_are_shared_by_weight(here: Meter) -> None:
    call = here.begin()
    burns.burn(0.02)
    meter.lap("decode", {"image": 3, "video": 1, "audio": 0})
    burns.burn(0.08)
    meter.count(rows_in=40, rows_out=8, bytes_read=400)
    meter.lap("encode", {})
    burns.burn(0.03)
    meter.count(rows_in=5)
    assert {outcome for _, _, outcome in told(here).sums} == {"open"}
    here.end(call, failed=False)
    assert cpu(here, "task") == near(0.02)
    assert cpu(here, "decode", modality="image") == near(0.06)
    assert cpu(here, "decode", modality="video") == near(0.02)
    image, video = (sums(here, "decode", modality=name) for name in ("image", "video"))
    assert (image[ROWS_IN], image[ROWS_OUT], image[BYTES_READ]) == (30, 6, 300)
    assert (video[ROWS_IN], video[ROWS_OUT], video[BYTES_READ]) == (10, 2, 100)
    assert sums(here, "decode", modality="audio") == (0,) * COUNTERS
    assert cpu(here, "encode") == near(0.03)
    assert sums(here, "encode")[ROWS_IN] == 5


def test_a_failure_makes_all_laps_of_its_call_failed_and_none_of_another(here: Meter) -> None:
    good = here.begin()
    meter.lap("a")
    meter.count(rows_in=1)
    here.end(good, failed=False)
    bad = here.begin()
    meter.lap("a")
    meter.count(rows_in=2)
    here.end(bad, failed=True)
    assert sums(here, "a", "ok")[ROWS_IN] == 1
    assert sums(here, "a", "failed")[ROWS_IN] == 2
    assert sums(here, "a", "open") == (0,) * COUNTERS


@pytest.mark.parametrize(("code", "outcome"), [(1, "killed"), (0, "ok")])
def test_a_call_whose_process_is_told_to_end_is_killed(here: Meter, code: int, outcome: str) -> None:
    call = here.begin()
    burns.burn(0.05)
    try:
        sys.exit(code)
    except SystemExit:
        here.end(call, failed=True)
    assert cpu(here, "task", outcome) == near(0.05)


def test_a_second_attempt_at_what_was_never_begun_is_no_repetition(here: Meter, core: Core) -> None:
    core.attempt = 1
    call = here.begin()
    meter.never_begun()
    here.end(call, failed=False)
    here.end(here.begin(), failed=False)
    assert (sums(here, "task", "ok")[CALLS], sums(here, "task", "retried")[CALLS]) == (1, 1)


def test_a_thread_of_the_only_call_laps_for_it(here: Meter) -> None:
    call = here.begin()

    def helper() -> None:
        meter.lap("encode", {"text": 1})
        burns.burn(0.05)
        meter.count(rows_out=3)

    in_thread(helper)
    here.end(call, failed=True)
    assert cpu(here, "encode", "failed", "text") == near(0.05)
    assert sums(here, "encode", "failed", "text")[ROWS_OUT] == 3


def test_a_thread_beside_two_calls_is_nobodys(here: Meter) -> None:
    calls = [here.begin(in_steps=True) for _ in range(2)]
    in_thread(lambda: (meter.lap("encode"), meter.count(rows_in=1)))
    for call in calls:
        here.end(call, failed=False, steps=0)
    assert {stage for stage, _, _ in told(here).sums} == {"task"}


def test_without_call_or_meter_nothing_happens(here: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    meter.lap("a")
    meter.count(rows_in=1)
    assert told(here).sums == {}
    monkeypatch.setattr(meter._Process, "meter", None)
    meter.lap("a")
    meter.count(rows_in=1)
    meter.charge({"team": "t"})
    assert told(here).owner == {"node": "n"}


def test_a_process_is_charged_to_an_owner(here: Meter) -> None:
    meter.charge({"team": "t"})
    begun = here.words[slots.BEGUN]
    meter.charge({"team": "t"})
    assert here.words[slots.BEGUN] == begun
    assert told(here).owner == {"node": "n", "team": "t"}


class Turns:
    """Threads that begin, work and end calls in an order that a test gives."""

    def __init__(self, here: Meter, core: Core, names: str) -> None:
        self.here, self.core = here, core
        self.doing = {name: threading.Event() for name in names}
        self.done = {name: threading.Event() for name in names}
        self.work: dict[str, Callable[[], Any]] = {}
        self.calls: dict[str, Any] = {}
        self.threads = [threading.Thread(target=self._run, args=(name,)) for name in names]
        for one in self.threads:
            one.start()

    def _run(self, name: str) -> None:
        self.core.names[threading.get_ident()] = name
        while self.doing[name].wait(10):
            self.doing[name].clear()
            if name not in self.work:
                return
            self.work.pop(name)()
            self.done[name].set()

    def do(self, name: str, work: Callable[[], Any]) -> None:
        self.work[name] = work
        self.doing[name].set()
        assert self.done[name].wait(10)
        self.done[name].clear()

    def begin(self, name: str) -> None:
        self.do(name, lambda: self.calls.update({name: self.here.begin()}))

    def end(self, name: str) -> None:
        self.do(name, lambda: self.here.end(self.calls.pop(name), failed=False))

    def close(self) -> None:
        for event in self.doing.values():
            event.set()
        for one in self.threads:
            one.join()


# A capital begins a call, its small letter ends it.
ORDERS = sorted(one for one in permutations("AaBbCc") if all(one.index(x) < one.index(x.lower()) for x in "ABC"))


@pytest.mark.parametrize("order", ORDERS[::3], ids="".join)
def test_threads_that_overlap_in_every_order(here: Meter, core: Core, order: tuple[str, ...]) -> None:
    """Whoever has a call burns a little after each event: what a thread burned is its call's, and no one else's."""
    turns = Turns(here, core, "ABC")
    burned = dict.fromkeys("ABC", 0.0)
    for event in order:
        (turns.begin if event.isupper() else turns.end)(event.upper())
        for name in sorted(turns.calls):
            turns.do(name, lambda: burns.burn(0.004))
            burned[name] += 0.004
    for name, seconds in burned.items():
        assert cpu(here, name) == pytest.approx(seconds, rel=0.1, abs=0.004), name
    turns.close()


def test_calls_that_begin_at_the_same_moment_know_of_each_other(here: Meter) -> None:
    """Two that both took themselves for alone would both be billed the whole process."""
    rounds, errors, width = 150, [], 6
    gate = threading.Barrier(width)

    def work() -> None:
        try:
            for _ in range(rounds):
                gate.wait()
                call = here.begin()
                burns.burn(0.0002)
                gate.wait()
                here.end(call, failed=False)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)
            gate.abort()

    began = time.process_time()
    with switching_often():
        threads = [threading.Thread(target=work) for _ in range(width)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert errors == []
    assert sums(here, "task")[CALLS] == width * rounds
    assert cpu(here, "task") <= time.process_time() - began


class switching_often:  # noqa: N801 - reads as a statement
    """Let threads change places as often as they can."""

    def __enter__(self) -> None:
        self.before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self.before)


def test_more_calls_at_once_than_there_are_cells(here: Meter) -> None:
    calls = [here.begin(in_steps=True) for _ in range(CELLS + 10)]
    assert here.free == []
    assert len(told(here).calls) == CELLS + 1
    for call in calls:
        here.end(call, failed=False, steps=1000)
    assert sums(here, "task")[CALLS] == CELLS + 10
    assert sums(here, "task")[CPU] <= 1000 * (CELLS + 10)


def test_a_call_that_ends_twice_gives_one_cell_back(here: Meter) -> None:
    call = here.begin()
    here.end(call, failed=False)
    here.leave(call)
    assert len(here.free) == CELLS


def test_a_call_that_was_cancelled_unseen_is_left_by_the_next_one(here: Meter) -> None:
    here.begin()  # and an interrupt comes before anybody could note it
    call = here.begin()
    assert here.open == {call}
    assert not call.shared
    here.end(call, failed=False)


def test_a_call_that_another_thread_ended_is_not_left_for_it(here: Meter) -> None:
    """As the collector does to a generator: its cell may be a third thread's by now."""
    call = here.begin()
    in_thread(lambda: here.end(call, failed=True))
    others: list[Any] = []
    in_thread(lambda: others.append(here.begin()))
    mine = here.begin()
    assert mine is not others[0]
    assert here.open == {mine, others[0]}
    here.end(mine, failed=False)
    here.end(others[0], failed=False)


def test_threads_that_come_and_go_take_no_more_room(here: Meter) -> None:
    def work() -> None:
        call = here.begin()
        meter.lap("stage", {"image": 1})
        here.end(call, failed=False)

    for _ in range(3):
        in_thread(work)
    gc.collect()
    used = here.words[2]
    for _ in range(100):
        in_thread(work)
    assert here.words[2] == used
    assert sums(here, "stage", modality="image")[CALLS] == 103


def test_names_without_end_are_counted_together_and_never_less(here: Meter, core: Core) -> None:
    me = threading.get_ident()
    for number in range(1500):
        core.names[me] = f"task-{number}"
        call = here.begin()
        meter.lap(f"stage-{number}")
        meter.count(rows_in=1)
        here.end(call, failed=False)
        if number % 100 == 0:
            assert sum(one[CALLS] for one in told(here).sums.values()) == 2 * (number + 1)
    assert sum(one[CALLS] for one in told(here).sums.values()) == 3000
    assert sum(one[ROWS_IN] for one in told(here).sums.values()) == 1500
    assert len(here.mine.slots) <= 1023
    assert LAST not in here.mine.slots.values()


def test_calls_allocate_nothing(here: Meter) -> None:
    def calls(number: int) -> None:
        for _ in range(number):
            here.end(here.begin(), failed=False)

    calls(100)
    gc.collect()
    before = sys.getallocatedblocks()
    calls(5000)
    assert sys.getallocatedblocks() - before < 50


def test_what_cannot_be_billed_is_no_reason_for_a_call_to_fail(
    here: Meter, core: Core, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise RuntimeError("no task here")

    monkeypatch.setattr(core, "get_current_task_attempt_number", refuse)
    monkeypatch.setattr(core, "get_current_task_name", refuse)
    call = here.begin()
    with caplog.at_level(logging.ERROR):
        here.end(call, failed=False)
    assert "could not be billed" in caplog.text
    assert here.words[slots.BEGUN] == here.words[slots.ENDED]


FORK = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from raycluster.account import meter
from raycluster.account.slots import Tape, read
core = SimpleNamespace(
    get_current_task_name=lambda: "task",
    get_current_task_attempt_number=lambda: 0,
    get_current_job_id=lambda: SimpleNamespace(binary=lambda: bytes(4)),
)
here = meter.Meter(Tape(Path(sys.argv[1]), node="n"), SimpleNamespace(core_worker=core))
meter.use(here)
call = here.begin()
child = os.fork()
if not child:
    meter.lap("in the child")
    os._exit(meter.here() is not None)
print(os.waitpid(child, 0)[1], meter.here() is here)
here.end(call, failed=False)
print({stage for stage, _, _ in read(Path(sys.argv[1])).sums})
"""


def test_a_fork_has_no_meter(tmp_path: Path) -> None:
    """It would write into the tape of its parent, by its own clock."""
    told = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "tape")], check=True, capture_output=True, text=True
    )
    assert told.stdout.splitlines() == ["0 True", "{'task'}"]
