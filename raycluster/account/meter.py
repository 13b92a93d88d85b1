"""What a worker process does becomes counters in its tape (`slots.py`), call by call.

`hook.py` brackets every call that Ray makes with `begin` and `end`; the engine says with `lap` and `count` which stage
a call is in. A call costs about 5 microseconds, no lock, no message.

Which clock: the process's, as long as a call is alone in it, since only that one sees the threads that it starts; its
own thread's once another call runs beside it; a coroutine's are the steps of it. Child processes, and threads that a
call leaves behind, are seen by the node agent.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from time import monotonic_ns, process_time_ns, thread_time_ns
from typing import Any

from raycluster.account import slots
from raycluster.account.slots import (
    ALONE,
    BEGUN,
    BYTES_READ,
    BYTES_WRITTEN,
    CALLS,
    CLOSED,
    COUNTERS,
    CPU,
    ENDED,
    FIRST_CALL,
    JOB,
    MARK,
    OPEN,
    ROWS_IN,
    ROWS_OUT,
    SHARED,
    SLOT_OF,
    STATE,
    THREAD,
    THREAD_MARK,
    WALL,
    WALL_MARK,
)


class _Process:
    """This process's meter, if it has one: a driver has none."""

    meter: Meter | None = None


def here() -> Meter | None:
    """Return this process's meter."""
    return _Process.meter


def use(meter: Meter) -> None:
    """Make `meter` this process's; not that of processes that it forks, which the node agent sees as its children."""
    _Process.meter = meter
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    _Process.meter = None


def charge(owner: Mapping[str, Any]) -> None:
    """Bill this process to an owner (run, workload, labels, dataset), whatever its job is billed to."""
    if _Process.meter is not None and _Process.meter.tape.owner != owner:
        _Process.meter.tape.own(dict(owner))


def lap(stage: str, modalities: Mapping[str, int] | None = None) -> None:
    """Bill what this thread's call does from now on to a stage, shared between modalities by these weights."""
    meter = _Process.meter
    if meter is not None and (call := meter.current()) is not None:
        meter.lap(call, stage, modalities or _ANY)


def never_begun() -> None:
    """Say that the work of this thread's call is done for the first time, though Ray may call it a second attempt.

    It does for whatever was queued at an actor that died.
    """
    meter = _Process.meter
    if meter is not None and (call := meter.current()) is not None:
        call.is_first = True


def count(*, rows_in: int = 0, rows_out: int = 0, bytes_read: int = 0, bytes_written: int = 0) -> None:
    """Count what the stage that this thread's call is in has taken and made."""
    meter = _Process.meter
    if meter is not None and (call := meter.current()) is not None:
        amounts = {ROWS_IN: rows_in, ROWS_OUT: rows_out, BYTES_READ: bytes_read, BYTES_WRITTEN: bytes_written}
        meter.count(call, amounts)


_ANY = {"": 1}  # of no modality
_log = logging.getLogger(__name__)


class _Call:
    """A call that goes on; used again and again, so that a call allocates nothing."""

    __slots__ = ("by", "cell", "cpu", "is_first", "laps", "modalities", "noted", "shared", "stage", "thread", "wall")

    by: int  # the thread that began it
    cpu: int  # clocks when it began, or at its last lap: the process's,
    thread: int  # its thread's (0: not taken),
    wall: int  # and monotonic time
    noted: int  # what others beside it had been billed by then
    is_first: bool  # whether it is known to be no repetition
    shared: bool  # whether others have run beside it since
    stage: str
    modalities: Mapping[str, int]

    def __init__(self, cell: int) -> None:
        self.cell = cell
        self.laps: dict[int, slots.Key] = {}  # open slots that this call has filled


class _Slots(dict[slots.Key, int]):
    """A thread's slots: once it has ended they are whoever's wants one of the same key, so threads may come and go."""

    def __init__(self, left: dict[slots.Key, list[int]]) -> None:
        super().__init__()
        self.left = left

    def __del__(self) -> None:
        for key, slot in self.items():
            self.left.setdefault(key, []).append(slot)


