"""Decisions become the lake's decision log, in batches, beside the requests that they were made for."""

from __future__ import annotations

import logging
import threading
from collections import deque

from raycluster.errors import LakeError
from raycluster.lake.decisions import Decided, Decisions

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
BATCH_ROWS = 5_000
MOST_ROWS = 100_000  # that wait for a lake that cannot be written: about 100 MB


class Journal:
    """What is to be written, and the thread that writes it."""

    def __init__(self, decisions: Decisions, *, every: float = EVERY_SECONDS, most: int = MOST_ROWS) -> None:
        self.dropped = 0  # decisions that are in no log: there was no room to keep them
        self.problem: str | None = None
        self._decisions, self._every, self._most = decisions, every, most
        self._waiting: deque[Decided] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._write_on, name="decisions", daemon=True)
        self._thread.start()

    def add(self, decided: Decided) -> None:
        """Note a decision. Never waits for the lake."""
        with self._lock:
            if len(self._waiting) >= self._most:
                self.dropped += 1
                return
            self._waiting.append(decided)
            if len(self._waiting) >= BATCH_ROWS and self.problem is None:
                self._wake.set()

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits, and stop; a lake that does not answer is waited for so long."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(seconds)
        if left := len(self._waiting) + self.dropped:
            log.error("%d decisions are in no log: %s", left, self.problem or "the lake was too slow")

    def _write_on(self) -> None:
        while not self._is_closed:
            self._wake.wait(self._every)
            self._wake.clear()
            self._write()

    def _write(self) -> None:
        """Write batches until none waits; what cannot be written stays."""
        while self._waiting:
            with self._lock:
                batch = [self._waiting[place] for place in range(min(len(self._waiting), BATCH_ROWS))]
            try:
                self._decisions.add(batch)
            except LakeError as error:
                self.problem = f"the decision log cannot be written: {error.message}"
                log.error("%s; %d decisions wait, %d were dropped", self.problem, len(self._waiting), self.dropped)
                return
            self.problem = None
            with self._lock:
                for _ in batch:
                    self._waiting.popleft()
