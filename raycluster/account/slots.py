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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAGIC = 0x72636D7472303101  # changes with the layout
_WORD = 8
_HEADER = 4096
_OWNER = 128  # where the owner begins
_CELLS, _CELL = 64, 16  # cells, words a cell
_SLOTS, _SLOT = 1024, 32  # slots, words a slot
_CELLS_AT = _HEADER // _WORD
_SLOTS_AT = _CELLS_AT + _CELLS * _CELL
SIZE = (_SLOTS_AT + _SLOTS * _SLOT) * _WORD

# Words of the header.
_VERSION, _PID, _USED, BEGUN, ENDED, FIRST_CALL, JOB = range(7)  # BEGUN, ENDED: changes that must be seen whole

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

    def __init__(self, path: Path, *, node: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        file = os.open(path, flags, 0o600)
        try:
            os.ftruncate(file, SIZE)
            self.memory = mmap.mmap(file, SIZE)
        finally:
            os.close(file)
        self.path = path
        self.words = memoryview(self.memory).cast("q")
        self.words[_PID] = os.getpid()
        self.owner: dict[str, Any] = {}
        self.node = node
        self.own({})
        self.claim(_OVERFLOW, at=_SLOTS - 1)
        self.words[_VERSION] = _MAGIC  # last: until now it is not for reading

    def own(self, owner: dict[str, Any]) -> None:
        """Write who is to be billed for this process; {}: whoever its job belongs to."""
        text = json.dumps({"node": self.node, **owner}).encode()
        if len(text) < _HEADER - _OWNER:
            self.owner = owner
            self.words[BEGUN] += 1
            self.memory[_OWNER:_HEADER] = text.ljust(_HEADER - _OWNER, b"\0")
            self.words[ENDED] += 1

    def claim(self, key: Key, at: int | None = None) -> int:
        """Return the place of a new slot's first word; that of the last one when there is no room."""
        place = int(self.words[_USED]) if at is None else at
        if place >= _SLOTS - 1 and at is None:
            return _SLOTS_AT + (_SLOTS - 1) * _SLOT
        first = _SLOTS_AT + place * _SLOT
        stage, modality, outcome = key
        room = _KEY_BYTES - len(modality) - len(outcome) - 2
        name = stage.encode()[:room].decode(errors="ignore")
        text = "\x1f".join((name, modality, outcome)).encode()[:_KEY_BYTES]
        start = first * _WORD + _KEY_AT
        self.memory[start : start + len(text)] = text
        if at is None:
            self.words[_USED] = place + 1
        return first

    def cells(self) -> list[int]:
        """Return the places of all cells."""
        return list(range(_CELLS_AT, _SLOTS_AT, _CELL))


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that goes on, as its cell says."""

    key: Key
    thread: int  # native id
    is_alone: bool
    mark: int  # the process's clock when it began, or when its last lap did
    thread_mark: int
    wall_mark: int  # CLOCK_MONOTONIC


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a process has done so far."""

    pid: int
    job: str  # hex; "" before its first call
    first_call: int  # nanoseconds on the process's clock; 0: none yet
    owner: dict[str, Any] = field(default_factory=dict)
    sums: dict[Key, tuple[int, ...]] = field(default_factory=dict)  # COUNTERS numbers each
    calls: tuple[Call, ...] = ()


def read(path: Path) -> Reading | None:
    """Read a process's file; None where it is not (yet) one, or is being changed each time we look."""
    for _ in range(8):
        try:
            with path.open("rb", buffering=0) as file:
                content = file.read()
                file.seek(0)
                after = memoryview(file.read(_OWNER)).cast("q")
        except OSError:
            return None
        if len(content) != SIZE:
            return None
        words = memoryview(content).cast("q")
        if words[_VERSION] == _MAGIC and words[BEGUN] == words[ENDED] == after[BEGUN]:
            return _reading(content, words)
    return None


def _reading(content: bytes, words: memoryview) -> Reading:
    keys: dict[int, Key] = {}
    sums: dict[Key, tuple[int, ...]] = {}
    for place in (*range(words[_USED]), _SLOTS - 1):
        first = _SLOTS_AT + place * _SLOT
        key = keys[first] = _key(content, first)
        found = tuple(words[first : first + COUNTERS])
        if any(found):
            sums[key] = tuple(map(sum, zip(sums.get(key, (0,) * COUNTERS), found, strict=True)))
    cells = range(_CELLS_AT, _SLOTS_AT, _CELL)
    return Reading(
        pid=words[_PID],
        job=words[JOB].to_bytes(4, "big").hex() if words[JOB] else "",
        first_call=words[FIRST_CALL],
        owner=json.loads(content[_OWNER:_HEADER].rstrip(b"\0") or b"{}"),
        sums=sums,
        calls=tuple(
            _call(words, cell, keys) for cell in cells if words[cell + STATE] and words[cell + SLOT_OF] in keys
        ),
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


def _key(content: bytes, first: int) -> Key:
    start = first * _WORD + _KEY_AT
    text = content[start : start + _KEY_BYTES].rstrip(b"\0").decode(errors="replace")
    stage, _, rest = text.partition("\x1f")
    modality, _, outcome = rest.partition("\x1f")
    return stage, modality, outcome
