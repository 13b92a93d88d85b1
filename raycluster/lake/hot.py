"""A version's vectors become an index in memory: a question is answered without asking Lance.

A base is built once from one version, kept in files, and mapped into memory, so that all processes of a machine share
it. Later versions use it as long as most of their rows lie in it: rows that are gone no longer count, new ones are
compared one by one. The next base is built beside that (`heat.py`). Everything here is as immutable as a version.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.lake.pile import (
    GRAPH_ROWS,
    Among,
    Numbers,
    Pile,
    Vectors,
    add,
    calibrated,
    empty_index,
    faiss,
    piled,
    unit,
)

ROW = "_rowid"
FEW = 1000  # new or gone rows that cost next to nothing, however few there are in all
_BATCH = 4096  # rows read at a time: 6 MB of 384 dimensions
_REMEMBERED = 32 << 20  # bytes of what filters have chosen
# What may say something else the next time: not remembered.
_VOLATILE = re.compile(r"\b(now|today|current_\w+|random|uuid)\b", re.IGNORECASE)


class Unfit(Exception):
    """This dataset cannot be kept so: says why."""


@dataclass(frozen=True)
class Base:
    """A pile on a disk, the fragments from which it was made, and which places are of which."""

    pile: Pile
    fragments: dict[str, tuple[str, int, int]]  # its files -> its deletions then, and its places from, to

    @classmethod
    def open(cls, folder: Path) -> Base:
        """Open what `build` has written; it is mapped, not read."""
        about = json.loads((folder / "about.json").read_text())
        index = faiss().read_index(str(folder / "index.faiss"), faiss().IO_FLAG_MMAP_IFC)
        if about["breadth"]:
            index.hnsw.efSearch = about["breadth"]
        rows = pa.ipc.open_file(pa.memory_map(str(folder / "rows.arrow"))).get_batch(0)
        ids = np.asarray(np.load(folder / "ids.npy", mmap_mode="r"))  # mapped all the same, and read in half the time
        pile = Pile(index, ids, rows, about["breadth"])
        return cls(pile, {files: (deleted, start, stop) for files, deleted, start, stop in about["fragments"]})


def build(dataset: Any, column: str, shown: Sequence[str], folder: Path, goes_on: Callable[[], None]) -> None:
    """Write a base of a version's vectors into an empty folder.

    Raises:
        Unfit: it has none, or a graph of them does not find them.
    """
    width = dataset.schema.field(column).type.list_size
    index = empty_index(width, is_large=dataset.count_rows(f"{column} IS NOT NULL") >= GRAPH_ROWS)
    ids, rows, fragments = [], [], []
    for fragment in dataset.get_fragments():
        start = index.ntotal
        for some in _scanned(dataset, fragment, column, shown):
            add(index, some.vectors, goes_on)
            ids.append(some.ids)
            rows.append(some.rows)
        fragments.append((*_marks(fragment), start, index.ntotal))
    if not index.ntotal:
        raise Unfit("no row has a vector")
    breadth = calibrated(index) if hasattr(index, "hnsw") else 0
    if breadth is None:
        raise Unfit("a graph of its vectors does not find them")
    _write(folder, index, np.concatenate(ids), pa.Table.from_batches(rows).combine_chunks().to_batches()[0])
    (folder / "about.json").write_text(json.dumps({"breadth": breadth, "fragments": fragments}))


def _write(folder: Path, index: Any, ids: Numbers, rows: pa.RecordBatch) -> None:
    faiss().write_index(index, str(folder / "index.faiss"))
    np.save(folder / "ids.npy", ids)
    with pa.ipc.new_file(str(folder / "rows.arrow"), rows.schema) as file:
        file.write_batch(rows)


@dataclass(frozen=True)
class _Some:
    """Some rows that have vectors."""

    ids: Numbers
    vectors: Vectors
    rows: pa.RecordBatch

    def where(self, kept: Any) -> _Some:
        return _Some(self.ids[kept], self.vectors[kept], self.rows.filter(pa.array(kept)))


def _scanned(dataset: Any, fragment: Any, column: str, shown: Sequence[str]) -> Iterator[_Some]:
    """Yield the rows of a fragment whose vectors point somewhere."""
    names = list(dict.fromkeys((*shown, column)))
    scanner = dataset.scanner(columns=names, fragments=[fragment], with_row_id=True, batch_size=_BATCH)
    for batch in scanner.to_batches():
        batch = batch.filter(pc.is_valid(batch.column(column)))
        if not batch.num_rows:
            continue
        # vectors: (row, width)
        vectors, points = unit(batch.column(column).flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1))
        ids = batch.column(ROW).to_numpy().astype(np.int64)[points]
        yield _Some(ids, vectors, _roomy(batch.select(list(shown))).filter(pa.array(points)))


def _roomy(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows whose text may be more than 2 GiB together."""
    fields = [one.with_type(pa.large_string()) if pa.types.is_string(one.type) else one for one in rows.schema]
    return rows.cast(pa.schema(fields))


def _marks(fragment: Any) -> tuple[str, str]:
    """Return what tells that a fragment's values are the same, and what tells that its deletions are."""
    told = fragment.metadata.to_json()
    files = [[one["path"], one["fields"]] for one in told["files"]]
    return json.dumps([told["id"], files, told.get("overlays")], default=str), json.dumps(told["deletion_file"])


class Near(NamedTuple):
    """A row that was found, and the cosine of its vector; its seat is its place in the base, or behind that."""

    row: int
    score: float
    seat: int


