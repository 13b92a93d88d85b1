"""Private stages, as a user's own package would hold them: encoders that fail in every way a real one can."""

import ctypes
import logging
import os
import signal
from dataclasses import dataclass

import pyarrow as pa

from raycluster.encode import Encode


@dataclass(frozen=True, kw_only=True)
class Marking(Encode):
    """Writes the first word of a text; dies, hangs or raises when the text says so."""

    takes = "text"

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([("mark", pa.string())])

    def encoder(self):
        return self._mark

    def _mark(self, texts):
        for text in texts:
            if "SEGFAULT" in text:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "KILLED" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "HANG" in text:
                ctypes.PyDLL(None).sleep(1000)  # in C, and holding the interpreter's lock
            if "RAISE" in text:
                raise ValueError("it says so")
        return {"mark": [text.split()[0] for text in texts]}


@dataclass(frozen=True, kw_only=True)
class Seeing(Marking):
    """Writes which GPUs its process may see."""

    def encoder(self):
        return lambda texts: {"mark": [os.environ.get("CUDA_VISIBLE_DEVICES")] * len(texts)}


@dataclass(frozen=True, kw_only=True)
class Opened(Marking):
    """Notes in a file which process opens it, and which works."""

    file: str
    number: int = 0  # to be declared otherwise

    def encoder(self):
        self.note("opened")

        def mark(texts):
            self.note("worked")
            return {"mark": [text.split()[0] for text in texts]}

        return mark

    def note(self, what):
        logging.getLogger(__name__).warning(what)
        with open(self.file, "a") as notes:
            notes.write(f"{what} {os.getpid()}\n")


@dataclass(frozen=True, kw_only=True)
class Slow(Marking):
    """Takes its time over each text."""

    def encoder(self):
        import time

        def mark(texts):
            time.sleep(0.5 * len(texts))
            return {"mark": [text.split()[0] for text in texts]}

        return mark


@dataclass(frozen=True, kw_only=True)
class Noted(Marking):
    """Notes each text that it works on in the file that WORKED_ON names, and takes its time over it."""

    seconds: float = 0.05

    def encoder(self):
        import time

        def mark(texts):
            marks = [text.split()[0] for text in texts]
            for one in marks:
                with open(os.environ["WORKED_ON"], "a") as notes:
                    notes.write(one + "\n")
                time.sleep(self.seconds)
            return {"mark": marks}

        return mark


@dataclass(frozen=True, kw_only=True)
class Clocked(Marking):
    """Takes a second over each text, and notes in a folder whose process was at it, on which node, and until when."""

    folder: str
    seconds: float = 1.0

    def encoder(self):
        import time

        import ray

        file = os.path.join(self.folder, f"{ray.get_runtime_context().get_node_id()}-{os.getpid()}")

        def mark(texts):
            for _ in texts:
                time.sleep(self.seconds)
                with open(file, "a") as notes:
                    notes.write(f"{time.time()}\n")
            return {"mark": [text.split()[0] for text in texts]}

        return mark
