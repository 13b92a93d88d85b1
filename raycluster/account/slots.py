"""What a worker process does becomes counters in a file that outlives it: the meter writes them, the node agent reads.

The file is mapped into memory and has a fixed size. A *slot* is what one key (a stage, a modality, an outcome) has
consumed in this process so far: counters only ever grow, so an agent that misses a look, or is started anew, reads the
next one and has lost nothing, and 10^9 calls take no more room than ten. A *cell* is a thread's call that is going on.

    header   16 numbers, then the owner as JSON
    cells    64 x 16 numbers
    slots    1,023 x (16 numbers, then the key, 128 bytes), and one for what no longer fits

Numbers are int64 in the machine's order, each written in one piece: writer and reader are on one machine.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from raycluster.account import proc

_MAGIC = 0x72636D7472303102  # changes with the layout
_WORD = 8
_HEADER = 4096
_OWNER = 128  # where the owner begins
_CELLS, _CELL = 64, 16  # cells, words a cell
_SLOTS, _SLOT = 1024, 32  # slots, words a slot
_CELLS_AT = _HEADER // _WORD
_SLOTS_AT = _CELLS_AT + _CELLS * _CELL
SIZE = (_SLOTS_AT + _SLOTS * _SLOT) * _WORD
LAST = _SLOTS_AT + (_SLOTS - 1) * _SLOT  # the place of the slot that all threads share once there is no room

# Words of the header.
_VERSION, _PID, _USED, BEGUN, ENDED, FIRST_CALL, JOB, _STARTED = range(8)  # BEGUN, ENDED: changes to be seen whole

# Words of a slot. Times in nanoseconds.
CALLS, CPU, WALL, ROWS_IN, ROWS_OUT, BYTES_READ, BYTES_WRITTEN = range(7)
COUNTERS = 7
_KEY_AT, _KEY_BYTES = 16 * _WORD, 128

# Words of a cell. Its call's time is the process's while it is ALONE in it, and its own thread's once others run beside
# it; a coroutine has no thread of its own (0), and its steps are in its slot already.
STATE, THREAD, SLOT_OF, MARK, THREAD_MARK, WALL_MARK = range(6)
CLOSED, ALONE, SHARED = range(3)

OPEN = "open"  # outcome of what a call that goes on has finished: laps, and steps of coroutines
_OVERFLOW = ("(more)", "", "ok")  # the key of the last slot

Key = tuple[str, str, str]  # stage, modality, outcome


class Tape:
    """The file of one process, as the meter writes it. One thread writes a slot: `claim` gives each its own."""

    def __init__(self, path: Path, *, node: str, payer: dict[str, Any] | None = None) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        file = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(file, 0, SIZE)  # a disk that is full says so now, and not by SIGBUS in somebody's call
            self.memory = mmap.mmap(file, SIZE)
        finally:
            os.close(file)
        self.path = path
        self.words = memoryview(self.memory).cast("q")
        self.words[_PID] = os.getpid()
        self.words[_STARTED] = _started()
        self.claiming = threading.Lock()
        self.owner: dict[str, Any] = {}
        self.node = node
        self.payer = payer  # of its job, whenever no run of it is on
        self.own({})
        self.claim(_OVERFLOW, at=_SLOTS - 1)
        self.words[_VERSION] = _MAGIC  # last: until now it is not for reading

    def own(self, owner: dict[str, Any]) -> None:
        """Write who is to be billed for this process; {}, or one that is too long: whoever its job belongs to."""
        text = json.dumps({**owner, "node": self.node, **({"payer": self.payer} if self.payer else {})}).encode()
        if len(text) > _HEADER - _OWNER:
            text = json.dumps({"node": self.node}).encode()
        self.owner = owner
        self.words[BEGUN] += 1
        self.memory[_OWNER:_HEADER] = text.ljust(_HEADER - _OWNER, b"\0")
        self.words[ENDED] += 1

    def claim(self, key: Key, at: int | None = None) -> int:
        """Return the place of a new slot's first word; that of the last one when there is no room."""
        with self.claiming:  # two threads that claim at once get two slots
            place = int(self.words[_USED]) if at is None else at
            if place >= _SLOTS - 1 and at is None:
                return LAST
            first = _SLOTS_AT + place * _SLOT
            text = _text(key)
            start = first * _WORD + _KEY_AT
            self.memory[start : start + len(text)] = text
            if at is None:
                self.words[_USED] = place + 1
        return first

    def cells(self) -> list[int]:
        """Return the places of all cells."""
        return list(range(_CELLS_AT, _SLOTS_AT, _CELL))