@dataclass(frozen=True)
class Hot:
    """One version's vectors of one column in memory."""

    base: Base
    tail: Pile  # rows that are not in the base
    alive: Among | None  # the places of the base that count; None: all
    stands: Any  # of each place of the base whether it counts, or None: (place,) bool
    _chosen: OrderedDict[str, tuple[Among, Among]] = field(default_factory=OrderedDict, compare=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    @property
    def piles(self) -> tuple[Pile, Pile]:
        """Return where its vectors lie; places count through both."""
        return self.base.pile, self.tail

    @property
    def size(self) -> int:
        """Return how many rows it has."""
        return len(self.tail.ids) + (len(self.base.pile.ids) if self.alive is None else self.alive.places)

    @property
    def stale(self) -> float:
        """Return the share of rows that are not as in the base."""
        gone = 0 if self.alive is None else len(self.base.pile.ids) - self.alive.places
        return (gone + len(self.tail.ids)) / max(len(self.base.pile.ids), 1)

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the columns that it can show."""
        return frozenset(self.tail.rows.schema.names)

    def nearest(self, direction: Vectors, k: int, chosen: tuple[Among, Among] | None) -> list[Near]:
        """Return the `k` nearest rows, best first; of equal ones the first rows first.

        Args:
            direction: of unit length: (width,).
            k: how many.
            chosen: which rows count; None: all.
        """
        found, first = list[Near](), 0
        for pile, among in zip(self.piles, chosen or (self.alive, None), strict=True):
            places = pile.nearest(direction[None], k, among)
            if len(places):
                scores = pile.scores(direction, places).tolist()
                found += map(Near, pile.ids[places].tolist(), scores, (places + first).tolist())
            first += len(pile.ids)
        return sorted(found, key=lambda one: (-one.score, one.row))[:k]

    def among(self, where: str, scan: Callable[[], Numbers]) -> tuple[Among, Among]:
        """Return which places a filter leaves; what it has chosen is remembered."""
        with self._lock:
            if where in self._chosen:
                self._chosen.move_to_end(where)
                return self._chosen[where]
        chosen = self._places(scan())
        if _VOLATILE.search(where):
            return chosen
        with self._lock:
            self._chosen[where] = chosen
            while len(self._chosen) > 1 and self._bytes() > _REMEMBERED:
                self._chosen.popitem(last=False)
        return chosen

    def remembers(self, where: str) -> bool:
        """Tell whether `among` needs no scan."""
        return where in self._chosen

    def _bytes(self) -> int:
        sizes = (
            len(where) + sum(one.bytes(pile) for one, pile in zip(both, self.piles, strict=True))
            for where, both in self._chosen.items()
        )
        return sum(sizes)

    def _places(self, ids: Numbers) -> tuple[Among, Among]:
        in_base, in_tail = (pile.places(ids) for pile in self.piles)
        in_base = in_base[in_base >= 0]
        if self.stands is not None:
            in_base = in_base[self.stands[in_base]]
        return Among.of(np.sort(in_base), self.base.pile), Among.of(np.sort(in_tail[in_tail >= 0]), self.tail)

    def told(self, seats: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return columns of rows that `nearest` has found, in their order."""
        first = len(self.base.pile.ids)
        if not self.tail.ids.size:
            return self.base.pile.told(seats, names)
        return [
            (self.base.pile.told([at], names) if at < first else self.tail.told([at - first], names))[0] for at in seats
        ]


def refreshed(base: Base, dataset: Any, column: str, *, most_stale: float) -> Hot | None:
    """Return a base as a version has it; None where too much of it is new or gone.

    A row is as it was if its fragment's files are the same, or else if its vector and what is shown of it are: a
    compaction writes new files.
    """
    pile, shown = base.pile, base.pile.rows.schema.names
    stands, tail = np.zeros(len(pile.ids), bool), list[_Some]()
    most = max(most_stale * len(pile.ids), FEW)
    for fragment in dataset.get_fragments():
        files, deletions = _marks(fragment)
        before, start, stop = base.fragments.get(files, ("", 0, 0))
        if files in base.fragments and before == deletions:
            stands[start:stop] = True
        elif files in base.fragments:
            left = dataset.scanner(columns=[], fragments=[fragment], with_row_id=True).to_table()
            places = pile.places(left[ROW].to_numpy().astype(np.int64))
            stands[places[(places >= start) & (places < stop)]] = True
        else:
            for some in _scanned(dataset, fragment, column, shown):
                places = pile.places(some.ids)
                same = _same(some, places, pile)
                stands[places[same]] = True
                tail.append(some.where(~same))
                if sum(len(one.ids) for one in tail) > most:
                    return None
    if np.count_nonzero(~stands) > most:
        return None
    alive = None if stands.all() else Among.of(np.flatnonzero(stands), pile)
    return Hot(base, _tail(tail, pile), alive, None if alive is None else stands)


def _tail(some: Sequence[_Some], pile: Pile) -> Pile:
    nothing = _Some(np.empty(0, np.int64), np.empty((0, pile.index.d), np.float32), pile.rows.slice(0, 0))
    parts = [nothing, *(one for one in some if len(one.ids))]
    rows = pa.Table.from_batches([one.rows for one in parts]).combine_chunks()
    batch = rows.to_batches()[0] if rows.num_rows else nothing.rows
    return piled(np.concatenate([one.vectors for one in parts]), np.concatenate([one.ids for one in parts]), batch)


def _same(some: _Some, places: Numbers, pile: Pile) -> Any:
    """Tell of each row whether the pile has it just so: (row,) bool."""
    known = places >= 0
    there = np.where(known, places, 0)
    same = known & (pile.vectors[there] == some.vectors).all(axis=1)
    before = pile.rows.take(pa.array(there))
    for one, two in zip(before.columns, some.rows.columns, strict=True):
        alike = pc.or_(pc.fill_null(pc.equal(one, two), False), pc.and_(pc.is_null(one), pc.is_null(two)))
        same &= alike.to_numpy(zero_copy_only=False)
    return same
