"""A block of code becomes what it takes: CPU seconds, memory, disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@contextmanager
def clocked() -> Iterator[Figures]:
    """Measure what this process takes in the block: seconds of all its threads, and how much its memory grows.

    Files that are mapped at the end are left out: the kernel takes their pages back when it needs them.
    """
    found: Figures = {}
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before, cpu, started = status("VmRSS") - status("RssFile"), time.process_time(), time.perf_counter()
    yield found
    found["cpu_s"] = round(time.process_time() - cpu, 4)
    found["wall_s"] = round(time.perf_counter() - started, 3)
    found["growth_bytes"] = max(0, status("VmHWM") - status("RssFile") - before) << 10


def status(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


@contextmanager
def disk(folder: str) -> Iterator[Callable[[], int]]:
    """Look again and again at how many bytes lie below a folder, also in files without a name; gives the most."""
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.05):
            total = 0
            for number in os.listdir("/proc/self/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{number}").startswith(folder):
                        total += os.stat(f"/proc/self/fd/{number}").st_blocks * 512
            most = max(most, total)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        over.set()
        thread.join()


def require(found: int, expected: int) -> None:
    """End the benchmark where something is not as it must be."""
    if found != expected:
        raise SystemExit(f"{found}, expected {expected}")