class _Mine(threading.local):
    """What a thread has for itself: its slots, since one thread writes a slot, and the call it is in."""

    def __init__(self, left: dict[slots.Key, list[int]]) -> None:
        self.slots = _Slots(left)
        self.call: _Call | None = None
        self.thread = threading.get_native_id()
        self.is_main = threading.current_thread() is threading.main_thread()


class Meter:
    """The counters of one process."""

    def __init__(self, tape: slots.Tape, worker: Any) -> None:
        self.tape, self.words = tape, tape.words
        self.worker = worker
        self.left: dict[slots.Key, list[int]] = {}  # slots of threads that have ended
        self.mine = _Mine(self.left)
        *cells, spare = tape.cells()
        self.free = [_Call(cell) for cell in cells]
        self.spare = spare  # the cell of calls beyond their number: nobody can tell those apart while they go on
        self.open: set[_Call] = set()
        self.noted = 0  # thread time that was billed so far to calls beside others

    def current(self) -> _Call | None:
        """Return the call that this thread works for; a thread that a call has started works for the only one."""
        if self.mine.call is not None:
            return self.mine.call
        calls = tuple(self.open)  # in one piece: other threads begin and end calls meanwhile
        return calls[0] if len(calls) == 1 else None

    def begin(self, *, in_steps: bool = False) -> _Call:
        """Begin a call; one `in_steps` is a coroutine, whose own time is not its thread's."""
        mine, words = self.mine, self.words
        core = self.worker.core_worker
        try:
            stage = core.get_current_task_name() or "(unnamed)"
        except Exception:  # noqa: BLE001 - no reason for a call to fail
            stage = "(unnamed)"
        last = mine.call
        if last is not None and last.by == mine.thread and not in_steps:  # cancelled when nobody could end it
            self.leave(last)
        call = self.free.pop() if self.free else _Call(self.spare)
        call.stage, call.by = stage, mine.thread
        if not in_steps:
            mine.call = call
        call.modalities = _ANY
        call.is_first = call.shared = False
        self.open.add(call)  # before looking for others: of two that begin at once, one at least sees the other
        if len(self.open) > 1:
            for other in tuple(self.open):
                other.shared = True
                if words[other.cell + STATE]:
                    words[other.cell + STATE] = SHARED
        key = (call.stage, "", OPEN)
        cell = call.cell
        words[cell + SLOT_OF] = mine.slots.get(key) or self._slot(key)
        words[cell + THREAD] = 0 if in_steps else mine.thread
        call.noted = self.noted
        # A call in the main thread begins alone nearly always, and a clock costs as much as all the rest of this.
        call.thread = words[cell + THREAD_MARK] = 0 if mine.is_main or in_steps else thread_time_ns()
        call.cpu = words[cell + MARK] = process_time_ns()
        call.wall = words[cell + WALL_MARK] = monotonic_ns()
        words[cell + STATE] = SHARED if call.shared else ALONE
        if not words[FIRST_CALL]:
            words[FIRST_CALL] = max(1, call.cpu)
            words[JOB] = int.from_bytes(core.get_current_job_id().binary(), "big")
        return call

    def end(self, call: _Call, *, failed: bool, steps: int | None = None) -> None:
        """End a call; `steps`: nanoseconds of the steps of a coroutine."""
        try:
            self._end(call, failed, steps)
        except Exception:  # noqa: BLE001 - what accounting cannot do is no reason for a call to fail
            _log.exception("a call of %s could not be billed", call.stage)
        self.leave(call)

    def _end(self, call: _Call, failed: bool, steps: int | None) -> None:
        words = self.words
        used = self._used(call) if steps is None or not call.shared else self._stepped(call, steps)
        wall = monotonic_ns() - call.wall
        again = not call.is_first and self.worker.core_worker.get_current_task_attempt_number()
        outcome = _failure() if failed else "retried" if again else "ok"
        words[BEGUN] += 1
        try:
            if call.laps:
                self._bill(call, used, wall)
                self._settle(call, outcome)
            else:
                key = (call.stage, "", outcome)
                slot = self.mine.slots.get(key) or self._slot(key)
                words[slot + CALLS] += 1
                words[slot + CPU] += used
                words[slot + WALL] += wall
            words[call.cell + STATE] = CLOSED
        finally:
            words[ENDED] += 1

    def leave(self, call: _Call) -> None:
        """Forget a call, which is billed elsewhere or was none."""
        if self.mine.call is call:
            self.mine.call = None
        if call not in self.open:
            return
        self.words[call.cell + STATE] = CLOSED
        call.laps.clear()
        self.open.discard(call)
        if call.cell != self.spare:
            self.free.append(call)

    def lap(self, call: _Call, stage: str, modalities: Mapping[str, int]) -> None:
        """Bill what the call did since its last lap, and go on with another stage."""
        words = self.words
        used, wall = self._used(call), monotonic_ns()
        words[BEGUN] += 1
        try:
            self._bill(call, used, wall - call.wall)
            call.stage, call.modalities = stage, modalities
            call.shared = False
            if len(self.open) > 1:
                call.shared = True
            call.cpu = words[call.cell + MARK] = process_time_ns()
            call.wall = words[call.cell + WALL_MARK] = wall
            call.noted = self.noted
            if call.thread and self.mine.call is call:
                call.thread = words[call.cell + THREAD_MARK] = thread_time_ns()
            words[call.cell + STATE] = SHARED if call.shared else ALONE
            words[call.cell + SLOT_OF] = self._slot((stage, next(iter(modalities)), OPEN))
        finally:
            words[ENDED] += 1

    def count(self, call: _Call, amounts: Mapping[int, int]) -> None:
        """Count rows and bytes, by word of a slot, for the stage that a call is in, shared as its time is."""
        for modality, weight, whole in _shares(call.modalities):
            key = (call.stage, modality, OPEN)
            slot = self._slot(key)
            call.laps[slot] = key
            for word, amount in amounts.items():
                self.words[slot + word] += amount * weight // whole

    def _used(self, call: _Call) -> int:
        """Return the CPU nanoseconds of a call since its marks."""
        if not call.shared:
            return process_time_ns() - call.cpu
        if call.thread and self.mine.call is call:
            used = thread_time_ns() - call.thread
        else:  # its thread's clock was not taken, or is not this one: the process's, less what is known to be others'
            used = max(0, process_time_ns() - call.cpu - (self.noted - call.noted))
        self.noted += used
        return used

    def _stepped(self, call: _Call, steps: int) -> int:
        """Return the CPU nanoseconds of a coroutine beside others: its steps, but for those before its last lap."""
        used = min(steps, process_time_ns() - call.cpu)
        self.noted += used
        return used

    def _bill(self, call: _Call, used: int, wall: int) -> None:
        """Add to the open slots of the stage that a call is in; nobody knows yet how the call will end."""
        for modality, weight, whole in _shares(call.modalities):
            key = (call.stage, modality, OPEN)
            slot = self._slot(key)
            call.laps[slot] = key
            self.words[slot + CALLS] += 1
            self.words[slot + CPU] += used * weight // whole
            self.words[slot + WALL] += wall * weight // whole

    def _settle(self, call: _Call, outcome: str) -> None:
        """Move what a call has left in open slots to those of its outcome."""
        words = self.words
        for opened, (stage, modality, _) in call.laps.items():
            slot = self._slot((stage, modality, outcome))
            if opened == slots.LAST:  # others' are in it too
                continue
            for word in range(COUNTERS):
                words[slot + word] += words[opened + word]
                words[opened + word] = 0
        call.laps.clear()

    def _slot(self, key: slots.Key) -> int:
        mine = self.mine
        slot = mine.slots.get(key)
        if slot is None:
            left = self.left.get(key)
            slot = left.pop() if left else self.tape.claim(key)
            if slot != slots.LAST:  # keys without end are not kept
                mine.slots[key] = slot
        return slot


def _failure() -> str:
    """Return the outcome of a call that the exception at hand has ended; SystemExit ends its process too.

    Ray raises it in a worker that it terminates, as when the job's driver has died, and in `exit_actor`, with 0.
    """
    error = sys.exc_info()[1]
    if isinstance(error, SystemExit):
        return "killed" if error.code else "ok"
    return "failed"


def _shares(weights: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return each modality with its weight and that of all; what integer division leaves over is nanoseconds."""
    whole = sum(weights.values())
    return [(modality, weight, whole) for modality, weight in weights.items() if weight] or [("", 1, 1)]
