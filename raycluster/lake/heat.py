"""Live versions become hot indexes, within a bound of memory: built beside the requests, and followed as `live` moves.

`follow.py` asks for the next version's before it swaps: what needs no new base is there at once. A base is built by one
process of a machine, in a thread, and the others map the same files: the bound is therefore the machine's. Until one is
there, and for what does not fit, Lance's own index answers.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from raycluster.lake.hot import Base, Hot, Unfit, build, refreshed
from raycluster.lake.pile import LINKS
from raycluster.lake.rank import ANSWER

log = logging.getLogger(__name__)

VECTOR = "vector"  # the space that all modalities share; questions in others go to Lance
# What answers show, and `group` looks at: kept beside the vectors, so that a hit needs no store.
_SHOWN = (*ANSWER, "object_id", "position", "label", "label_score")
_REBUILT = 0.1  # share of rows that are new or gone: then the next base is built
_FOLLOWED = 0.25  # up to here the present base goes on answering while that is built
_SAMPLED = 1000  # rows, to know how long texts are
_FORGOTTEN = 7 * 86400.0  # seconds after which the files of a base that nobody has opened go
_FORMAT = 1  # of the files
_NICE = 10

State = Literal["ready", "building", "too_large", "unfit", "failed", "none"]
Done = Callable[[str, Any, Hot], None]  # name, Lance's dataset, its index


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a dataset stands."""

    state: State
    rows: int = 0
    bytes: int = 0


class _Stopped(Exception):
    """The process ends."""


