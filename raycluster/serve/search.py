"""A question over HTTP becomes hits, of one dataset or of several; a dataset's columns become counts of their values.

A model runs elsewhere (`Context.embed`), a search that reads in a thread: neither holds up other requests.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat
from starlette.concurrency import run_in_threadpool

from raycluster.errors import InvalidUse, TooLarge
from raycluster.lake import query
from raycluster.lake.query import MOST_HITS, Mode
from raycluster.lake.sql import is_whole
from raycluster.lake.table import LIVE
from raycluster.search import Embedded, Question, answer, answer_all, at_hand
from raycluster.serve import trace
from raycluster.serve.context import Seen
from raycluster.serve.datasets import Name
from raycluster.serve.quick import Quick
from raycluster.serve.reply import reply
from raycluster.serve.rows import Columns, Version
from raycluster.serve.sent import Sent
from raycluster.serve.visit import Visit, Visitor

router = APIRouter(tags=["search"])

_MOST_TEXT = 10_000  # characters; models read the first few hundred words
_MOST_MEDIA = 32 << 20  # bytes of a picture or recording
_MOST_FACETS = 20
_TAG = r"^(\d{1,18}|[A-Za-z][\w.-]{0,63})$"
_SEVERAL = "*"  # the dataset in the metrics of a question to several
_BASE64 = {"contentEncoding": "base64"}
_EXAMPLES: list[Any] = [
    {"text": "a red boat", "k": 20, "filter": "modality = 'image' AND features.width > 800"},
    {"text": "harbour", "mode": "hybrid", "weights": {"text": 2.0}, "columns": ["media_type"], "explain": True},
    {"id": "7b0297e5fb9338bdf1a2827676515789d997b078aa15cf3d0677eeebb147f1f6", "group": "object", "version": "live"},
]


def _whole(text: str) -> str:
    if not is_whole(text):
        raise ValueError("there is half a character in it")
    return text


Text = Annotated[str, AfterValidator(_whole)]


class Weights(Sent):
    """How much each list counts where both are fused."""

    vector: Annotated[FiniteFloat, Field(ge=0, le=1000)] = 1.0
    text: Annotated[FiniteFloat, Field(ge=0, le=1000)] = 1.0


_EVEN = Weights()


class Asked(Sent):
    """A question by one of `text`, `image`, `audio`, `id` and `vector`; with mode `hybrid`, by `text` and another."""

    text: Annotated[Text | None, Field(description="words, in any language that the encoder knows")] = None
    image: Annotated[Text | None, Field(description="a picture's file", json_schema_extra=_BASE64)] = None
    audio: Annotated[Text | None, Field(description="a recording's file", json_schema_extra=_BASE64)] = None
    id: Annotated[Text | None, Field(description="of a row: what is like it?", max_length=200)] = None
    vector: Annotated[list[FiniteFloat] | None, Field(min_length=1, max_length=8192)] = None
    column: Annotated[Text | None, Field(description="the space of `vector`, or of the row", max_length=200)] = None
    mode: Annotated[Mode, Field(description="by meaning, by words, or by both, fused by rank")] = "vector"
    # pydantic would copy a default for every question: as long as reading the rest takes
    weights: Weights = Field(default_factory=lambda: _EVEN, json_schema_extra={"default": _EVEN.model_dump()})
    k: Annotated[int, Field(description="hits of a page", ge=1, le=1000)] = 10
    offset: Annotated[int, Field(description="`next` of the page before", ge=0, le=MOST_HITS)] = 0
    filter: Annotated[Text | None, Field(description="an SQL condition on the columns; exact")] = None
    columns: list[Annotated[Text, Field(max_length=200)]] = Field([], description="more of each hit", max_length=100)
    group: Annotated[Literal["object"] | None, Field(description="only the best piece of each object")] = None
    explain: Annotated[bool, Field(description="`why` each hit is one")] = False
    highlight: Annotated[bool, Field(description="`highlights`: where the words are in its text")] = False

    def question(self, version: int | str) -> Question:
        """Return it as the library has it.

        Raises:
            InvalidUse: what should be base64 is not.
            TooLarge: there is too much of something.
        """
        if self.text is not None and len(self.text) > _MOST_TEXT:
            raise TooLarge(f"the text has {len(self.text)} characters; {_MOST_TEXT} is the most", where="text")
        return Question(
            text=self.text,
            image=_bytes("image", self.image),
            audio=_bytes("audio", self.audio),
            id=self.id,
            vector=None if self.vector is None else tuple(self.vector),
            column=self.column,
            mode=self.mode,
            weights=(self.weights.vector, self.weights.text),
            k=self.k,
            offset=self.offset,
            filter=self.filter,
            columns=tuple(self.columns),
            version=version,
            group=self.group,
            explain=self.explain,
            highlight=self.highlight,
        )


class AskedOne(Asked):
    """A question to one dataset."""

    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLES})

    version: Annotated[
        Annotated[int, Field(ge=0, lt=10**18)] | Annotated[str, Field(pattern=_TAG)],
        Field(description="a version's number or tag"),
    ] = LIVE


class AskedSeveral(Asked):
    """A question to several datasets, each as it is live."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a red boat", "datasets": ["photos", "films"]}]})

    datasets: Annotated[list[Annotated[Text, Field(max_length=63)]], Field(min_length=1, max_length=16)]


