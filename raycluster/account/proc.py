"""What the kernel knows about this machine's processes becomes numbers: CPU to the nanosecond, memory, parents.

A process's CPU comes from its own clock, which any process may read (`clock_getcpuclockid`, a system call of 0.7
microseconds), not from /proc/PID/stat, whose ticks are ten milliseconds. Linux only, as Ray's own metering is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CPUACCT = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage")  # cgroup v1: nanoseconds
_CPU_STAT = Path("/sys/fs/cgroup/cpu.stat")  # cgroup v2: microseconds


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process at one moment."""

    pid: int
    parent: int
    started: int  # ticks since boot
    cpu: int  # nanoseconds of its own
    reaped: int  # nanoseconds of its children that have ended and that it waited for, and of theirs
    rss: int  # bytes

    @property
    def id(self) -> tuple[int, int]:
        """Return what names it for ever: pids come again."""
        return self.pid, self.started

    @property
    def started_seconds(self) -> float:
        """Return when it started, in seconds since boot, as `uptime` counts."""
        return self.started * _TICK_NS / 1e9


def processes(known: Mapping[int, Process] = MappingProxyType({})) -> dict[int, Process]:
    """Return the processes that can be seen from here, by pid; those that are `known` as they were then."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    found = ((pid, known.get(pid) or look(pid)) for pid in pids)
    return {pid: process for pid, process in found if process is not None}


def look(pid: int) -> Process | None:
    """Return one process; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
        cpu = time.clock_gettime_ns(_clock(pid))
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # proc(5): from the third on, the name may hold anything
    return Process(
        pid=pid,
        parent=int(fields[1]),
        started=int(fields[19]),
        cpu=cpu,
        reaped=(int(fields[13]) + int(fields[14])) * _TICK_NS,
        rss=int(fields[21]) * _PAGE,
    )


def _clock(pid: int) -> int:
    """Return the id of a process's CPU clock, as the C library's clock_getcpuclockid makes it."""
    return (~pid << 3) | 2


def thread_cpu(pid: int, thread: int) -> int:
    """Return the CPU nanoseconds of a thread of any process; 0 where it has ended, or the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_bytes().split()[0])
    except (OSError, IndexError):
        return 0


def command(pid: int) -> str:
    """Return a process's command line (Ray writes into it what a worker is doing); "" of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def variable(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was started with; None where it has none, or is not ours."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    _, is_there, rest = (b"\0" + content).partition(f"\0{name}=".encode())
    return rest.partition(b"\0")[0].decode(errors="replace") if is_there else None


def busy() -> int:
    """Return the CPU nanoseconds that all cores of this machine, or container, have spent since some moment."""
    try:
        if _CPUACCT.exists():
            return int(_CPUACCT.read_text())
        if _CPU_STAT.exists() and "usage_usec" in (text := _CPU_STAT.read_text()):
            return int(text.split()[1]) * 1000
    except (OSError, ValueError):
        pass
    # user, nice, system, idle, iowait, irq, softirq, steal (another machine's time), guest (in user already)
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) * _TICK_NS


def uptime() -> float:
    """Return the seconds since boot, on the clock of `Process.started`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
