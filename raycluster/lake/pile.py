"""Vectors that lie beside each other in memory become the nearest ones to a question: by a graph, or one by one.

Under `hot.py`. An index of faiss holds the vectors, of unit length, so that inner products are cosines; a place in it
is a row's number in everything that is kept beside it. Which way a question goes is decided by what costs less: where a
filter leaves few places each is looked at, and the answer is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]  # places, or row ids
_Reader = Callable[[Sequence[int]], list[Any]]  # places -> a column's values there

# Fewer vectors than this are compared one by one, in a millisecond.
GRAPH_ROWS = 4096
# Links of a vector in the graph, 8 bytes each, and candidates for those of a new one. At 100,000 x 384 twice as many of
# either took twice as long to build (75 CPU-s for 35), and found no more at equal cost.
LINKS = 16
_CONSTRUCTION = 100
_ADDED = 4096  # vectors at a time, so that a build can be stopped
# Candidates of a search: the first of these that finds enough of the nearest is taken.
_BREADTHS = (48, 64, 96, 128, 192, 256, 384, 512)
_GOOD = 0.99  # recall at 10
_TRIED = 100
# Questions to try lie so far from one vector towards another. At 0.3 recall was that of real questions within .003 (of
# 100,000 glosses, breadths 32 to 96); at 0.5 it was .835 where theirs was .989, at 0 .997.
_BETWEEN = 0.3
# A candidate of the graph costs as much as some 8 vectors that are compared one by one.
_GRAPH_COST = 8


@cache
def faiss() -> Any:
    """Return the package, whose own types do not fit what it does."""
    return import_module("faiss")


@dataclass(frozen=True)
class Among:
    """Which places of a pile count: listed where they are few, else a bit for each of the pile's."""

    places: int
    is_listed: bool
    selector: Any

    @classmethod
    def of(cls, places: Numbers, pile: Pile) -> Among:
        """Return a choice of places, which are different from each other."""
        if pile.is_cheaper_listed(len(places)):
            return cls(len(places), True, faiss().IDSelectorArray(np.ascontiguousarray(places, np.int64)))
        chosen = np.zeros(len(pile.ids), bool)
        chosen[places] = True
        return cls(len(places), False, faiss().IDSelectorBitmap(np.packbits(chosen, bitorder="little")))

    def bytes(self, pile: Pile) -> int:
        """Return what it takes to remember it."""
        return 8 * self.places if self.is_listed else len(pile.ids) // 8