def _started() -> int:
    process = proc.look(os.getpid())
    return process.started if process else 0


def _text(key: Key) -> bytes:
    """Return a key as it is written: the outcome whole, of the modality and the stage what there is room for."""
    stage, modality, outcome = (part.replace("\x1f", " ").replace("\0", " ") for part in key)
    end = f"\x1f{_cut(modality, _KEY_BYTES // 4)}\x1f{outcome}".encode()
    return _cut(stage, _KEY_BYTES - len(end)).encode() + end


def _cut(text: str, size: int) -> str:
    """Return as much of a text as takes so many bytes."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that goes on, as its cell says."""

    key: Key
    thread: int  # native id
    is_alone: bool
    mark: int  # the process's clock when it began, or when its last lap did
    thread_mark: int
    wall_mark: int  # CLOCK_MONOTONIC

    @property
    def id(self) -> tuple[int, int, int]:
        """Return what tells it from other calls of its process."""
        return self.thread, self.mark, self.wall_mark


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a process has done so far."""

    pid: int
    started: int  # ticks since boot, as `proc.Process` has it: pids come again
    job: str  # hex; "" before its first call
    first_call: int  # nanoseconds on the process's clock; 0: none yet
    owner: dict[str, Any] = field(default_factory=dict)
    sums: dict[Key, tuple[int, ...]] = field(default_factory=dict)  # COUNTERS numbers each
    calls: tuple[Call, ...] = ()


def read(path: Path) -> Reading | None:
    """Read a process's file; None where it is not (yet) one, or is being changed each time we look.

    Of a process that has died within a change, which nobody will end, it is read as it is.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if os.fstat(file).st_size != SIZE:
            return None
        for _ in range(8):
            head, slots, is_whole = _look(file)
            if head[_VERSION] != _MAGIC:
                return None
            if is_whole or proc.look(head[_PID]) is None:
                return _reading(head, slots)
    except (OSError, ValueError, TypeError, OverflowError):  # it is not ours, whatever it is
        return None
    finally:
        os.close(file)
    return None


def _look(file: int) -> tuple[memoryview, memoryview, bool]:
    """Return the words of header and cells, those of the slots in use and the last, and whether they fit together."""
    head = memoryview(os.pread(file, _SLOTS_AT * _WORD, 0)).cast("q")
    used = min(max(head[_USED], 0), _SLOTS - 1)
    slots = os.pread(file, used * _SLOT * _WORD, _SLOTS_AT * _WORD)
    last = os.pread(file, _SLOT * _WORD, LAST * _WORD)
    after = memoryview(os.pread(file, _OWNER, 0)).cast("q")
    return head, memoryview(slots + last).cast("q"), head[BEGUN] == head[ENDED] == after[BEGUN]


def _reading(head: memoryview, slots: memoryview) -> Reading:
    content, number = slots.tobytes(), len(slots) // _SLOT
    keys: dict[int, Key] = {}
    sums: dict[Key, tuple[int, ...]] = {}
    for place in range(number):
        first = place * _SLOT
        key = _key(content[first * _WORD + _KEY_AT : (first + _SLOT) * _WORD])
        keys[_SLOTS_AT + first if place < number - 1 else LAST] = key
        found = tuple(slots[first : first + COUNTERS])
        if any(found):
            before = sums.get(key)
            sums[key] = tuple(map(sum, zip(before, found, strict=True))) if before else found
    cells = range(_CELLS_AT, _SLOTS_AT, _CELL)
    return Reading(
        pid=head[_PID],
        started=head[_STARTED],
        job=head[JOB].to_bytes(4, "big").hex() if head[JOB] else "",
        first_call=head[FIRST_CALL],
        owner=dict(json.loads(head.tobytes()[_OWNER:_HEADER].rstrip(b"\0"))),
        sums=sums,
        calls=tuple(_call(head, cell, keys) for cell in cells if head[cell + STATE] and head[cell + SLOT_OF] in keys),
    )


def _call(words: memoryview, cell: int, keys: dict[int, Key]) -> Call:
    return Call(
        key=keys[words[cell + SLOT_OF]],
        thread=words[cell + THREAD],
        is_alone=words[cell + STATE] == ALONE,
        mark=words[cell + MARK],
        thread_mark=words[cell + THREAD_MARK],
        wall_mark=words[cell + WALL_MARK],
    )


@lru_cache(maxsize=4 * _SLOTS)
def _key(content: bytes) -> Key:
    stage, _, rest = content[:_KEY_BYTES].rstrip(b"\0").decode(errors="replace").partition("\x1f")
    modality, _, outcome = rest.partition("\x1f")
    return stage, modality, outcome
