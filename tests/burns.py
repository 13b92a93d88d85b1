"""Work whose truth is known: each function burns so many CPU-seconds, by the clock that no scheduler can bend."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CHILD = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"


def burn(seconds: float) -> None:
    """Keep this thread busy for so many CPU-seconds."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def plain(seconds: float) -> None:
    burn(seconds)


def generator(seconds: float):
    for part in range(4):
        burn(seconds / 4)
        yield part


def raising(seconds: float) -> None:
    burn(seconds)
    raise ValueError("as it should")


def killed(seconds: float) -> None:
    burn(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def once_killed(seconds: float, mark: str) -> None:
    """Die the first time."""
    burn(seconds)
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def threads(seconds: float) -> None:
    """Burn in two threads at once, half in each: hashing large blocks lets go of the interpreter's lock."""
    block = os.urandom(1 << 20)

    def work() -> None:
        end = time.thread_time() + seconds / 2
        while time.thread_time() < end:
            hashlib.sha256(block).digest()

    both = [threading.Thread(target=work) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()


def child(seconds: float) -> None:
    subprocess.run([sys.executable, "-S", "-c", CHILD.format(seconds)], check=True)


def with_torch(seconds: float) -> float:
    """Multiply matrices in two threads until the process has burned so much; return what it was exactly."""
    import torch

    torch.set_num_threads(2)
    matrix = torch.randn(700, 700)
    started = time.process_time()
    while time.process_time() - started < seconds:
        matrix @ matrix
    return time.process_time() - started


class Starting:
    """Burns when it is made."""

    def __init__(self, seconds: float) -> None:
        burn(seconds)

    def ready(self) -> None:
        pass


class Side:
    """Takes two calls at once, each in a thread."""

    def first(self, seconds: float) -> None:
        burn(seconds)

    def second(self, seconds: float) -> None:
        burn(seconds)

    def waiting(self, seconds: float) -> None:
        time.sleep(seconds)


class Loop:
    """Takes calls in one event loop."""

    async def steps(self, seconds: float) -> None:
        for _ in range(4):
            burn(seconds / 4)
            await asyncio.sleep(0.05)

    async def others(self, seconds: float) -> None:
        for _ in range(4):
            burn(seconds / 4)
            await asyncio.sleep(0.03)

    async def yields(self, seconds: float):
        for part in range(4):
            burn(seconds / 4)
            yield part
            await asyncio.sleep(0.02)

    async def failing(self, seconds: float) -> None:
        burn(seconds)
        raise ValueError("as it should")