@dataclass(frozen=True)
class Pile:
    """Vectors, the ids of their rows, and what of each row is shown: everything by place."""

    index: Any  # of faiss
    ids: Numbers
    rows: pa.RecordBatch
    breadth: int = 0  # candidates of a search in the graph; 0: there is no graph

    @cached_property
    def flat(self) -> Any:
        """Return the vectors as faiss compares them one by one."""
        return faiss().downcast_index(self.index.storage) if self.breadth else self.index

    @cached_property
    def vectors(self) -> Vectors:
        """Return the vectors where they lie: (place, width)."""
        size, width = self.index.ntotal, self.index.d
        if not size:
            return np.empty((0, width), np.float32)
        seen: Vectors = faiss().rev_swig_ptr(self.flat.get_xb(), size * width).reshape(size, width)
        return seen

    @cached_property
    def _sorted(self) -> tuple[Numbers, Numbers | None]:
        """Return the ids in order, and where they lie; None where that is their order anyway."""
        if np.all(self.ids[:-1] < self.ids[1:]):
            return self.ids, None
        order = np.argsort(self.ids)
        return self.ids[order], order

    def places(self, ids: Numbers) -> Numbers:
        """Return where rows lie, in the order of their ids; -1 for one that is not here."""
        known, order = self._sorted
        if not len(known):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, at if order is None else order[at], -1)

    def told(self, places: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return columns of places, in their order."""
        columns = [self._readers[name](places) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    @cached_property
    def _readers(self) -> dict[str, _Reader]:
        return {name: _reader(one) for name, one in zip(self.rows.schema.names, self.rows.columns, strict=True)}

    def is_cheaper_listed(self, places: int) -> bool:
        """Tell whether so many places are sooner compared one by one than found in the graph among all others."""
        return not self.breadth or places * places <= _GRAPH_COST * self.breadth * len(self.ids)

    def nearest(self, direction: Vectors, k: int, among: Among | None) -> Numbers:
        """Return the places of the `k` nearest, or of all that count, in no order. direction: (1, width)."""
        count = len(self.ids) if among is None else among.places
        k = min(k, count)
        if not k:
            return np.empty(0, np.int64)
        breadth = self._breadth(k)
        share = count / len(self.ids)
        if self.breadth and not (among and among.is_listed) and breadth / share < len(self.ids) / _GRAPH_COST:
            found = self._by_graph(direction, k, among, int(breadth / share))
            if found[-1] >= 0:  # else it has lost its way among rows that do not count
                return found
        told = faiss().SearchParameters(sel=among.selector) if among else None
        places: Numbers = self.flat.search(direction, k, params=told)[1][0]
        return places[places >= 0]

    def _breadth(self, k: int) -> int:
        """Return how many candidates `k` hits want: in steps, so that most pages of a list come of the same ones."""
        return max(self.breadth, 1 << (2 * k - 1).bit_length()) if 2 * k > self.breadth else self.breadth

    def _by_graph(self, direction: Vectors, k: int, among: Among | None, breadth: int) -> Numbers:
        told = None
        if among is not None or breadth != self.breadth:
            told = faiss().SearchParametersHNSW(efSearch=breadth, sel=among.selector if among else None)
        places: Numbers = self.index.search(direction, k, params=told)[1][0]
        return places

    def scores(self, direction: Vectors, places: Numbers) -> Vectors:
        """Return the cosines of places, each summed up in the same way: equal vectors have equal ones."""
        made: Vectors = (self.vectors[places] * direction).sum(axis=1)
        return made


def _reader(column: pa.Array) -> _Reader:
    """Return what reads values where they lie: in a tenth of the time that Arrow's own scalars take."""
    if column.null_count == len(column):
        return lambda places: [None] * len(places)
    read, first = _valid_reader(column), column.offset
    if not column.null_count:
        return read
    bits = memoryview(column.buffers()[0])

    def read_valid(places: Sequence[int]) -> list[Any]:
        valid = [bits[(first + at) >> 3] >> ((first + at) & 7) & 1 for at in places]
        return [one if there else None for one, there in zip(read(places), valid, strict=True)]

    return read_valid


def _valid_reader(column: pa.Array) -> _Reader:
    kind, first, count = column.type, column.offset, column.offset + len(column)
    if pa.types.is_large_string(kind):
        _, ends, content = column.buffers()
        text, end = memoryview(content or b""), _seen(ends, np.int64, count + 1)[first:]
        return lambda places: [str(text[end[at] : end[at + 1]], "utf-8") for at in places]
    if pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        numbers = _seen(column.buffers()[1], kind.to_pandas_dtype(), count)[first:]
        return lambda places: [numbers[at] for at in places]
    return lambda places: [column[at].as_py() for at in places]


def _seen(buffer: Any, kind: Any, count: int) -> Any:
    """Return a buffer's numbers, each of which is read as one of Python's own."""
    numbers: Any = np.frombuffer(buffer, kind, count)
    return memoryview(numbers)


def piled(vectors: Vectors, ids: Numbers, rows: pa.RecordBatch) -> Pile:
    """Return some vectors of unit length as a pile without a graph."""
    index = faiss().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return Pile(index, ids, rows)


def empty_index(width: int, *, is_large: bool) -> Any:
    """Return an index to which vectors can be added: a graph where there are many."""
    if not is_large:
        return faiss().IndexFlatIP(width)
    index = faiss().IndexHNSWFlat(width, LINKS, faiss().METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CONSTRUCTION
    return index


def add(index: Any, vectors: Vectors, goes_on: Callable[[], None]) -> None:
    """Add vectors; `goes_on` is called now and then, and raises to end it."""
    for start in range(0, len(vectors), _ADDED):
        goes_on()
        index.add(vectors[start : start + _ADDED])


def calibrated(index: Any) -> int | None:
    """Return the breadth at which a graph finds what it should; None where it never does.

    Very many equal vectors, as of black pictures, are one: they link to nothing but each other.
    """
    flat = faiss().downcast_index(index.storage)
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, index.ntotal, (2, _TRIED))
    one, two = flat.reconstruct_batch(pairs[0]), flat.reconstruct_batch(pairs[1])
    between = unit((1 - _BETWEEN) * one + _BETWEEN * two)[0]
    tenth = flat.search(between, 10)[0][:, -1:] - 1e-6
    for breadth in _BREADTHS:
        index.hnsw.efSearch = breadth
        if (index.search(between, 10)[0] >= tenth).mean() >= _GOOD:
            return breadth
    return None


def unit(vectors: npt.NDArray[Any]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Return those vectors that point somewhere, at unit length, and which these are."""
    # lengths: (row, 1) float64, so that no vector is too long or too short
    wide = vectors.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    points = (np.isfinite(lengths) & (lengths > 0))[:, 0]
    return np.ascontiguousarray(wide[points] / lengths[points], np.float32), points
