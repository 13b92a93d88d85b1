"""A question becomes hits, a key its row, a filter its pages: what readers ask of one version of a dataset.

Vector search is cosine, exact where no index covers a row; text search is BM25; hybrid fuses both lists by rank (RRF).
A filter always applies before ranking, so `k` hits come back wherever `k` rows match.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from lance.dataset import ColumnOrdering
from lance.query import MatchQuery
from pydantic import Field

from raycluster.errors import InvalidUse, LakeError, NotFound, RayclusterError
from raycluster.lake import store
from raycluster.lake.columns import is_blob
from raycluster.lake.sql import condition, quoted, wrong
from raycluster.lake.table import LIVE, Table, require_column

Mode = Literal["vector", "text", "hybrid"]

ANSWER = ("id", "uri", "modality", "start_seconds", "end_seconds", "text")
_MOST_HITS = 10_000
# Reciprocal rank fusion: 60 keeps the first ranks from deciding alone.
# Source: Cormack, Clarke, Buettcher: Reciprocal Rank Fusion (SIGIR 2009), section 2.
_RRF_K = 60
_FUSED_DEPTH = 4  # each list is asked for so many times k
_REFINE = 5  # quantised distances order 5 k candidates, exact ones the k: recall@10 .996 at 100,000 x 384
# Partitions looked into at least; more where a filter leaves fewer than k rows in these.
_PROBES = 32


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a dataset. `vector` for mode vector, `text` for mode text, both for hybrid."""

    mode: Mode = "vector"
    vector: Sequence[float] | None = field(default=None, repr=False)
    text: str | None = None
    column: str = "vector"  # in which space `vector` lies
    k: Annotated[int, Field(gt=0, le=_MOST_HITS)] = 10
    filter: str | None = None  # SQL
    columns: tuple[str, ...] = ANSWER
    version: int | str = LIVE
    weights: tuple[float, float] = (1.0, 1.0)  # of vector and text, when both are asked


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Hits, best first, from one version."""

    version: int
    hits: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which rows are wanted, in the order of their ids."""

    limit: Annotated[int, Field(gt=0, le=_MOST_HITS)] = 100
    after: str | None = None  # the last id of the page before
    filter: str | None = None
    columns: tuple[str, ...] | None = None  # None: all but pictures
    version: int | str = LIVE


def search(table: Table, question: Question) -> Answer:
    """Answer a question.

    The score of a hit is the cosine similarity (mode vector), BM25 (text), or the fused reciprocal rank (hybrid).

    Raises:
        InvalidUse: `where` names the field of the question that is wrong.
        NotFound: no such dataset or version.
    """
    dataset = table.open(question.version, cached=True)
    _require_sense(dataset, question)
    if question.mode == "vector":
        hits = _by_vector(dataset, question, question.k)
    elif question.mode == "text":
        hits = _by_text(dataset, question, question.k)
    else:
        depth = question.k * _FUSED_DEPTH
        lists = [_by_vector(dataset, question, depth), _by_text(dataset, question, depth)]
        hits = fuse(lists, question.weights)[: question.k]
    for hit in hits:
        del hit["_rowid"]
    return Answer(version=int(dataset.version), hits=hits)


def _by_vector(dataset: Any, question: Question, k: int) -> list[dict[str, Any]]:
    nearest = {
        "column": question.column,
        "q": np.asarray(question.vector, np.float32),
        "k": k,
        "metric": "cosine",
        "minimum_nprobes": _PROBES,
        "refine_factor": _REFINE,
    }
    hits = _ask(dataset, question, "_distance", nearest=nearest)
    return [hit | {"score": 1.0 - distance} for hit, distance in _without(hits, "_distance")]


def _by_text(dataset: Any, question: Question, k: int) -> list[dict[str, Any]]:
    query = MatchQuery(question.text or "", "text")  # words only: it has no syntax that could be malformed
    hits = _ask(dataset, question, "_score", full_text_query=query, limit=k)
    return [hit | {"score": score} for hit, score in _without(hits, "_score")]


def _without(hits: list[dict[str, Any]], rank: str) -> Iterator[tuple[dict[str, Any], float]]:
    for hit in hits:
        value = hit.pop(rank)
        yield hit, value


def _ask(dataset: Any, question: Question, rank: str, **scan: Any) -> list[dict[str, Any]]:
    columns = [*dict.fromkeys(question.columns), rank]
    where = None if question.filter is None else condition(question.filter)
    scan |= {"columns": columns, "filter": where, "prefilter": True, "with_row_id": True}
    hits: list[dict[str, Any]] = _scan(dataset, question.filter, scan).to_pylist()
    return hits


