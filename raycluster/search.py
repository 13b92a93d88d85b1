"""A question of text, picture, sound or row becomes hits: it is embedded by the encoders that made the dataset.

A dataset remembers its encoders; a question is one row that goes through the same stages. `lake/query.py` does the
search itself; the command line and the HTTP application both come through here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, TypeAdapter, ValidationError

from raycluster import stage
from raycluster.encode import Encode
from raycluster.errors import BadMedia, InvalidUse, NotFound, TooLarge
from raycluster.lake import query
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.query import ANSWER, MOST_HITS, Mode
from raycluster.lake.rank import share
from raycluster.lake.sql import is_whole
from raycluster.lake.table import LIVE, Table
from raycluster.read._media_type import HEAD_BYTES, identify
from raycluster.row import MEDIA

# The environment variable that lists the modules whose private stages may answer questions. A dataset names its
# encoders itself; without this, reading somebody's dataset would run any stage that it names.
TRUSTED = stage.TRUSTED
_ASKED: tuple[Literal["text", "image", "audio", "id", "vector"], ...] = ("text", "image", "audio", "id", "vector")
_LABELS = ("label", "label_score")  # what a classifier of pictures says, where a dataset has one
# Of a picture that is asked with, by anybody: a phone's best. One of 180 million, in half a MB, took 1.2 GB to decode.
_MOST_PIXELS = 50_000_000
# What may be in the file of a question; a film has a sound track.
_TAKEN = {"image": ("image",), "audio": ("audio", "video")}
_FIX = "give a picture as image, a recording as audio"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a person asks: one of `text`, `image`, `audio` (bytes of a file), `id` (of a row like it) or `vector`.

    With mode hybrid, `text` may stand beside another one: these words, and like this picture.
    """

    text: str | None = None
    image: bytes | None = field(default=None, repr=False)
    audio: bytes | None = field(default=None, repr=False)
    id: str | None = None
    vector: tuple[float, ...] | None = field(default=None, repr=False)
    column: str | None = None  # the space of `vector`, or of the row called `id`; None: the shared one
    mode: Mode = "vector"
    k: Annotated[int, Field(gt=0)] = 10
    offset: Annotated[int, Field(ge=0)] = 0
    filter: str | None = None
    columns: tuple[str, ...] = ()
    version: int | str = LIVE
    weights: tuple[float, float] = (1.0, 1.0)  # of vector and text, with mode hybrid
    group: Literal["object"] | None = None
    explain: bool = False
    highlight: bool = False

    @property
    def by(self) -> Literal["text", "image", "audio", "id", "vector", "words"]:
        """Return what its vector comes from; words, where it needs none.

        Raises:
            InvalidUse: it asks for nothing, or for two things at once.
        """
        asked = [name for name in _ASKED if getattr(self, name) is not None]
        if self.mode == "hybrid" and len(asked) == 2 and "text" in asked:
            asked.remove("text")
        if len(asked) != 1:
            found = f"got {' and '.join(asked)}" if asked else "got none"
            raise InvalidUse(f"ask by one of text, image, audio, id: {found}", where="text", fix="or by a raw vector")
        if self.text is not None and not self.text.strip():
            raise InvalidUse("the text is empty", where="text", fix="say what to look for")
        if self.text is not None and not is_whole(self.text):
            raise InvalidUse(f"the text {self.text!r} has half a character in it", where="text")
        return "words" if asked[0] == "text" and self.mode == "text" else asked[0]

    @property
    def unembedded(self) -> Question | None:
        """Return the part of a question that a model has to see before it can be answered; None where there is none.

        Raises:
            InvalidUse: as `by`.
        """
        if self.by not in ("text", "image", "audio"):
            return None
        return Question(**{self.by: getattr(self, self.by), "mode": self.mode, "version": self.version})


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A question as its dataset's encoders see it: a vector, in which column's space, and what was read or heard."""

    column: str = "vector"
    vector: Sequence[float] | None = field(default=None, repr=False)
    text: str | None = None


def ask(table: Table, question: Question, *, access: Access = EVERYTHING) -> dict[str, Any]:
    """Answer a question, in the form that DESIGN.md section 7 gives the HTTP answer.

    Raises:
        InvalidUse: the question asks for nothing, for two things at once, or for what this dataset cannot answer.
        NotFound: no such dataset, version or row.
        Forbidden: it would choose rows by a column that is masked.
    """
    unembedded = question.unembedded
    embedded = None if unembedded is None else embed(table, unembedded)
    told = answer(table, question, embedded, access=access)
    return {name: value for name, value in told.items() if name != "next"}


def embed(table: Table, question: Question) -> Embedded:
    """Run the encoders that a question needs (`Question.unembedded`). Nothing of the dataset's rows is read.

    Raises:
        InvalidUse: the dataset has no encoder for it, or nothing can be seen or heard in it.
        NotFound: no such dataset or version.
    """
    if question.text is not None:
        return embed_texts(table, question.version, [question.text])[0]
    encoders = Encoders(table, question.version)
    return encoders.image(question.image) if question.image is not None else encoders.audio(question.audio or b"")


def embed_texts(table: Table, version: int | str, texts: Sequence[str]) -> list[Embedded]:
    """Embed several texts at once.

    Raises:
        InvalidUse, NotFound: as `embed`.
    """
    vectors = Encoders(table, version).texts(texts)
    return [Embedded(vector=vector, text=text) for vector, text in zip(vectors, texts, strict=True)]


def answer(
    table: Table, question: Question, embedded: Embedded | None = None, *, access: Access = EVERYTHING
) -> dict[str, Any]:
    """Look for a question, and for what `embed` has made of it; `next` is the offset of the next page, if there is one.

    Raises:
        InvalidUse, NotFound, Forbidden: as `ask`.
    """
    started = time.perf_counter()
    if embedded is None and question.id is not None:
        embedded = _like(table, question, access)
    return _told(table, query.search(table, _asked(question, embedded), access=access), started)


def at_hand(
    table: Table, question: Question, embedded: Embedded | None, *, access: Access = EVERYTHING
) -> Callable[[], dict[str, Any]] | None:
    """Return what answers as `answer` does, where that needs no store and takes a millisecond or less; else None."""
    started = time.perf_counter()
    if embedded is None and question.id is not None:
        return None
    posed = query.at_hand(table, _asked(question, embedded), access=access)
    return None if posed is None else lambda: _told(table, posed.answer(), started)


def _told(table: Table, found: query.Answer, started: float) -> dict[str, Any]:
    took = round((time.perf_counter() - started) * 1000, 3)
    return {"dataset": table.name, "version": found.version, "took_ms": took, "hits": found.hits, "next": found.next}


def _asked(question: Question, embedded: Embedded | None) -> query.Question:
    """Return a question as the lake has it."""
    if embedded is None:
        embedded = Embedded(column=question.column or "vector", vector=question.vector)
    return query.Question(
        mode=question.mode,
        vector=None if embedded.vector is None else np.asarray(embedded.vector, np.float64),
        text=question.text or embedded.text,
        column=embedded.column,
        k=question.k,
        offset=question.offset,
        filter=question.filter,
        columns=tuple(dict.fromkeys((*ANSWER, "position", *question.columns))),
        shown=_LABELS,
        version=question.version,
        weights=question.weights,
        group=question.group,
        explain=question.explain,
        highlight=question.highlight,
    )


def answer_all(asked: Sequence[tuple[Table, Embedded | None, Access]], question: Question) -> dict[str, Any]:
    """Look for a question in several datasets, each with what its own encoders have made of it.

    Cosine similarities to the same vector are compared as they are; else what counts is the rank in each dataset.

    Raises:
        InvalidUse, NotFound, Forbidden: as `ask`.
    """
    started = time.perf_counter()
    if question.id is not None:
        shared = _like_any(asked, question)
        asked = [(table, shared, access) for table, _, access in asked]
    last = question.offset + question.k
    if last > MOST_HITS:
        raise TooLarge(f"offset {question.offset} and k {question.k} are more than {MOST_HITS}", where="offset")
    whole = replace(question, offset=0, k=last)
    found = [answer(table, whole, made, access=access) for table, made, access in asked]
    is_one_space = _is_one_space(asked, question)
    for one in found:
        for rank, hit in enumerate(one["hits"], start=1):
            hit |= {"dataset": one["dataset"], "score": hit["score"] if is_one_space else share(rank)}
    hits = sorted((hit for one in found for hit in one["hits"]), key=lambda hit: -hit["score"])
    more = len(hits) > last or any(one["next"] is not None for one in found)
    return {
        "datasets": [{"dataset": one["dataset"], "version": one["version"]} for one in found],
        "took_ms": round((time.perf_counter() - started) * 1000, 3),
        "hits": hits[question.offset : last],
        "next": last if more and last < MOST_HITS else None,
    }


def _is_one_space(asked: Sequence[tuple[Table, Embedded | None, Access]], question: Question) -> bool:
    """Tell whether a question is the same vector in every dataset."""
    if question.mode != "vector":
        return False
    made = [one for _, one, _ in asked if one is not None]
    if not made:
        return True  # a raw vector
    # vectors: (dataset, dimension), where they have one number of dimensions
    vectors = [np.asarray(one.vector, np.float64) for one in made]
    return all(one.column == made[0].column for one in made) and all(
        one.shape == vectors[0].shape and np.allclose(one, vectors[0]) for one in vectors
    )


def _like_any(asked: Sequence[tuple[Table, Embedded | None, Access]], question: Question) -> Embedded:
    """Return the vector and words of a row, from the first dataset that has it."""
    for table, _, access in asked:
        try:
            return _like(table, question, access)
        except NotFound:
            continue
    raise NotFound(f"none of these datasets has row {question.id!r}", where="id")


def _like(table: Table, question: Question, access: Access) -> Embedded:
    """Return the vector and the words of a row, if the reader may see them."""
    found = query.like(table, question.id or "", question.column, version=question.version, access=access)
    return Embedded(column=found.column, vector=found.vector, text=found.text)


class Encoders:
    """The stages that made a dataset's columns, opened when a question needs them and kept."""

    def __init__(self, table: Table, version: int | str) -> None:
        self.table, self.version = table, version
        declared = table.encoders(version)
        self.decoders = [one for one in declared if one.get("family") == "decode"]
        self.stages = [one for one in declared if one.get("family") != "decode"]

    def texts(self, texts: Sequence[str]) -> Sequence[Any]:
        """Return texts in the shared space."""
        for one in self.stages:
            encoder = _stage(json.dumps(one))
            if "vector" not in encoder.writes.names:
                continue
            if encoder.takes == "text":
                return list(_encoder(json.dumps(one))(list(texts))["vector"])
            if (embed := _text_encoder(json.dumps(one))) is not None:
                return list(embed(list(texts))["vector"])
        raise InvalidUse(
            f"dataset {self.table.name!r} has no encoder that puts text into its shared space",
            where="text",
            fix="search with mode text, or add `{use: minilm}` to its workload",
        )

    def image(self, content: bytes) -> Embedded:
        """Return a picture in the space of its own encoder."""
        row = self._decoded("image", content)
        for one in self.stages:
            encoder = _stage(json.dumps(one))
            if encoder.takes == "pixels":
                own = next(
                    (name for name in encoder.writes.names if _is_vector(encoder, name) and name != "vector"), None
                )
                computed = _opened(json.dumps(one))(row)
                return Embedded(column=own or "vector", vector=computed.column(own or "vector")[0].as_py())
        raise InvalidUse(f"dataset {self.table.name!r} has no encoder of pictures", where="image")

    def audio(self, content: bytes) -> Embedded:
        """Return a recording as the words that are heard in it, or else as its sound."""
        row = self._decoded("audio", content)
        for one in self.stages:
            encoder = _stage(json.dumps(one))
            if encoder.takes != "samples":
                continue
            computed = _opened(json.dumps(one))(row)
            if "text" in encoder.writes.names and (heard := computed.column("text")[0].as_py()):
                return Embedded(vector=self.texts([heard])[0], text=heard)
            own = next((name for name in encoder.writes.names if _is_vector(encoder, name)), None)
            if own is not None:
                return Embedded(column=own, vector=computed.column(own)[0].as_py())
        raise InvalidUse(
            f"nothing in this recording can be searched for in dataset {self.table.name!r}",
            where="audio",
            fix="it needs speech (encoder whisper) or an encoder of sounds (sound_events)",
        )

    def _decoded(self, modality: str, content: bytes) -> pa.RecordBatch:
        """Return the first row of a file, decoded as the dataset's own were."""
        options = next((one for one in self.decoders if one["use"] == modality), {"use": modality})
        if modality == "image":
            options = options | {"max_pixels": min(options.get("max_pixels", _MOST_PIXELS), _MOST_PIXELS)}
        try:
            found = identify(content[:HEAD_BYTES], size=len(content), read=lambda at, size: content[at : at + size])
        except BadMedia as bad:
            raise InvalidUse(f"the {modality} cannot be used: {bad.message} ({bad.code})", where=modality) from None
        if found.modality not in _TAKEN[modality]:
            reason = f"{found.media_type} is not an {modality} format (unsupported)"
            raise InvalidUse(f"the {modality} cannot be used: {reason}", where=modality, fix=_FIX)
        media = {"object_id": "", "uri": "", "sha256": "", "modality": modality, "path": None}
        media["media_type"] = found.media_type
        batch = pa.RecordBatch.from_pylist([{**media, "content": content}], MEDIA)
        rows: Iterator[pa.RecordBatch] = _opened(json.dumps(options | {"family": "decode"}))(batch)
        first = next(rows)
        error = first.column("error")[0].as_py()
        if error is not None:
            raise InvalidUse(f"the {modality} cannot be used: {error['message']} ({error['code']})", where=modality)
        return first.slice(0, 1)


