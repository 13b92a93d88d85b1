"""The processes below this one become their CPU seconds and their memory, Ray's own among them.

A process counts from its start to its end, whoever started it: this process adopts those whose parents have died.
Memory is the sum of PSS, in which pages that several processes share count once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
_TICK = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.05  # what a process uses after the last look before its end is lost
_SCAN_SECONDS = 0.5  # between looks for new processes
_MEMORY_SHARE = 0.01  # of this machine's one core that reading memory maps may take


class Tree:
    """All descendants of this process that start from now on: CPU seconds used, and the highest sum of memory seen."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._others = descendants()
        self._used: dict[tuple[int, int], float] = {}  # pid and start time -> CPU seconds
        self._living: set[int] = set()
        self._guard = threading.Lock()

    @property
    def cpu_seconds(self) -> float:
        """Return what the living and the dead have used."""
        with self._guard:
            self._scan()
            self._look()
            return sum(self._used.values())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look again and again in a thread."""
        over = threading.Event()

        def run() -> None:
            scan = weigh = 0.0
            while not over.wait(_LOOK_SECONDS):
                now = time.monotonic()
                with self._guard:
                    if now >= scan:
                        self._scan()
                        scan = now + _SCAN_SECONDS
                    self._look()
                if now >= weigh:
                    weigh = now + max(_SCAN_SECONDS / 2, self._weigh() / _MEMORY_SHARE)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._weigh()  # a block may be over before the first look

    def _scan(self) -> None:
        self._living = descendants(self._others)

    def _look(self) -> None:
        for pid in self._living:
            with suppress(OSError):
                fields = _stat(pid)
                # utime, stime: fields 14 and 15 of proc(5); starttime: field 22
                self._used[pid, int(fields[19])] = (int(fields[11]) + int(fields[12])) / _TICK

    def _weigh(self) -> float:
        started = time.thread_time()
        self.peak_bytes = max(self.peak_bytes, sum(map(_pss, list(self._living))))
        return time.thread_time() - started


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents die."""
    ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)


def descendants(without: Set[int] = frozenset()) -> set[int]:
    """Return the pids of all living processes below this one, except some and what is below those."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                parents[int(entry)] = int(_stat(int(entry))[1])
    found: set[int] = set()
    fresh = {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - without
        found |= fresh
    return found


def clear() -> None:
    """End what is left below this process, and wait for it."""
    limit = time.monotonic() + 10
    while left := descendants():
        sign = signal.SIGTERM if time.monotonic() < limit else signal.SIGKILL
        for pid in left:
            with suppress(OSError):
                os.kill(pid, sign)
        time.sleep(0.1)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state (field 3) on; the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
