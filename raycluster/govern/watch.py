"""Files that a person may change become a value that is always at hand, read again when they change.

What cannot be read any more keeps the value that there was, and says so in `problem`: a slip of the pen while serving
neither locks everybody out nor lets anybody in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

from raycluster.errors import InvalidUse, RayclusterError

log = logging.getLogger(__name__)
T = TypeVar("T")

EVERY_SECONDS = 1.0  # between two looks at the files
_MOST_BYTES = 64 << 20  # of all files: policies come with data

Contents = Mapping[str, bytes]  # path -> what it holds


class Watched(Generic[T]):
    """The value that `make` reads from the files that `find` names."""

    def __init__(
        self, find: Callable[[], list[Path]], make: Callable[[Contents], T], *, every: float = EVERY_SECONDS
    ) -> None:
        """Read the files for the first time.

        Raises:
            RayclusterError: they cannot be read, or make no value.
        """
        self.problem: str | None = None
        self._find, self._make, self._every = find, make, every
        self._lock = threading.Lock()
        self._seen = self._look()
        contents = _read(self._find())
        self._digest = digest(contents)
        self._value = make(contents)
        self._next = time.monotonic() + every

    @property
    def value(self) -> T:
        """Return the value, as the files were a second ago at most."""
        if time.monotonic() >= self._next and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._next = time.monotonic() + self._every
                self._lock.release()
        return self._value

    def _refresh(self) -> None:
        # Looked at before it is read: what changes in between is read again the next time.
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            contents = _read(self._find())
            found = digest(contents)
            if found != self._digest:
                self._value, self._digest = self._make(contents), found
                log.warning("read anew: %s", ", ".join(contents))
            self.problem = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it must neither stop requests nor go unsaid
            self.problem = str(error)
            log.error("what was read before stays in force: %s", error)

    def _look(self) -> list[tuple[str, int, int, int]]:
        """Return what changes when the files do, without reading them."""
        try:
            found = [(str(path), path.stat()) for path in self._find()]
        except (OSError, RayclusterError):
            return []
        return [(path, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in found]


def digest(contents: Contents) -> str:
    """Return a sha256, hex, of names and contents."""
    whole = sha256()
    for path, content in sorted(contents.items()):
        for part in (path.encode(), content):
            whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()


def _read(paths: list[Path]) -> Contents:
    contents, left = {}, _MOST_BYTES
    for path in paths:
        try:
            with path.open("rb") as file:
                content = file.read(left + 1)
        except OSError as error:
            raise InvalidUse(f"{path} cannot be read: {error.strerror}", fix="check the path and its rights") from error
        left -= len(content)
        if left < 0:
            raise InvalidUse(f"{path}: more than {_MOST_BYTES >> 20} MiB of files", fix="keep large data elsewhere")
        contents[str(path)] = content
    return contents