def _scan(dataset: Any, where: str | None, scan: dict[str, Any]) -> pa.Table:
    """Read rows; `where` is the condition that a person wrote, if any."""
    try:
        return dataset.to_table(**scan)
    except (ValueError, OSError, RuntimeError) as error:
        raise _blame(dataset, where, error) from error


def _blame(dataset: Any, where: str | None, error: Exception) -> RayclusterError:
    """Say that a person's condition is wrong if it fails alone too, else that the lake cannot be read."""
    if where is not None:
        try:
            dataset.count_rows(condition(where))
        except (ValueError, OSError, RuntimeError) as reason:
            return wrong(where, store.plain(reason))
    return LakeError(f"cannot search {dataset.uri}: {store.plain(error)}", fix=store.fix_for(dataset.uri))


def fuse(lists: Sequence[Sequence[dict[str, Any]]], weights: Sequence[float]) -> list[dict[str, Any]]:
    """Merge ranked lists of hits by the weighted sum of their reciprocal ranks, best first."""
    sums: dict[int, float] = {}
    hits: dict[int, dict[str, Any]] = {}
    for ranked, weight in zip(lists, weights, strict=True):
        for rank, hit in enumerate(ranked, start=1):
            row_id = hit["_rowid"]
            sums[row_id] = sums.get(row_id, 0.0) + weight / (_RRF_K + rank)
            hits[row_id] = hit
    return [{**hits[row_id], "score": sums[row_id]} for row_id in sorted(sums, key=lambda one: (-sums[one], one))]


def _require_sense(dataset: Any, question: Question) -> None:
    _require_size("k", question.k)
    _require_answerable(dataset, question.columns)
    if question.mode in ("vector", "hybrid"):
        _require_vector(dataset, question)
    if question.mode in ("text", "hybrid") and not (question.text or "").strip():
        raise InvalidUse("a text search needs text", where="text")
    if min(question.weights) < 0 or not max(question.weights) > 0:
        raise InvalidUse(f"weights {question.weights} leave nothing to rank by", where="weights")


def _require_size(name: str, size: int) -> None:
    if not 0 < size <= _MOST_HITS:
        raise InvalidUse(f"{name} is {size}", where=name, fix=f"ask for 1 to {_MOST_HITS}")


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


def _require_answerable(dataset: Any, names: Sequence[str]) -> None:
    for name in names:
        if is_blob(require_column(dataset, name, "columns")):
            raise InvalidUse(f"column {name!r} holds pictures", where="columns", fix="ask for them one by one, by id")


def _readable(dataset: Any) -> list[str]:
    return [one.name for one in dataset.schema if not is_blob(one)]


def rows(table: Table, page: Page) -> pa.Table:
    """Return one page of rows; a full one has a next, after its last `id`.

    Raises:
        InvalidUse: `where` names the field of the page that is wrong.
        NotFound: no such dataset or version.
    """
    dataset = table.open(page.version, cached=True)
    _require_size("limit", page.limit)
    _require_answerable(dataset, page.columns or ())
    columns = list(dict.fromkeys(("id", *(page.columns or _readable(dataset)))))
    wanted = [condition(page.filter)] if page.filter is not None else []
    wanted += [f"id > {quoted(page.after)}"] if page.after else []
    where = " AND ".join(wanted) or None
    scan = {"columns": columns, "filter": where, "limit": page.limit, "order_by": [ColumnOrdering("id")]}
    return _scan(dataset, page.filter, scan)


def row(table: Table, key: str, *, version: int | str = LIVE) -> dict[str, Any]:
    """Return one row by its id, without its picture.

    Raises:
        NotFound: no such row in that version.
    """
    dataset = table.open(version, cached=True)
    found: dict[str, Any] = _one(table, dataset, key, columns=_readable(dataset)).to_pylist()[0]
    return found


def thumbnail(table: Table, key: str, *, version: int | str = LIVE) -> bytes | None:
    """Return the picture of one row, JPEG or PNG; None where it has none.

    Raises:
        NotFound: no such row in that version.
    """
    dataset = table.open(version, cached=True)
    found = _one(table, dataset, key, columns=[], with_row_id=True)
    with store.explained(table.uri):
        picture = dataset.take_blobs("thumbnail", ids=found["_rowid"].to_pylist())[0]
        if picture is None:
            return None
        with picture:
            return bytes(picture.readall()) or None


def _one(table: Table, dataset: Any, key: str, **scan: Any) -> pa.Table:
    found = _scan(dataset, None, {"filter": f"id = {quoted(key)}", **scan})
    if not found.num_rows:
        raise NotFound(f"dataset {table.name!r} has no row {key!r} in version {dataset.version}")
    return found
