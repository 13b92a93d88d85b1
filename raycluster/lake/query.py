"""A question becomes hits, a key its row, a filter its pages: what readers ask of one version of a dataset.

Vector search is cosine, exact where no index covers a row; text search is BM25; hybrid fuses both lists by rank (RRF).
A filter always applies before ranking, so `k` hits come back wherever `k` rows match. What a reader may see is decided
in `view.py`, how lists are ranked in `rank.py`; by default everything may be seen, as on one's own lake.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import ColumnOrdering
from pydantic import Field

from raycluster.errors import Forbidden, InvalidUse, NotFound, TooLarge
from raycluster.lake import store
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.columns import is_blob
from raycluster.lake.hot import ROW
from raycluster.lake.rank import ANSWER, MOST_HITS, Mode, Question, ranked
from raycluster.lake.sql import quoted
from raycluster.lake.table import LIVE, Table, require_column
from raycluster.lake.view import View

__all__ = ["ANSWER", "MOST_HITS", "Answer", "Facets", "Mode", "Page", "Posed", "Question"]
__all__ += ["at_hand", "count", "facets", "like", "row", "rows", "search", "thumbnail"]

_AT_ONCE = 100  # hits that are found and told in a millisecond
_FACET_ROWS = 65_536  # rows a batch: half a megabyte of dictionary indices a column
_TOP = 50  # values of a column that are told
_MOST_VALUES = 10_000  # different values of a column that are counted; one with more is no facet


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Hits, best first, from one version; `next` is the offset of the next page, if there is one."""

    version: int
    hits: list[dict[str, Any]]
    next: int | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which rows are wanted, in the order of their ids."""

    limit: Annotated[int, Field(gt=0, le=MOST_HITS)] = 100
    after: str | None = None  # the last id of the page before
    filter: str | None = None
    columns: tuple[str, ...] | None = None  # None: all but pictures
    version: int | str = LIVE


@dataclass(frozen=True, kw_only=True)
class Facets:
    """How many rows there are, and how many have each of a column's most frequent values."""

    version: int
    rows: int
    facets: dict[str, list[dict[str, Any]]]


def search(table: Table, question: Question, *, access: Access = EVERYTHING) -> Answer:
    """Answer a question.

    The score of a hit is the cosine similarity (mode vector), BM25 (text), or the fused reciprocal rank (hybrid).

    Raises:
        InvalidUse: `where` names the field of the question that is wrong.
        NotFound: no such dataset or version.
        Forbidden: it would choose rows by a column that is masked.
    """
    return Posed.of(table, question, access).answer()


@dataclass(frozen=True)
class Posed:
    """A question to what a reader may see of one version."""

    view: View
    question: Question

    @classmethod
    def of(cls, table: Table, question: Question, access: Access) -> Posed:
        """Open what is asked.

        Raises:
            NotFound: no such dataset or version.
        """
        view = View.open(table, question.version, access)
        return cls(view, _whole(view, question))

    def answer(self) -> Answer:
        """Answer it.

        Raises:
            InvalidUse, Forbidden: as `search`.
        """
        view, question = self.view, self.question
        _require_sense(view, question)
        hits, more = ranked(view, question)
        after = question.offset + question.k
        return Answer(version=view.version, hits=hits, next=after if more and after < MOST_HITS else None)


def at_hand(table: Table, question: Question, *, access: Access = EVERYTHING) -> Posed | None:
    """Return a question whose answer needs nothing but what this process holds in memory, and is there at once.

    None where it may have to wait for a store.
    """
    hot = table.hot(question.version).get(question.column)
    if hot is None or question.mode != "vector" or question.group or question.explain or question.highlight:
        return None
    if question.filter is not None or question.offset + question.k > _AT_ONCE:
        return None
    posed = Posed.of(table, question, access)
    is_there = posed.view.chooses_at_hand(hot) and posed.view.shows_at_hand(posed.question.columns, hot)
    return posed if is_there else None


def _whole(view: View, question: Question) -> Question:
    """Return a question with the columns that it wants where a dataset has them."""
    shown = [one for one in question.shown if view.schema.get_field_index(one) >= 0]
    return replace(question, columns=tuple(dict.fromkeys((*question.columns, *shown)))) if shown else question


def _require_sense(view: View, question: Question) -> None:
    _require_size("k", question.k)
    if not 0 <= question.offset <= MOST_HITS - question.k:
        raise TooLarge(f"offset {question.offset} is not below {MOST_HITS} less k", where="offset")
    view.require_readable(question.columns)
    if question.mode in ("vector", "hybrid"):
        _require_vector(view, question)
    if question.mode in ("text", "hybrid"):
        if not (question.text or "").strip():
            raise InvalidUse("a text search needs text", where="text")
        view.require_open("text", "text")
    if question.highlight:
        view.require_open("text", "highlight")
    if question.group:
        view.require_open("object_id", "group")
    if not all(weight >= 0 and math.isfinite(weight) for weight in question.weights) or not max(question.weights) > 0:
        raise InvalidUse(f"weights {question.weights} leave nothing to rank by", where="weights")


def _require_size(name: str, size: int) -> None:
    if not 0 < size <= MOST_HITS:
        raise InvalidUse(f"{name} is {size}", where=name, fix=f"ask for 1 to {MOST_HITS}")


