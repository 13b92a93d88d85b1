"""An index becomes two figures: how many rows it misses, and how many of the nearest rows a search through it finds.

Recall is measured on the dataset itself, by vectors that lie in it: the search that everybody uses against the exact
one, by brute force over a bounded part of the rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raycluster.lake import query, store
from raycluster.lake.sql import quoted
from raycluster.lake.table import LIVE, Table

_ROWS = 50_000  # 77 MB of 384 dimensions, for a moment
_QUESTIONS = 10
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


def recall(table: Table, *, k: int = 10, most_rows: int = _ROWS, seed: int = 0) -> float | None:
    """Return the share of the true `k` nearest rows that searches find; None where too few rows have vectors.

    A row as near as the last of the true ones is as good as that one. Of a dataset with more rows than `most_rows`,
    search and brute force both look into a random part of so many: ids are digests, so those below a bound are one.
    Its nearest rows lie farther out and in more partitions, so such a figure is, if anything, too low.
    """
    with store.explained(table.uri):
        dataset = table.open(LIVE, cached=True)
        rows = int(dataset.count_rows())
        part = None if rows <= most_rows else f"id < {quoted(f'{most_rows * 2**32 // rows:08x}')}"
        where = " AND ".join(filter(None, [part, "vector IS NOT NULL"]))
        sample = dataset.to_table(columns=["id", "vector"], filter=where).combine_chunks()
    if sample.num_rows <= k:
        return None
    place = {row: at for at, row in enumerate(sample["id"].to_pylist())}
    # vectors: (row, width) float32, of unit length
    vectors = _unit(sample["vector"].combine_chunks().flatten().to_numpy().reshape(sample.num_rows, -1))
    shares = []
    for one in np.random.default_rng(seed).choice(len(place), min(_QUESTIONS, len(place)), replace=False):
        # cosines: (row,); the row itself is no answer
        cosines = vectors @ vectors[one]
        cosines[one] = -np.inf
        last = np.partition(cosines, -k)[-k]
        asked = {"vector": vectors[one].tolist(), "filter": part, "version": int(dataset.version)}
        question = query.Question(k=k + 1, columns=("id",), **asked)
        hits = [place[hit["id"]] for hit in query.search(table, question).hits]
        near = [hit for hit in hits if hit != one][:k]
        shares.append(sum(cosines[hit] >= last - _SAME for hit in near) / k)
    return float(np.mean(shares))


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    made: Array = np.divide(vectors, lengths, where=lengths > 0, out=np.zeros_like(vectors))
    return made
