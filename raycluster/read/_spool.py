"""A large remote object becomes a temporary file, which never outlives its reader for long.

Files lie in one folder a process, locked while the process lives. A worker that is killed leaves its folder behind;
the next worker on that machine finds the lock free and removes it. `TMPDIR` says where: give it room for as many of
the largest objects as a machine has workers times `Source.ahead`.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

_PREFIX = "raycluster-spool-"

# A folder younger than this may be between its creation and its lock.
_YOUNG = 60.0  # seconds

_LOCK = threading.Lock()
_FOLDERS: dict[int, str] = {}  # by process: a forked child needs its own


def spool() -> IO[bytes]:
    """Return a new file to write to; whoever takes it deletes it."""
    return tempfile.NamedTemporaryFile(dir=_folder(), delete=False)


def remove(path: str) -> None:
    """Delete a spooled file, if it is still there."""
    Path(path).unlink(missing_ok=True)


def _folder() -> str:
    with _LOCK:
        if os.getpid() not in _FOLDERS:
            _sweep()
            folder = tempfile.mkdtemp(prefix=_PREFIX)
            # The lock lives as long as this descriptor, which is as long as the process.
            fcntl.flock(os.open(folder, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_EX)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _FOLDERS[os.getpid()] = folder
        return _FOLDERS[os.getpid()]


def _sweep() -> None:
    """Remove the folders of processes that ended without doing so."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
