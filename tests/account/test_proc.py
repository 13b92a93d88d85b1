"""What the kernel says of this very process and its children is read to the nanosecond."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import burns
import pytest

from raycluster.account import proc

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def me() -> proc.Process:
    process = proc.look(os.getpid())
    assert process is not None
    return process


def test_this_process() -> None:
    before = time.process_time_ns()
    process = me()
    assert before <= process.cpu <= time.process_time_ns()
    assert (process.pid, process.parent) == (os.getpid(), os.getppid())
    assert process.id == (process.pid, process.started)
    assert 10**6 < process.rss < 10**12
    assert 0 < process.started_seconds < proc.uptime()
    burns.burn(0.05)
    assert me().cpu - process.cpu == pytest.approx(0.05e9, abs=0.03e9)
    assert me().id == process.id


def test_a_child_counts_once_it_was_waited_for() -> None:
    before = me()
    with subprocess.Popen(SLEEPS) as child:
        seen = proc.processes()[child.pid]
        assert seen.parent == os.getpid()
        assert seen.started >= before.started
        assert proc.command(child.pid).endswith("import time; time.sleep(60)") or seen.cpu == 0
        child.kill()
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0] != "Z":
            time.sleep(0.001)
        dead = proc.look(child.pid)  # nobody has waited for it yet
        assert dead is not None
        assert dead.cpu >= seen.cpu
        assert dead.rss == 0
        assert me().reaped == before.reaped
    assert proc.look(child.pid) is None
    assert proc.command(child.pid) == ""
    subprocess.run([sys.executable, "-c", burns.CHILD.format(0.1)], check=True)
    assert 0.08e9 < me().reaped - before.reaped < 2e9


def test_names_that_look_like_the_fields_after_them(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    odd.symlink_to(Path(sys.executable).resolve())
    with subprocess.Popen([str(odd), "-S", "-E", "-c", "input()"], stdin=subprocess.PIPE) as child:
        while b"R 1 (x" not in Path(f"/proc/{child.pid}/comm").read_bytes():
            time.sleep(0.001)
        process = proc.look(child.pid)
        assert process is not None
        assert process.parent == os.getpid()
        child.kill()


def test_a_thread_of_a_process() -> None:
    done, go = threading.Event(), threading.Event()
    found: list[int] = []

    def work() -> None:
        found.append(threading.get_native_id())
        burns.burn(0.05)
        done.set()
        go.wait()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    assert proc.thread_cpu(os.getpid(), found[0]) == pytest.approx(0.05e9, abs=0.02e9)
    go.set()
    thread.join()
    while Path(f"/proc/self/task/{found[0]}").exists():
        time.sleep(0.001)
    assert proc.thread_cpu(os.getpid(), found[0]) == 0


def test_the_machine() -> None:
    busy = proc.busy()
    burns.burn(0.1)
    assert 0.05e9 < proc.busy() - busy < 1000e9
    assert abs(proc.uptime() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1


@pytest.mark.parametrize(
    ("usage", "stat", "expected"),
    [
        ("123456\n", "usage_usec 9\n", 123456),
        (None, "usage_usec 77\nuser_usec 1\n", 77000),
        ("no number", "usage_usec 77\n", None),
        (None, "nr_periods 0\n", None),
        (None, None, None),
    ],
)
def test_whichever_control_groups_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: str | None, stat: str | None, expected: int | None
) -> None:
    for name, text in (("_CPUACCT", usage), ("_CPU_STAT", stat)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(proc, name, path)
    if expected is None:  # then the machine's own count, in ticks
        assert proc.busy() > 10**9
        assert proc.busy() % 10**7 == 0
    else:
        assert proc.busy() == expected
