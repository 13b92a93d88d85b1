"""Temporary files of large remote objects are gone when their reader is, however it ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_SPOOL = """
import sys, time
from raycluster.read._spool import spool
file = spool()
file.write(b"x" * 100)
file.flush()
print(file.name, flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    child = subprocess.Popen(
        [sys.executable, "-c", _SPOOL],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


def finish(child: subprocess.Popen[str]) -> None:
    child.communicate(timeout=30)


def age(path: Path) -> None:
    os.utime(path.parent, (0, 0))


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_process_leaves_behind(tmp_path: Path, killed: bool) -> None:
    living, kept = start(tmp_path)
    dead, left = start(tmp_path)
    assert kept.read_bytes() == left.read_bytes() == b"x" * 100
    if killed:
        dead.send_signal(signal.SIGKILL)
    finish(dead)
    assert left.exists() == killed
    for path in (kept, left):
        if path.exists():
            age(path)
    following, own = start(tmp_path)  # starting to spool removes what the dead left
    assert not left.parent.exists()
    assert kept.exists()
    assert own.exists()
    finish(following)
    finish(living)
    assert list(tmp_path.iterdir()) == []