def _require_vector(view: View, question: Question) -> None:
    kind = require_column(view, question.column, "column").type
    if not pa.types.is_fixed_size_list(kind):
        raise InvalidUse(f"column {question.column!r} holds {kind}, not vectors", where="column")
    view.require_open(question.column, "column")
    if question.vector is None:
        raise InvalidUse(f"a {question.mode} search needs a vector", where="vector")
    if len(question.vector) != kind.list_size:
        raise InvalidUse(
            f"the vector has {len(question.vector)} dimensions, column {question.column!r} has {kind.list_size}",
            where="vector",
            fix="embed the question with the encoder that made the column",
        )
    largest = float(np.abs(np.asarray(question.vector, np.float64)).max(initial=0.0))
    if not (math.isfinite(largest) and largest > 0):
        raise InvalidUse("the vector is zero or not finite, so it points nowhere", where="vector")


def rows(table: Table, page: Page, *, access: Access = EVERYTHING) -> pa.Table:
    """Return one page of rows; a full one has a next, after its last `id`.

    Raises:
        InvalidUse: `where` names the field of the page that is wrong.
        NotFound: no such dataset or version.
        Forbidden: it would choose rows by a column that is masked.
    """
    view = View.open(table, page.version, access)
    _require_size("limit", page.limit)
    view.require_readable(page.columns or ())
    view.require_open("id", "after")
    columns = list(dict.fromkeys(("id", *(page.columns or view.readable))))
    own = None if page.after is None else f"id > {quoted(page.after)}"
    order = [ColumnOrdering("id")]
    found = view.scan(columns, view.condition(page.filter), filter=own, limit=page.limit, order_by=order)
    return found.select(columns)


def row(table: Table, key: str, *, version: int | str = LIVE, access: Access = EVERYTHING) -> dict[str, Any]:
    """Return one row by its id, without its picture.

    Raises:
        NotFound: no such row in that version, or none that the reader may see.
    """
    view = View.open(table, version, access)
    found: dict[str, Any] = _one(view, key, view.readable).select(view.readable).to_pylist()[0]
    return found


def like(table: Table, key: str, column: str | None, *, version: int | str, access: Access = EVERYTHING) -> Question:
    """Return the question for rows like one: its vector, in `column` or the first space where it has one; its words.

    Raises:
        NotFound: as `row`.
        InvalidUse: the row has no vector.
    """
    view = View.open(table, version, access)
    own = [one.name for one in view.schema if pa.types.is_fixed_size_list(one.type) and one.name != "vector"]
    spaces = ["vector", *own] if column is None else [column]
    view.require_readable(spaces)
    found = _one(view, key, [*spaces, "text"]).to_pylist()[0]
    space = next((name for name in spaces if found[name] is not None), None)
    if space is None:
        raise InvalidUse(f"row {key!r} has no vector, so nothing can be like it", where="id")
    return Question(column=space, vector=found[space], text=found["text"], version=version)


def thumbnail(table: Table, key: str, *, version: int | str = LIVE, access: Access = EVERYTHING) -> bytes | None:
    """Return the picture of one row, JPEG or PNG; None where it has none.

    Raises:
        NotFound: no such row in that version, or none that the reader may see.
        Forbidden: pictures are masked.
    """
    view = View.open(table, version, access)
    if view.hides("thumbnail"):
        raise Forbidden(f"the pictures of dataset {table.name!r} are masked for you", where="thumbnail")
    found = _one(view, key, [])
    with store.explained(table.uri):
        picture = view.dataset.take_blobs("thumbnail", ids=found[ROW].to_pylist())[0]
        if picture is None:
            return None
        with picture:
            return bytes(picture.readall()) or None


def _one(view: View, key: str, columns: Sequence[str]) -> pa.Table:
    view.require_open("id", "id")
    found = view.scan(columns, filter=f"id = {quoted(key)}")
    if not found.num_rows:
        raise NotFound(f"dataset {view.name!r} has no row {key!r} in version {view.version}")
    return found


def count(
    table: Table,
    filter: str | None = None,  # noqa: A002
    *,
    version: int | str = LIVE,
    access: Access = EVERYTHING,
) -> int:
    """Count the rows that a reader may see.

    Raises:
        InvalidUse: the filter is wrong.
        NotFound: no such dataset or version.
    """
    view = View.open(table, version, access)
    return view.count(view.condition(filter))


def facets(
    table: Table,
    columns: Sequence[str],
    *,
    filter: str | None = None,  # noqa: A002
    version: int | str = LIVE,
    access: Access = EVERYTHING,
) -> Facets:
    """Count the most frequent values of columns, streaming; null is a value too.

    Raises:
        InvalidUse: a column that has no values to count, or too many different ones; a wrong filter.
        NotFound: no such dataset or version.
        Forbidden: a column is masked.
    """
    view = View.open(table, version, access)
    for name in columns:
        _require_countable(view, name)
    asked = view.condition(filter)
    if not columns:
        return Facets(version=view.version, rows=view.count(asked), facets={})
    total, sums = 0, {name: Counter[Any]() for name in columns}
    for batch in view.batches(list(sums), asked, _FACET_ROWS):
        total += batch.num_rows
        for name, found in sums.items():
            for pair in pc.value_counts(batch.column(name)).to_pylist():
                found[pair["values"]] += pair["counts"]
            if len(found) > _MOST_VALUES:
                raise InvalidUse(
                    f"column {name!r} has more than {_MOST_VALUES} different values",
                    where="columns",
                    fix="count a column of few values, or name a filter",
                )
    return Facets(version=view.version, rows=total, facets={name: _top(found) for name, found in sums.items()})


def _top(found: Counter[Any]) -> list[dict[str, Any]]:
    order = sorted(found.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return [{"value": value, "rows": rows} for value, rows in order[:_TOP]]


def _require_countable(view: View, name: str) -> None:
    kind = require_column(view, name, "columns")
    if is_blob(kind) or pa.types.is_nested(kind.type) or pa.types.is_binary(kind.type):
        raise InvalidUse(f"column {name!r} has no values to count: it is {kind.type}", where="columns")
    view.require_open(name, "columns")