class Of(BaseModel):
    """Which version of a dataset was asked."""

    dataset: str
    version: int


class Hits(BaseModel):
    """Hits, best first; each has the columns of its row that were asked for."""

    took_ms: float
    hits: list[dict[str, Any]]
    next: int | None


class Found(Hits, Of):
    """What was found in one dataset."""


class FoundInSeveral(Hits):
    """What was found in several; each hit says its `dataset`."""

    datasets: list[Of]


class Value(BaseModel):
    """One value of a column, and how many rows have it."""

    value: Any
    rows: int


class Counted(Of):
    """How many rows there are, and the most frequent values of each column."""

    rows: int
    facets: dict[str, list[Value]]


async def search(visit: Visitor, name: Name, asked: AskedOne) -> JSONResponse:
    """Search a dataset, across modalities.

    `score` is the cosine similarity (mode vector), BM25 (text), or the weighted sum of reciprocal ranks (hybrid).
    `next` is the `offset` of the next page, null after the last.
    """
    if visit.is_at_hand(name, asked.version):
        seen = visit.read(name)
    else:
        seen = await run_in_threadpool(visit.read, name, asked.version)
    question = asked.question(asked.version)
    embedded = await _embedded(visit, seen, question)
    quick = at_hand(seen.table, question, embedded, access=seen.access)
    if quick is not None:
        return reply(_timed(visit, name, question, quick))  # in less time than a thread takes to begin

    def work() -> JSONResponse:
        return reply(_timed(visit, name, question, lambda: answer(seen.table, question, embedded, access=seen.access)))

    return await run_in_threadpool(work)


async def search_several(visit: Visitor, asked: AskedSeveral) -> JSONResponse:
    """Search several datasets at once; each hit says its `dataset`.

    Ranked by `score` where the question is the same vector in all of them, else by reciprocal rank in each.
    """
    names = list(dict.fromkeys(asked.datasets))
    seen = [await run_in_threadpool(visit.read, name) for name in names]
    question = asked.question(LIVE)
    embedded = await asyncio.gather(*(_embedded(visit, one, question) for one in seen))
    parts = [(one.table, made, one.access) for one, made in zip(seen, embedded, strict=True)]

    def work() -> JSONResponse:
        return reply(_timed(visit, _SEVERAL, question, lambda: answer_all(parts, question)))

    return await run_in_threadpool(work)


for _path, _endpoint, _model in (
    ("/v1/datasets/{name}/search", search, Found),
    ("/v1/search", search_several, FoundInSeveral),
):
    router.add_api_route(_path, _endpoint, methods=["POST"], response_model=_model, route_class_override=Quick)


@router.get("/v1/datasets/{name}/facets", response_model=Counted)
def facets(
    visit: Visitor,
    name: Name,
    columns: Columns = "modality",
    filter: Annotated[str | None, Query(description="an SQL condition")] = None,  # noqa: A002
    version: Version = LIVE,
) -> JSONResponse:
    """Count the rows that you may see, and those that have each of the most frequent values of some columns."""
    seen = visit.read(name, version)
    wanted = [one.strip() for one in (columns or "").split(",") if one.strip()]
    if len(wanted) > _MOST_FACETS:
        raise TooLarge(f"{len(wanted)} columns; {_MOST_FACETS} is the most", where="columns")
    found = query.facets(seen.table, wanted, filter=filter, version=version, access=seen.access)
    return reply({"dataset": name, "version": found.version, "rows": found.rows, "facets": found.facets})


async def _embedded(visit: Visit, seen: Seen, question: Question) -> Embedded | None:
    unembedded = question.unembedded
    if unembedded is None:
        return None
    kind = question.by
    with visit.context.metrics.embed_seconds.labels(kind).time(), trace.span("encoders", kind=kind):
        return await visit.context.embed(seen.table.name, question.version, unembedded)


def _timed(visit: Visit, dataset: str, question: Question, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Let the lake work, and tell those who watch how long it takes."""
    known = {"dataset": dataset, "version": question.version, "mode": question.mode, "k": question.k}
    took = visit.context.metrics.search_seconds.labels(dataset, question.mode)
    with took.time(), trace.span("lance query", **known):
        return work()


def _bytes(name: str, text: str | None) -> bytes | None:
    if text is None:
        return None
    if len(text) > _MOST_MEDIA * 4 // 3 + 4:
        raise TooLarge(f"the {name} is larger than {_MOST_MEDIA >> 20} MiB", where=name)
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidUse(f"{name} is not base64: {error}", where=name, fix="encode the file's bytes") from error
