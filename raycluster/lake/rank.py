"""A question and a view become hits, best first: one list a mode, fused by rank where two are asked.

Under `query.py`, which has checked the question. Each hit can tell why it is one: its rank and score in each list, and
the words of its text that were asked for (`words.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from lance.query import MatchQuery
from pydantic import Field

from raycluster.errors import TooLarge
from raycluster.lake.expression import Condition
from raycluster.lake.hot import ROW, Hot, Near
from raycluster.lake.sql import any_of
from raycluster.lake.table import LIVE
from raycluster.lake.view import View
from raycluster.lake.words import Words

Mode = Literal["vector", "text", "hybrid"]
Hit = dict[str, Any]

ANSWER = ("id", "uri", "modality", "start_seconds", "end_seconds", "text")
MOST_HITS = 10_000
# Reciprocal rank fusion: 60 keeps the first ranks from deciding alone.
# Source: Cormack, Clarke, Buettcher: Reciprocal Rank Fusion (SIGIR 2009), section 2.
_RRF_K = 60
# How much of each list is fused: so many times k. The same for every page, else a hit could be on two of them.
_FUSED_DEPTH = 4
_FUSED_LEAST = 100
# Quantised distances order so many times k candidates, exact ones the k. At 100,000 x 384 recall@10 was 1.000 with 2, 3
# and 5, and 3 took 0.7 ms of a core less than 5.
_REFINE = 3
# Partitions looked into at least; more where a filter leaves fewer than k rows in these.
_PROBES = 32
_PIECES = 4  # asked for at first for each object, where objects are wanted
_MOST_TIED = 1000  # rows read to find the last of equal score; 3 ms. Of more, pages may repeat some
# Searches for a list of objects; each asks for twice as many pieces as the one before.
_MOST_ROUNDS = 64
_OBJECT = "object_id"
_WHY = "_why"
_NEAR = "_near"  # of a hit from memory: where it lies there


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a dataset. `vector` for mode vector, `text` for mode text, both for hybrid."""

    mode: Mode = "vector"
    vector: Any = field(default=None, repr=False)  # numbers
    text: str | None = None
    column: str = "vector"  # in which space `vector` lies
    k: Annotated[int, Field(gt=0, le=MOST_HITS)] = 10
    offset: Annotated[int, Field(ge=0, le=MOST_HITS)] = 0  # hits that were seen already
    filter: str | None = None  # SQL
    columns: tuple[str, ...] = ANSWER
    shown: tuple[str, ...] = ()  # more columns, where the dataset has them
    version: int | str = LIVE
    weights: tuple[float, float] = (1.0, 1.0)  # of vector and text, when both are asked
    group: Literal["object"] | None = None  # the best piece of each object
    explain: bool = False  # why each hit is one
    highlight: bool = False  # which words of its text were asked for


def ranked(view: View, question: Question) -> tuple[list[Hit], bool]:
    """Return the hits of a question's page, and whether there are more."""
    asked = view.condition(question.filter)
    vector, text = partial(_by_vector, view, question, asked), partial(_by_text, view, question, asked)
    last = question.offset + question.k
    if question.mode == "hybrid":
        depth = max(_FUSED_DEPTH * question.k, _FUSED_LEAST)
        lists = {"vector": _listed(vector, depth, question), "text": _listed(text, depth, question)}
        found = fuse(lists, question.weights, key=_key(question))
    else:
        found = _listed(vector if question.mode == "vector" else text, last + 1, question)
        found = explained(question.mode, found) if question.explain else found
    return _finished(view, question, found[question.offset : last]), len(found) > last


def _key(question: Question) -> Callable[[Hit], Hashable]:
    name = _OBJECT if question.group else ROW
    return lambda hit: hit[name]


def fuse(lists: Mapping[str, Sequence[Hit]], weights: Sequence[float], *, key: Callable[[Hit], Hashable]) -> list[Hit]:
    """Merge ranked lists of hits by the weighted sum of their reciprocal ranks, best first.

    Of two hits with the same key, the one with the larger share is kept. Equal sums keep the order of the lists.
    """
    sums: dict[Hashable, float] = {}
    best: dict[Hashable, tuple[float, Hit]] = {}
    why: dict[Hashable, dict[str, Any]] = {}
    for (name, hits), weight in zip(lists.items(), weights, strict=True):
        for rank, hit in enumerate(hits, start=1):
            one, part = key(hit), weight * share(rank)
            sums[one] = sums.get(one, 0.0) + part
            why.setdefault(one, {})[name] = {"rank": rank, "score": hit["score"]}
            if one not in best or part > best[one][0]:
                best[one] = part, hit
    order = sorted(sums, key=lambda one: -sums[one])
    return [{**best[one][1], "score": sums[one], _WHY: why[one]} for one in order]


def share(rank: int) -> float:
    """Return what a place in a list is worth."""
    return 1 / (_RRF_K + rank)


