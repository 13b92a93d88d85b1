"""A moment in the code becomes the end of the process that comes to it: a real death, and its place is exact.

A moment is written `ACTION WHEN MODULE:NAME NUMBER`, as in `kill before lance:LanceDataset.commit 2`: the second call
of that function kills its process. Several processes may wait for the same moment (a worker and the one that replaces
it): whichever comes first takes it, and leaves a file that says so.
"""

import importlib
import inspect
import os
import random
import signal
import threading
import time
from functools import reduce, wraps
from pathlib import Path

DRIVER, WORKER, TAKEN = "DRIVER_MOMENT", "WORKER_MOMENT", "MOMENT_TAKEN"  # environment: two moments, and the file
FULL = "FULL_FOLDER"  # environment: what the action `fill` fills up
_MOST_SECONDS = 0.02  # `during`: a commit on a local disk takes about as long


def arm_worker() -> None:
    """Wait for the moment of workers, metered as always: Ray calls this in each of them, and knows one such hook."""
    from raycluster.account.hook import install

    install()
    arm(os.environ.get(WORKER, ""))


def arm(text: str) -> None:
    """Wait for a moment in this process; an empty one never comes."""
    if not text:
        return
    action, when, place, number = text.split()
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    found = inspect.getattr_static(owner, name)
    inner = getattr(found, "__func__", found)
    moment = _Moment(action, when, int(number))

    @wraps(inner)
    def watched(*arguments, **options):
        with moment:
            return inner(*arguments, **options)

    @wraps(inner)
    def generated(*arguments, **options):
        with moment:
            yield from inner(*arguments, **options)

    wrapped = generated if inspect.isgeneratorfunction(inner) else watched
    setattr(owner, name, type(found)(wrapped) if isinstance(found, staticmethod | classmethod) else wrapped)


class _Moment:
    """Counts the calls of a function, and acts before, during or after one of them."""

    def __init__(self, action: str, when: str, number: int) -> None:
        self.action, self.when, self.left = action, when, number

    def __enter__(self) -> None:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            act(self.action)
        elif self.left == 0 and self.when == "during":
            threading.Timer(random.uniform(0, _MOST_SECONDS), act, [self.action]).start()

    def __exit__(self, *_: object) -> None:
        if self.left == 0 and self.when == "during":
            time.sleep(2 * _MOST_SECONDS)  # the last chance is just after the call
        elif self.left == 0 and self.when == "after":
            act(self.action)


def act(action: str) -> None:
    """Do what the moment is for, unless another process has been here first."""
    try:
        os.close(os.open(os.environ[TAKEN], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if action == "fill":
        fill(Path(os.environ[FULL]))
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[action])


def fill(folder: Path) -> None:
    """Leave no byte of a file system free."""
    with (folder / "ballast").open("ab", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            return
