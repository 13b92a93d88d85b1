"""A place becomes objects and their bytes: one file a kind of source, and what all of them share.

A member lists references (`objects`, schema `row.OBJECT`) on the driver and gets the bytes of one reference on a
worker (`get`). Only references travel between them; bytes are read where they are decoded, a few objects ahead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import pyarrow as pa

from raycluster.errors import BadMedia
from raycluster.read._media_type import identify
from raycluster.row import Media

S = TypeVar("S")
T = TypeVar("T")

# First bytes asked for at once: a plan peeks at thousands of objects, each a wait of 20 to 80 ms, and holds 4 kB each.
_PEEKED_AHEAD = 16
# Small objects are got so many at a time: handing one to another thread costs 0.1 ms, reading it from a disk 0.06 ms.
_TOGETHER_OBJECTS = 8
_TOGETHER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One listed object, as in `row.OBJECT`."""

    uri: str
    version: str
    size: int
    locator: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where raw objects lie. Its fields are its YAML keys."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    # Whether neighbours in the listing are best read together, as the rows of a table are.
    sequential: ClassVar[bool] = False

    # Objects fetched ahead of the decoder by each worker: hides the latency of an object store (20-80 ms a get).
    ahead: ClassVar[int] = 4

    @abstractmethod
    def objects(self) -> Iterator[pa.RecordBatch]:
        """List the references, in a stable order, in batches of schema `row.OBJECT`; never all at once in memory.

        Raises:
            InvalidUse: a path does not exist or the store refuses the listing.
        """

    def whole(self) -> Self:
        """Return the source of all that this one has ever listed under the workload's name, if it lists less now."""
        return self

    @abstractmethod
    def get(self, reference: Reference) -> Media:
        """Return one object with its bytes, sha256, modality and media type; large ones as a local file.

        Raises:
            BadMedia: `unreadable`, `empty`, `too_large` or `unsupported`.
        """

    @abstractmethod
    def peek(self, reference: Reference, size: int = 4096) -> bytes:
        """Return the first bytes of an object, so that a plan can say its modality."""

    def modality(self, reference: Reference) -> str:
        """Return an object's modality from its first bytes, as far as they tell; for a plan's counts only.

        Raises:
            BadMedia: as `get`.
        """
        return identify(self.peek(reference), name=reference.uri, size=reference.size).modality

    def modalities(self, references: Iterable[Reference]) -> Iterator[str]:
        """Yield each object's modality, as far as its first bytes tell, or else its quarantine code.

        For a plan's counts only. It never raises for an object, and reads a few references ahead, in order.
        """

        def limit(reference: Reference) -> int:
            # A cell of a table shares its window of rows with its neighbours, and few windows are kept.
            return self.ahead if reference.locator else _PEEKED_AHEAD

        for _, kind in _in_order(self._modality, references, limit):
            yield kind

    def fetch(self, references: Iterable[Reference]) -> Iterator[tuple[Reference, Media | BadMedia]]:
        """Get objects in order, `ahead` of them being read while the caller works on one."""
        for some, found in _in_order(self._get_all, _together(references), lambda _: self.ahead):
            yield from zip(some, found, strict=True)

    def _get_all(self, references: list[Reference]) -> list[Media | BadMedia]:
        return [self._get(reference) for reference in references]

    def _modality(self, reference: Reference) -> str:
        try:
            return self.modality(reference)
        except BadMedia as error:
            return error.code
        except Exception:  # noqa: BLE001 - counted as what `get` would say: clients of stores raise what they like
            return "unreadable"

    def _get(self, reference: Reference) -> Media | BadMedia:
        try:
            return self.get(reference)
        except BadMedia as error:
            return error
        except Exception as error:  # noqa: BLE001 - routed to quarantine: one unreadable object never ends a run
            return BadMedia("unreadable", f"{type(error).__name__}: {error}")


def _in_order(ask: Callable[[S], T], references: Iterable[S], limit: Callable[[S], int]) -> Iterator[tuple[S, T]]:
    """Yield each question with its answer, in order, as many asked ahead as `limit` allows for the newest."""
    pool = ThreadPoolExecutor(_PEEKED_AHEAD, thread_name_prefix="raycluster-read")
    waiting: deque[tuple[S, Future[T]]] = deque()
    try:
        for reference in references:
            waiting.append((reference, pool.submit(ask, reference)))
            while len(waiting) > limit(reference):
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:  # also when the caller leaves early: what has not begun never will
        pool.shutdown(cancel_futures=True)


def _together(references: Iterable[Reference]) -> Iterator[list[Reference]]:
    some: list[Reference] = []
    size = 0
    for one in references:
        if some and (len(some) >= _TOGETHER_OBJECTS or size + one.size > _TOGETHER_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += one.size
    if some:
        yield some