def explained(mode: str, hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits of one list, each with its rank."""
    return [hit | {_WHY: {mode: {"rank": rank, "score": hit["score"]}}} for rank, hit in enumerate(hits, start=1)]


def _listed(ask: Callable[[int, str | None], list[Hit]], depth: int, question: Question) -> list[Hit]:
    """Return the best `depth` hits of a list: rows, or objects, each by its best piece."""
    if not question.group:
        return _ordered(ask, depth, None)
    objects: dict[str, Hit] = {}
    size, seen = depth * _PIECES, None
    for _ in range(_MOST_ROUNDS):
        hits = _ordered(ask, size, seen)
        for hit in hits:
            objects.setdefault(hit[_OBJECT], hit)
        if len(objects) >= depth or len(hits) < size:
            return list(objects.values())[:depth]
        # The best pieces of all objects but these come next, however many pieces one of them has.
        seen = f"NOT ({' OR '.join(any_of(_OBJECT, objects))})"
        size = min(2 * size, _PIECES * MOST_HITS)
    raise TooLarge(
        f"the best pieces are of {len(objects)} objects only, each with very many", where="k", fix="ask for fewer"
    )


def _ordered(ask: Callable[[int, str | None], list[Hit]], size: int, own: str | None) -> list[Hit]:
    """Return the best hits, those of equal score in the order of their rows.

    Which of them Lance returns depends on how many it is asked for: a hit would be on two pages, or on none. So it is
    asked for more until the last ones that count are all there.
    """
    asked = size
    while True:
        asked += 1
        hits = sorted(ask(asked, own), key=lambda hit: (-hit["score"], hit[ROW]))
        if len(hits) < asked or hits[-1]["score"] < hits[size - 1]["score"] or asked > size + _MOST_TIED:
            return hits[:size]
        asked *= 2


def _by_vector(view: View, question: Question, asked: Condition | None, k: int, own: str | None) -> list[Hit]:
    # direction: (dimension,) float32 of unit length, however long or short the vector is
    wide = np.asarray(question.vector, np.float64)
    wide = wide / np.abs(wide).max()
    direction = (wide / math.sqrt(wide @ wide)).astype(np.float32)
    hot = view.hot.get(question.column)
    if hot is not None:
        return _in_memory(view, hot, question, hot.nearest(direction, k, view.among(hot, asked, own)))
    nearest = {
        "column": question.column,
        "q": direction,
        "k": k,
        "metric": "cosine",
        "minimum_nprobes": _PROBES,
        "refine_factor": _REFINE,
    }
    found = view.scan(_wanted(question), asked, more=["_distance"], filter=own, nearest=nearest)
    return [hit | {"score": 1.0 - hit.pop("_distance")} for hit in found.to_pylist()]


def _in_memory(view: View, hot: Hot, question: Question, found: Sequence[Near]) -> list[Hit]:
    """Return hits by row and score; their columns are for `_finished`, but what lists are made by."""
    hits: list[Hit] = [{ROW: one.row, "score": one.score, _NEAR: one} for one in found]
    if question.group:
        for hit, of in zip(hits, view.shown(found, [_OBJECT], hot), strict=True):
            hit.update(of)
    return hits


def _by_text(view: View, question: Question, asked: Condition | None, k: int, own: str | None) -> list[Hit]:
    query = MatchQuery(question.text or "", "text")  # words only: it has no syntax that could be malformed
    found = view.scan(_wanted(question), asked, more=["_score"], filter=own, full_text_query=query, limit=k)
    return [hit | {"score": hit.pop("_score")} for hit in found.to_pylist()]


def _wanted(question: Question) -> list[str]:
    extra = [_OBJECT] if question.group else []
    extra += ["text"] if question.text and (question.explain or question.highlight) else []
    return list(dict.fromkeys((*question.columns, *extra)))


def _finished(view: View, question: Question, hits: Sequence[Hit]) -> list[Hit]:
    """Return hits with what was asked for, and nothing else."""
    found = [hit for hit in hits if _NEAR in hit]
    if found:
        shown = view.shown([hit[_NEAR] for hit in found], _wanted(question), view.hot[question.column])
        if question.mode == "vector" and not (question.explain or question.highlight or question.group):
            return [columns | {"score": hit["score"]} for hit, columns in zip(found, shown, strict=True)]
        for hit, columns in zip(found, shown, strict=True):
            hit.update(columns)
    words = None
    if (question.explain or question.highlight) and not view.hides("text"):
        words = Words.asked(view.dataset, question.text or "")
    return [_told(question, hit, words) for hit in hits]


def _told(question: Question, hit: Hit, words: Words | None) -> Hit:
    told = {name: hit[name] for name in question.columns}
    told["score"] = hit["score"]
    text = hit.get("text") or ""
    if question.explain:
        told["why"] = {"mode": question.mode, **hit[_WHY], "matched": words.matched(text) if words else []}
    if question.highlight:
        told["highlights"] = words.fragments(text) if words else []
    return told
