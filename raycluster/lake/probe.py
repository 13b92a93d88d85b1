"""An index becomes two figures: how many rows it misses, and how many of the nearest rows a search through it finds.

Recall is measured on the dataset itself, with vectors that lie in it as questions: the search that everybody uses
against brute force, over a bounded part of the rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raycluster.lake import query, store
from raycluster.lake.table import LIVE, Table

_MOST_ROWS = 50_000  # to compare with: 77 MB of 384 dimensions, for a moment
_BLOCK = 500  # of them that lie beside each other
# Where few of the rows are looked at, few of the missed ones are seen: more questions make up for that, until they
# would take more than some seconds of a core. At 100,000 x 384, a recall of 0.37 was told as 0.34 to 0.38 from 10,000
# rows; at 10 million rows and 0.9, chance moves it by 0.06.
_QUESTIONS, _MOST_QUESTIONS = 20, 500
_SAME = 1e-5  # cosines that differ by less are equal: sums of float32 in another order

Array = npt.NDArray[np.float32]


def unindexed(table: Table, version: int | str = LIVE) -> dict[str, int]:
    """Return how many rows each index does not cover, by its name; searches look at these one by one."""
    with store.explained(table.uri):
        dataset = table.open(version, cached=True)
        rows = {one.fragment_id: one.count_rows() for one in dataset.get_fragments()}
        found = {}
        for index in dataset.describe_indices():
            covered = set[int]().union(*(segment.fragment_ids for segment in index.segments))
            found[index.name] = sum(count for fragment, count in rows.items() if fragment not in covered)
        return found


def recall(table: Table, *, k: int = 10, most_rows: int = _MOST_ROWS, seed: int | None = None) -> float | None:
    """Return the share that searches find of what they should; None where too few rows have vectors.

    A search for `k` rows should have found every row that is nearer than the last it found: that is recall at `k` where
    few are missed, and lower where many are (0.5 for 0.6 among random vectors). Those it missed are counted among
    `most_rows` rows at most, and taken to be as frequent among the others. A search in those rows alone would not do:
    among few rows even a coarse index misses none.
    """
    rng = np.random.default_rng(seed)
    with store.explained(table.uri):
        dataset = table.open(LIVE, cached=True)
        rows = int(dataset.count_rows())
        chosen = _some(rows, most_rows, rng)
        sample = dataset.take(chosen, columns=["id", "vector"]).drop_null().combine_chunks()
    if sample.num_rows <= k:
        return None
    place = {row: at for at, row in enumerate(sample["id"].to_pylist())}
    # vectors: (row, width) float32, of unit length
    vectors = _unit(sample["vector"].combine_chunks().flatten().to_numpy().reshape(sample.num_rows, -1))
    share = len(chosen) / rows
    found, missed = 0, 0
    for one in rng.choice(len(place), min(len(place), _MOST_QUESTIONS, int(_QUESTIONS / share)), replace=False):
        asked = {"vector": vectors[one].tolist(), "version": int(dataset.version)}
        hits = query.search(table, query.Question(k=k + 1, columns=("id",), **asked)).hits
        hits = [hit for hit in hits if place.get(hit["id"]) != one][:k]  # the row itself is no answer
        # cosines: (row,)
        cosines = vectors @ vectors[one]
        known = [place[hit["id"]] for hit in hits if hit["id"] in place]
        cosines[[one, *known]] = -np.inf
        found += len(hits)
        missed += int(np.count_nonzero(cosines > (hits[-1]["score"] if hits else -1.0) + _SAME))
    return found / (found + missed / share)


def _some(rows: int, most: int, rng: np.random.Generator) -> list[int]:
    """Return which rows to look at: all, or some in blocks, which are read at once wherever they lie."""
    if rows <= most:
        return list(range(rows))
    blocks = rng.choice(rows // _BLOCK, most // _BLOCK, replace=False)
    return [int(start) + at for start in blocks * _BLOCK for at in range(_BLOCK)]


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    made: Array = np.divide(vectors, lengths, where=lengths > 0, out=np.zeros_like(vectors))
    return made