class Heat:
    """Keeps hot indexes for one process."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Keep files below `folder`, and `limit` bytes of them in memory at most."""
        self.folder, self.limit = folder, limit
        self._told: dict[str, Told] = {}
        self._bases: dict[str, Base] = {}
        self._asked: dict[str, tuple[Any, Done]] = {}
        self._more = threading.Condition()
        self._is_stopped = False
        self._is_on = limit > 0
        if self._is_on and importlib.util.find_spec("faiss") is None:
            log.warning("faiss is not installed, so searches go to Lance's index: pip install faiss-cpu")
            self._is_on = False

    def start(self) -> None:
        """Begin to build what is asked for."""
        if self._is_on:
            threading.Thread(target=self._work, name="heat", daemon=True).start()

    def stop(self) -> None:
        """Build no more."""
        with self._more:
            self._is_stopped = True
            self._more.notify_all()

    def told(self) -> Mapping[str, Told]:
        """Return how each dataset stands."""
        return dict(self._told)

    def follow(self, name: str, dataset: Any) -> Hot | None:
        """Return a version's index if it comes of the present base; it takes as long as what is new is read."""
        base = self._bases.get(name)
        if base is None:
            return None
        try:
            return self._ready(name, base, dataset, _FOLLOWED)
        except Exception as error:  # noqa: BLE001 - Lance answers, as without it
            log.warning("the hot index of %s cannot be followed: %s", name, error)
            return None

    def ask(self, name: str, dataset: Any, done: Done) -> None:
        """Have a version's index made, and tell when it is there; of two versions of a dataset the later one."""
        if self._is_on:
            with self._more:
                self._asked[name] = dataset, done
                self._more.notify_all()

    def drop(self, name: str) -> None:
        """Let a dataset's index go."""
        with self._more:
            self._asked.pop(name, None)
            self._bases.pop(name, None)
            self._told.pop(name, None)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread, on Linux
        self._forget()
        while True:
            with self._more:
                self._more.wait_for(lambda: self._asked or self._is_stopped)
                if self._is_stopped:
                    return
                name = next(iter(self._asked))
                dataset, done = self._asked.pop(name)
            try:
                if (hot := self._made(name, dataset)) is not None:
                    done(name, dataset, hot)
            except _Stopped:
                return
            except Unfit as error:
                self._refuse(name, "unfit", str(error))
            except Exception as error:  # noqa: BLE001 - Lance answers, as without it
                self._refuse(name, "failed", str(error))

    def _refuse(self, name: str, state: State, why: str) -> None:
        log.warning("%s is searched through Lance's index: %s", name, why)
        self._told[name] = Told(state=state)

    def _made(self, name: str, dataset: Any) -> Hot | None:
        kind = dataset.schema.field(VECTOR).type if VECTOR in dataset.schema.names else None
        if kind is None or not pa.types.is_fixed_size_list(kind):
            self._told[name] = Told(state="none")
            return None
        needed = _estimate(dataset)
        held = sum(one.bytes for other, one in list(self._told.items()) if other != name)
        if needed + held > self.limit:
            self._refuse(name, "too_large", f"it would take {needed} bytes, and {held} of {self.limit} are in use")
            self._bases.pop(name, None)
            return None
        self._told[name] = Told(state="building", bytes=needed)
        base = self._bases.get(name)
        hot = self._ready(name, base, dataset, _REBUILT) if base else None
        if hot is None:
            base = self._base(name, dataset)
            hot = self._ready(name, base, dataset, _FOLLOWED)
        return hot

    def _ready(self, name: str, base: Base, dataset: Any, most_stale: float) -> Hot | None:
        if not _fits(base, dataset):
            return None
        hot = refreshed(base, dataset, VECTOR, most_stale=most_stale)
        if hot is not None:
            before = self._told.get(name, Told(state="ready"))
            self._bases[name] = base
            self._told[name] = replace(before, state="ready", rows=hot.size)
        return hot

    def _base(self, name: str, dataset: Any) -> Base:
        """Return a base that is near enough to a version: one that another process has built, or a new one."""
        here = place(self.folder, dataset.uri)
        here.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(here):
            for folder in sorted(here.glob("v*"), reverse=True):
                with suppress(OSError, ValueError, KeyError, RuntimeError):  # of another time, or half removed
                    base = Base.open(folder)
                    if _fits(base, dataset) and refreshed(base, dataset, VECTOR, most_stale=_REBUILT) is not None:
                        os.utime(here)
                        return base
            began = time.monotonic()
            made = Path(tempfile.mkdtemp(dir=here, prefix=".making-"))
            try:
                build(dataset, VECTOR, _shown(dataset), made, self._goes_on)
                folder = here / f"v{time.time_ns()}"
                made.rename(folder)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
            for other in here.iterdir():  # who has mapped one keeps it until he lets it go
                if other.is_dir() and other != folder:
                    shutil.rmtree(other, ignore_errors=True)
            log.info("built the hot index of %s in %.1f s", name, time.monotonic() - began)
            return Base.open(folder)

    def _goes_on(self) -> None:
        if self._is_stopped:
            raise _Stopped

    def _forget(self) -> None:
        for one in self.folder.glob("*"):
            with suppress(OSError):
                if one.stat().st_mtime < time.time() - _FORGOTTEN:
                    shutil.rmtree(one, ignore_errors=True)


def place(folder: Path, uri: str) -> Path:
    """Return where the bases of a dataset lie; each is a folder `v...`, the last one by name in use."""
    return folder / sha256(f"{uri} {VECTOR} {_FORMAT}".encode()).hexdigest()[:32]


def _shown(dataset: Any) -> list[str]:
    return [name for name in _SHOWN if name in dataset.schema.names]


def _fits(base: Base, dataset: Any) -> bool:
    """Tell whether a base is of the same columns."""
    kind = dataset.schema.field(VECTOR).type
    names: list[str] = base.pile.rows.schema.names
    return bool(kind.list_size == base.pile.index.d) and names == _shown(dataset)


def _estimate(dataset: Any) -> int:
    """Return about how many bytes a version's index takes."""
    sample = dataset.to_table(columns=_shown(dataset), limit=_SAMPLED)
    a_row = 4 * dataset.schema.field(VECTOR).type.list_size + 9 * LINKS + 8
    return int(dataset.count_rows() * (a_row + sample.nbytes / max(sample.num_rows, 1)))


@contextmanager
def _locked(here: Path) -> Iterator[None]:
    """Let one process of this machine at a time look for a base, or make one."""
    with open(here / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
