"""A question becomes hits, or a key its row: what readers ask of one version of a dataset.

Vector search is cosine, exact where no index covers a row; text search is BM25; hybrid fuses both lists by rank (RRF).
A filter always applies before ranking, so `k` hits come back wherever `k` rows match.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from lance.query import MatchQuery
from pydantic import Field

from raycluster.errors import InvalidUse, NotFound, RayclusterError
from raycluster.lake import store
from raycluster.lake.columns import is_blob
from raycluster.lake.register import quoted
from raycluster.lake.table import LIVE, Table, require_column

Mode = Literal["vector", "text", "hybrid"]

ANSWER = ("id", "uri", "modality", "start_seconds", "end_seconds", "text")
_MOST_HITS = 10_000
# Reciprocal rank fusion: 60 keeps the first ranks from deciding alone.
# Source: Cormack, Clarke, Buettcher: Reciprocal Rank Fusion (SIGIR 2009), section 2.
_RRF_K = 60
_FUSED_DEPTH = 4  # each list is asked for so many times k
_REFINE = 5  # quantised distances order 5 k candidates, exact ones the k: recall@10 .996 at 100,000 x 384
_PROBES = 32


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a dataset. `vector` for mode vector, `text` for mode text, both for hybrid."""

    mode: Mode = "vector"
    vector: Sequence[float] | None = field(default=None, repr=False)
    text: str | None = None
    column: str = "vector"  # in which space `vector` lies
    k: Annotated[int, Field(gt=0, le=_MOST_HITS)] = 10
    filter: str | None = None
    columns: tuple[str, ...] = ANSWER
    version: int | str = LIVE
    weights: tuple[float, float] = (1.0, 1.0)  # of vector and text, when both are asked


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Hits, best first, from one version."""

    version: int
    hits: list[dict[str, Any]]


def search(table: Table, question: Question) -> Answer:
    """Answer a question.

    The score of a hit is the cosine similarity (mode vector), BM25 (text), or the fused reciprocal rank (hybrid).

    Raises:
        InvalidUse: says which field of the question is wrong.
        NotFound: no such dataset or version.
    """
    dataset = table.open(question.version, cached=True)
    _require_sense(dataset, question)
    scores = _ranked(dataset, question)
    ids = list(scores)
    rows = _take(dataset, ids, question.columns)
    hits = [{**row, "score": scores[row_id]} for row_id, row in zip(ids, rows, strict=True)]
    return Answer(version=int(dataset.version), hits=hits)


def _ranked(dataset: Any, question: Question) -> dict[int, float]:
    """Return row id -> score, best first."""
    if question.mode == "vector":
        return _by_vector(dataset, question, question.k)
    if question.mode == "text":
        return _by_text(dataset, question, question.k)
    depth = question.k * _FUSED_DEPTH
    return fuse(
        [list(_by_vector(dataset, question, depth)), list(_by_text(dataset, question, depth))],
        question.weights,
        question.k,
    )


def _by_vector(dataset: Any, question: Question, k: int) -> dict[int, float]:
    nearest = {
        "column": question.column,
        "q": np.asarray(question.vector, np.float32),
        "k": k,
        "metric": "cosine",
        "nprobes": _PROBES,
        "refine_factor": _REFINE,
    }
    found = _ask(dataset, question, nearest=nearest, columns=["_distance"])
    return {row: 1.0 - distance for row, distance in _pairs(found, "_distance")}


def _by_text(dataset: Any, question: Question, k: int) -> dict[int, float]:
    query = MatchQuery(question.text or "", "text")
    return dict(_pairs(_ask(dataset, question, full_text_query=query, limit=k, columns=["_score"]), "_score"))


def _pairs(found: pa.Table, name: str) -> list[tuple[int, float]]:
    return list(zip(found["_rowid"].to_pylist(), found[name].to_pylist(), strict=True))


def _ask(dataset: Any, question: Question, **scan: Any) -> pa.Table:
    try:
        return dataset.to_table(filter=question.filter, prefilter=True, with_row_id=True, **scan)
    except (ValueError, OSError, RuntimeError) as error:
        raise _blame(dataset, question.filter, error) from error


def _blame(dataset: Any, condition: str | None, error: Exception) -> RayclusterError:
    """Say that a filter is wrong if it is, else that the lake cannot be read."""
    if condition is not None:
        try:
            dataset.scanner(columns=["id"], filter=condition, limit=1).to_table()
        except (ValueError, OSError, RuntimeError) as reason:
            return InvalidUse(
                f"filter {condition!r}: {store.plain(reason)}",
                where="filter",
                fix="write SQL on the dataset's columns, as in: modality = 'image' AND features.width > 640",
            )
    return InvalidUse(f"the search failed: {store.plain(error)}")


def fuse(lists: Sequence[Sequence[int]], weights: Sequence[float], k: int) -> dict[int, float]:
    """Return the k best of several ranked lists, by the weighted sum of reciprocal ranks."""
    sums: dict[int, float] = {}
    for ranked, weight in zip(lists, weights, strict=True):
        for rank, row in enumerate(ranked, start=1):
            sums[row] = sums.get(row, 0.0) + weight / (_RRF_K + rank)
    best = sorted(sums, key=lambda row: (-sums[row], row))[:k]
    return {row: sums[row] for row in best}


def _require_sense(dataset: Any, question: Question) -> None:
    if not 0 < question.k <= _MOST_HITS:
        raise InvalidUse(f"k is {question.k}", where="k", fix=f"ask for 1 to {_MOST_HITS} hits")
    for name in question.columns:
        require_answerable(dataset, name)
    if question.mode in ("vector", "hybrid"):
        _require_vector(dataset, question)
    if question.mode in ("text", "hybrid") and not (question.text or "").strip():
        raise InvalidUse("a text search needs text", where="text")


def _require_vector(dataset: Any, question: Question) -> None:
    kind = require_column(dataset, question.column, "column").type
    if not pa.types.is_fixed_size_list(kind):
        raise InvalidUse(f"column {question.column!r} holds {kind}, not vectors", where="column")
    if question.vector is None:
        raise InvalidUse(f"a {question.mode} search needs a vector", where="vector")
    if len(question.vector) != kind.list_size:
        raise InvalidUse(
            f"the vector has {len(question.vector)} dimensions, column {question.column!r} has {kind.list_size}",
            where="vector",
            fix="embed the question with the encoder that made the column",
        )
    length = math.sqrt(math.fsum(float(value) ** 2 for value in question.vector))
    if not (math.isfinite(length) and length > 0):
        raise InvalidUse("the vector is zero or not finite, so it points nowhere", where="vector")


def require_answerable(dataset: Any, name: str) -> None:
    """Check that a column can be part of an answer.

    Raises:
        InvalidUse: it does not exist, or holds pictures.
    """
    if is_blob(require_column(dataset, name.partition(".")[0], "columns")):
        raise InvalidUse(f"column {name!r} holds pictures", where="columns", fix="ask for them one by one, by id")


def _take(dataset: Any, row_ids: list[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows in the order of their ids."""
    if not row_ids:
        return []
    rows: list[dict[str, Any]] = dataset._take_rows(row_ids, columns=list(columns)).to_pylist()
    return rows


def row(table: Table, key: str, *, version: int | str = LIVE) -> dict[str, Any]:
    """Return one row by its id, without its thumbnail.

    Raises:
        NotFound: no such row in that version.
    """
    dataset = table.open(version, cached=True)
    columns = [one.name for one in dataset.schema if not is_blob(one)]
    found: list[dict[str, Any]] = dataset.to_table(columns=columns, filter=f"id = {quoted(key)}").to_pylist()
    if not found:
        raise NotFound(f"dataset {table.name!r} has no row {key!r} in version {dataset.version}")
    return found[0]


def thumbnail(table: Table, key: str, *, version: int | str = LIVE) -> bytes | None:
    """Return the picture of one row, JPEG or PNG; None where it has none.

    Raises:
        NotFound: no such row in that version.
    """
    dataset = table.open(version, cached=True)
    found = dataset.to_table(columns=[], filter=f"id = {quoted(key)}", with_row_id=True)
    if not found.num_rows:
        raise NotFound(f"dataset {table.name!r} has no row {key!r} in version {dataset.version}")
    picture = dataset.take_blobs("thumbnail", ids=found["_rowid"].to_pylist())[0]
    if picture is None:
        return None
    with picture:
        return bytes(picture.readall()) or None
