"""Many requests for one costly thing become one, now and then, beside them: none waits for long, none repeats it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Seldom:
    """Work that is done in a thread of its own, at most once in `every` seconds, and never twice at a time."""

    def __init__(self, work: Callable[[], object], *, every: float) -> None:
        self.work, self.every = work, every
        self.trouble = ""  # why it failed the last time
        self.succeeded = -math.inf  # when it last went well, of time.monotonic()
        self._done: float | None = None
        self._under_way: threading.Event | None = None
        self._lock = threading.Lock()

    def nudge(self, wait: float = 0.0) -> bool:
        """Begin it where it is due, and wait so many seconds for it; tell whether it was done lately, and went well."""
        with self._lock:
            is_due = self._done is None or time.monotonic() - self._done >= self.every
            if is_due and self._under_way is None:
                self._under_way = threading.Event()
                threading.Thread(target=self._work, args=(self._under_way,), daemon=True).start()
            under_way = self._under_way
        if under_way is not None and not under_way.wait(wait):
            return False
        return not self.trouble

    def _work(self, under_way: threading.Event) -> None:
        try:
            self.work()
            self.trouble, self.succeeded = "", time.monotonic()
        except Exception as error:  # noqa: BLE001 - told and logged; the next time may go well
            self.trouble = f"{type(error).__name__}: {error}"
            _log.warning("%s", self.trouble)
        with self._lock:
            self._done, self._under_way = time.monotonic(), None
        under_way.set()
