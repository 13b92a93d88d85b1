"""Private stages whose truth is known: encoders that burn so much CPU a text, and note what that came to."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raycluster.encode import Encode

_LOOK_SECONDS = 1.5  # the node's agent has looked by then, also where it gets little time


@dataclass(frozen=True, kw_only=True)
class Burning(Encode):
    """Burns over each text, and notes it; dies of one that says FATAL, the first time, once everybody has seen it.

    milliseconds: of this thread's CPU, a text.
    notes: a file; its lines are `stage word pid nanoseconds`, the word being the text's first.
    gate: a file; while it is not there, a text that is done waits for it.
    """

    takes = "text"
    milliseconds: int = 20
    notes: str
    gate: str = os.devnull

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(self.name, pa.string())])

    def encoder(self):
        return lambda texts: {self.name: [self._burn(text) for text in texts]}

    def _burn(self, text: str) -> str:
        started = time.thread_time_ns()
        while (burned := time.thread_time_ns() - started) < self.milliseconds * 10**6:
            pass
        with Path(self.notes).open("a") as notes:
            notes.write(f"{self.name} {text.split()[0]} {os.getpid()} {burned}\n")
        while not Path(self.gate).exists():
            time.sleep(0.1)
        if "FATAL" in text and _is_first(self.notes + ".dead"):
            time.sleep(_LOOK_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)
        return text.split()[0]


@dataclass(frozen=True, kw_only=True)
class Smouldering(Burning):
    """The same, by another name."""


def _is_first(mark: str) -> bool:
    """Tell whether nobody has been here before."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