def _is_vector(encoder: Encode, name: str) -> bool:
    return bool(pa.types.is_fixed_size_list(encoder.writes.field(name).type))


def _stage(declared: str) -> Any:
    """Return a stage from its declaration, as JSON, which the dataset holds: whoever wrote that wrote this.

    Raises:
        InvalidUse: a private stage of a module that this process does not trust, or options that are none.
    """
    return _made(declared, os.environ.get(TRUSTED, ""))


@cache  # pydantic takes 4 ms to learn a stage's options
def _made(declared: str, trusted: str) -> Any:
    options = json.loads(declared)
    family = "decode" if options.pop("family", None) == "decode" else "encode"
    name = str(options.pop("use"))
    module = name.partition(":")[0]
    if stage.is_private(name) and module not in trusted.split(","):
        raise InvalidUse(
            f"this dataset was made with the private stage {name!r}, whose code is not run unless you say so",
            fix=f"if you trust it, set {TRUSTED}={module} (several: with commas); or search with mode text, or by id",
        )
    try:
        return TypeAdapter(stage.find(family, name)).validate_json(json.dumps(options), strict=True)
    except ValidationError as error:
        raise InvalidUse(
            f"this dataset's stage {name!r} has options that this version does not take: {error.errors()[0]['msg']}",
            fix="search with mode text, or by id",
        ) from error


@cache
def _encoder(declared: str) -> Callable[..., Any]:
    encoder: Callable[..., Any] = _stage(declared).encoder()
    return encoder


@cache
def _text_encoder(declared: str) -> Callable[..., Any] | None:
    encoder: Callable[..., Any] | None = _stage(declared).text_encoder()
    return encoder


@cache
def _opened(declared: str) -> Callable[..., Any]:
    work: Callable[..., Any] = _stage(declared).open()
    return work
