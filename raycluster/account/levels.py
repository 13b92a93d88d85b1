"""A worker's tape and its process's clock become levels: how much it has done so far, split by what it was for.

Levels add up to the process's CPU: what no call has used is `startup` before the first one and `background` after it.
A call that goes on is taken to go well; once its process is dead, what it had used is `killed`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raycluster.account.slots import (
    BYTES_READ,
    BYTES_WRITTEN,
    CALLS,
    CPU,
    OPEN,
    ROWS_IN,
    ROWS_OUT,
    WALL,
    Call,
    Reading,
)
from raycluster.account.window import Amounts
from raycluster.lake.ledger import Kind

_WORDS = {
    "calls": CALLS,
    "cpu": CPU,
    "wall": WALL,
    "rows_in": ROWS_IN,
    "rows_out": ROWS_OUT,
    "bytes_read": BYTES_READ,
    "bytes_written": BYTES_WRITTEN,
}


class Part(NamedTuple):
    """What a level is about."""

    kind: Kind
    stage: str | None = None
    modality: str | None = None
    outcome: str | None = None


STARTUP = Part("startup")
Levels = dict[Part, Amounts]


def levels(reading: Reading, cpu: int, *, now: int, thread_cpu: Callable[[int], int], dead: bool = False) -> Levels:
    """Split what a worker has done.

    Args:
        reading: its tape.
        cpu: nanoseconds on its process's clock, read after the tape.
        now: CLOCK_MONOTONIC, nanoseconds.
        thread_cpu: the clock of one of its threads, by native id.
        dead: it has ended, and `cpu` is what it was when it was last seen alive.
    """
    unfinished = "killed" if dead else "ok"
    found: Levels = {}
    for (stage, modality, outcome), sums in reading.sums.items():
        part = Part("task", stage, modality, unfinished if outcome == OPEN else outcome)
        _add(found, part, {name: sums[word] for name, word in _WORDS.items()})
    for call in reading.calls:
        stage, modality, _ = call.key
        going = {"cpu": _going(call, cpu, thread_cpu), "wall": 0 if dead else max(0, now - call.wall_mark)}
        _add(found, Part("task", stage, modality, unfinished), going)
    startup = min(cpu, reading.first_call or cpu)
    _add(found, STARTUP, {"cpu": startup})
    rest = cpu - sum(amounts["cpu"] for amounts in found.values())
    if not (dead and rest < 0):  # calls that ended after the last look at a process that is dead now
        _add(found, Part("background", background(reading)), {"cpu": rest})
    return found


def _going(call: Call, cpu: int, thread_cpu: Callable[[int], int]) -> int:
    """Return what a call that goes on has used since its marks."""
    if call.is_alone:
        return max(0, cpu - call.mark)
    return max(0, thread_cpu(call.thread) - call.thread_mark) if call.thread and call.thread_mark else 0


def background(reading: Reading) -> str | None:
    """Return what a process is called between its calls: the class of its actor, or no name."""
    names = {stage.partition(".")[0].rpartition(":")[2] for stage, _, _ in reading.sums if stage.endswith(".__init__")}
    return names.pop() if len(names) == 1 else None


def _add(found: Levels, part: Part, amounts: Amounts) -> None:
    sums = found.setdefault(part, {})
    for name, amount in amounts.items():
        sums[name] = sums.get(name, 0) + amount
