"""What a meter writes is what an agent reads, while it is being written and whatever lies there instead."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raycluster.account import proc, slots
from raycluster.account.slots import (
    ALONE,
    BEGUN,
    CALLS,
    CLOSED,
    COUNTERS,
    CPU,
    ENDED,
    FIRST_CALL,
    JOB,
    LAST,
    MARK,
    SIZE,
    SLOT_OF,
    STATE,
    THREAD,
    WALL_MARK,
    Reading,
    Tape,
    read,
)

# Writes as a meter does: what was open moves to where it belongs, and at no moment are there more or fewer calls than
# it says aloud afterwards.
WRITER = """
import sys, threading
from pathlib import Path
from raycluster.account.slots import BEGUN, CALLS, CPU, ENDED, Tape
tape = Tape(Path(sys.argv[1]), node="n")
words = tape.words
opened, ok = tape.claim(("s", "", "open")), tape.claim(("s", "", "ok"))
print("ready", flush=True)
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set())).start()
number = 0
while not done.is_set():
    number += 1
    words[opened + CALLS] += 1
    words[opened + CPU] += 10
    words[BEGUN] += 1
    for word in (CALLS, CPU):
        words[ok + word] += words[opened + word]
        words[opened + word] = 0
    words[ENDED] += 1
    if number % 1000 == 0:
        tape.own({"team": "x" * (number // 1000 % 50)})
print(number, flush=True)
"""
LOOKS = 300  # that find the file whole, as many as it takes beside them that do not


def told(path: Path) -> Reading:
    reading = read(path)
    assert reading is not None
    return reading


@pytest.fixture
def tape(tmp_path: Path) -> Tape:
    return Tape(tmp_path / "tape", node="n1")


def test_what_is_written_is_read(tape: Tape) -> None:
    first = tape.claim(("image", "video", "ok"))
    for word in range(COUNTERS):
        tape.words[first + word] = 10 + word
    tape.words[FIRST_CALL], tape.words[JOB] = 7, 0x01020304
    cell = tape.cells()[3]
    for word, value in ((SLOT_OF, first), (THREAD, 5), (MARK, 6), (WALL_MARK, 8), (STATE, ALONE)):
        tape.words[cell + word] = value
    tape.own({"team": "t", "node": "no other than its own"})
    reading = told(tape.path)
    assert reading.sums == {("image", "video", "ok"): tuple(range(10, 10 + COUNTERS))}
    assert (reading.pid, reading.job, reading.first_call) == (os.getpid(), "01020304", 7)
    assert (reading.owner, reading.started) == ({"team": "t", "node": "n1"}, proc.processes()[os.getpid()].started)
    (call,) = reading.calls
    assert (call.key, call.thread, call.is_alone, call.mark) == (("image", "video", "ok"), 5, True, 6)
    tape.words[cell + STATE] = CLOSED
    assert told(tape.path).calls == ()


def test_a_tape_is_for_its_user_alone_and_takes_its_room_at_once(tape: Tape) -> None:
    """A disk that is full later on would kill the process by SIGBUS, in the middle of somebody's call."""
    found = tape.path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_size == SIZE <= found.st_blocks * 512


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        Tape(tmp_path / "tape", node="n")
    assert read(tmp_path / "tape") is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_torn_is_ever_read_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        last, moved = 0, 0

        def look() -> bool:
            nonlocal last, moved
            reading = read(path)
            if reading is None:
                return False
            calls = sum(sums[CALLS] for sums in reading.sums.values())
            cpu = sum(sums[CPU] for sums in reading.sums.values())
            assert last <= calls
            assert 10 * calls - 10 <= cpu <= 10 * calls
            assert set(reading.owner.get("team", "")) <= {"x"}
            last, moved = calls, moved + (calls > last)
            return True

        # However the two processes take turns, the writer goes on until enough looks have found it further on.
        while moved < LOOKS:
            look()
        written = int(writer.communicate("")[0])
        assert look()
        assert last == written


def test_a_process_that_was_killed_within_a_change_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    script = (
        "import os, signal, sys; from pathlib import Path; from raycluster.account.slots import *\n"
        "tape = Tape(Path(sys.argv[1]), node='n'); tape.words[tape.claim(('s', '', 'ok')) + CALLS] = 3\n"
        "tape.words[BEGUN] += 1; print('x', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert read(path) is None  # it lives, and may go on
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert told(path).sums["s", "", "ok"][CALLS] == 3


def test_keys_beyond_the_room_there_is_are_counted_together(tape: Tape) -> None:
    places = [tape.claim((f"s{number}", "", "ok")) for number in range(1030)]
    assert len(set(places[:1023])) == 1023
    assert set(places[1023:]) == {LAST}
    for place in places:
        tape.words[place + CALLS] += 1
    sums = told(tape.path).sums
    assert len(sums) == 1024
    assert sums["(more)", "", "ok"][CALLS] == 7
    assert sum(one[CALLS] for one in sums.values()) == 1030


def test_keys_of_the_same_name_are_one(tape: Tape) -> None:
    for _ in range(3):  # of three threads
        tape.words[tape.claim(("s", "", "ok")) + CALLS] += 2
    assert told(tape.path).sums["s", "", "ok"][CALLS] == 6


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        (("a" * 500, "image", "failed"), ("a" * 115, "image", "failed")),
        (("ü" * 500, "image", "ok"), ("ü" * 59, "image", "ok")),
        (("日本語", "ví", "retried"), ("日本語", "ví", "retried")),
        (("s", "m" * 500, "ok"), ("s", "m" * 32, "ok")),
        (("s" * 500, "日" * 500, "retried"), ("s" * 89, "日" * 10, "retried")),
        (("a\x1fb", "c\x1f", "ok"), ("a b", "c ", "ok")),
        (("a\0", "", "ok"), ("a ", "", "ok")),
        (("\udce4", "", "ok"), ("?", "", "ok")),
        (("", "", "ok"), ("", "", "ok")),
    ],
)
def test_a_key_keeps_its_outcome_whatever_else_there_is_room_for(
    tape: Tape, key: tuple[str, str, str], kept: tuple[str, str, str]
) -> None:
    tape.words[tape.claim(key) + CALLS] = 1
    assert list(told(tape.path).sums) == [kept]


def test_threads_that_claim_at_once_get_slots_of_their_own(tape: Tape) -> None:
    found: list[int] = []
    start = threading.Barrier(8)

    def claim(thread: int) -> None:
        start.wait()
        found.extend(tape.claim((f"t{thread}", str(number), "ok")) for number in range(100))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=claim, args=(thread,)) for thread in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(before)
    assert len(set(found)) == 800
    for place in found:
        tape.words[place + CALLS] = 1
    assert set(told(tape.path).sums) == {(f"t{one}", str(number), "ok") for one in range(8) for number in range(100)}


def test_an_owner_that_is_too_long_is_none_and_not_the_one_before(tape: Tape) -> None:
    tape.own({"team": "first"})
    tape.own({"team": "x" * 5000})
    assert told(tape.path).owner == {"node": "n1"}
    tape.own({"team": "ü'\"\\"})
    assert told(tape.path).owner == {"node": "n1", "team": "ü'\"\\"}
    tape.own({})
    assert told(tape.path).owner == {"node": "n1"}


def test_an_owner_as_long_as_there_is_room(tape: Tape) -> None:
    room = 4096 - 128 - len('{"team": "", "node": "n1"}')
    tape.own({"team": "x" * room})
    assert told(tape.path).owner["team"] == "x" * room


def test_a_tape_that_begins_again_has_forgotten(tape: Tape) -> None:
    tape.words[tape.claim(("s", "", "ok")) + CALLS] = 1
    tape.own({"team": "t"})
    again = Tape(tape.path, node="n2")
    assert told(again.path).sums == {}
    assert told(again.path).owner == {"node": "n2"}


def garbage(tape: Tape) -> list[bytes]:
    whole = tape.path.read_bytes()

    def words(place: int, value: int) -> bytes:
        return whole[: 8 * place] + value.to_bytes(8, "little", signed=True) + whole[8 * place + 8 :]

    return [
        b"",
        whole[:-1],
        whole + b"\0",
        bytes(SIZE),
        os.urandom(SIZE),
        words(0, 1),  # another layout
        words(JOB, -5),
        words(JOB, 2**40),
        whole[:128] + b"no JSON".ljust(4096 - 128, b"\0") + whole[4096:],
        whole[:128] + b"[1, 2]".ljust(4096 - 128, b"\0") + whole[4096:],
        whole[:128] + bytes(4096 - 128) + whole[4096:],
        whole[:128] + b"\xff".ljust(4096 - 128, b"\0") + whole[4096:],
    ]


@pytest.mark.parametrize("number", range(12))
def test_what_is_no_tape_is_none(tape: Tape, tmp_path: Path, number: int) -> None:
    other = tmp_path / "other"
    other.write_bytes(garbage(tape)[number])
    assert read(other) is None


def test_numbers_out_of_range_stop_nobody(tape: Tape, tmp_path: Path) -> None:
    tape.words[2] = 10**12  # slots in use
    assert told(tape.path).sums == {}
    tape.words[2] = -1
    assert told(tape.path).sums == {}
    tape.words[tape.cells()[0] + STATE] = ALONE  # of a slot that there isn't
    tape.words[tape.cells()[0] + SLOT_OF] = 10**12
    assert told(tape.path).calls == ()


def test_a_file_that_is_not_there_or_not_to_be_read(tmp_path: Path) -> None:
    assert read(tmp_path / "none") is None
    assert read(tmp_path) is None


def test_what_is_being_changed_each_time_is_none_and_soon(tape: Tape) -> None:
    tape.words[BEGUN] += 1
    began = time.monotonic()
    assert read(tape.path) is None
    assert time.monotonic() - began < 1
    tape.words[ENDED] += 1
    assert read(tape.path) is not None


def test_the_size_of_the_file_is_that_of_the_layout() -> None:
    assert slots.SIZE == 8 * (LAST + 32)
