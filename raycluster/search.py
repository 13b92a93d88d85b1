"""A question of text, picture, sound or row becomes hits: it is embedded by the encoders that made the dataset.

A dataset remembers its encoders; a question is one row that goes through the same stages. `lake/query.py` does the
search itself; the command line and the HTTP application both come through here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, TypeAdapter, ValidationError

from raycluster import stage
from raycluster.encode import Encode
from raycluster.errors import BadMedia, InvalidUse
from raycluster.lake import query
from raycluster.lake.query import ANSWER, Mode
from raycluster.lake.table import LIVE, Table
from raycluster.read._media_type import HEAD_BYTES, identify
from raycluster.row import MEDIA

# The environment variable that lists the modules whose private stages may answer questions. A dataset names its
# encoders itself; without this, reading somebody's dataset would run any stage that it names.
TRUSTED = "RAYCLUSTER_PRIVATE_STAGES"
# What may be in the file of a question; a film has a sound track.
_TAKEN = {"image": ("image",), "audio": ("audio", "video")}
_FIX = "give a picture as image, a recording as audio"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a person asks: one of `text`, `image`, `audio` (bytes of a file) or `id` (of a row like it)."""

    text: str | None = None
    image: bytes | None = None
    audio: bytes | None = None
    id: str | None = None
    mode: Mode = "vector"
    k: Annotated[int, Field(gt=0)] = 10
    filter: str | None = None
    columns: tuple[str, ...] = ()
    version: int | str = LIVE


def ask(table: Table, question: Question) -> dict[str, Any]:
    """Answer a question, in the form that DESIGN.md section 7 gives the HTTP answer.

    Raises:
        InvalidUse: the question asks for nothing, for two things at once, or for what this dataset cannot answer.
        NotFound: no such dataset, version or row.
    """
    asked = [name for name in ("text", "image", "audio", "id") if getattr(question, name) is not None]
    if len(asked) != 1:
        found = f"got {' and '.join(asked)}" if asked else "got none"
        raise InvalidUse(f"ask by one of text, image, audio, id: {found}", where="text")
    if question.text is not None and not question.text.strip():
        raise InvalidUse("the text is empty", where="text", fix="say what to look for")
    encoders = Encoders(table, question.version)
    column, vector, text = "vector", None, question.text
    if question.mode != "text" or question.text is None:
        column, vector, heard = encoders.embed(question)
        text = text or heard
    started = time.perf_counter()
    answer = query.search(
        table,
        query.Question(
            mode=question.mode,
            vector=vector,
            text=text,
            column=column,
            k=question.k,
            filter=question.filter,
            columns=tuple(dict.fromkeys((*ANSWER, "position", *encoders.shown, *question.columns))),
            version=question.version,
        ),
    )
    took = (time.perf_counter() - started) * 1000
    return {"dataset": table.name, "version": answer.version, "took_ms": round(took, 3), "hits": answer.hits}


class Encoders:
    """The stages that made a dataset's columns, opened when a question needs them and kept."""

    def __init__(self, table: Table, version: int | str) -> None:
        self.table, self.version = table, version
        declared = table.encoders(version)
        self.decoders = [one for one in declared if one.get("family") == "decode"]
        self.stages = [one for one in declared if one.get("family") != "decode"]
        columns = table.schema(version).names
        self.shown = [name for name in ("label", "label_score") if name in columns]

    def embed(self, question: Question) -> tuple[str, Any, str | None]:
        """Return in which column to look, the vector to look for, and the words that were read or heard."""
        if question.text is not None:
            return "vector", self._text(question.text), question.text
        if question.id is not None:
            return self._like(question.id)
        if question.image is not None:
            return self._image(question.image)
        return self._audio(question.audio or b"")

    def _text(self, text: str) -> Any:
        for one in self.stages:
            encoder = _stage(json.dumps(one))
            if "vector" not in encoder.writes.names:
                continue
            if encoder.takes == "text":
                return _encoder(json.dumps(one))([text])["vector"][0]
            if (embed := _text_encoder(json.dumps(one))) is not None:
                return embed([text])["vector"][0]
        raise InvalidUse(
            f"dataset {self.table.name!r} has no encoder that puts text into its shared space",
            where="text",
            fix="search with mode text, or add `{use: minilm}` to its workload",
        )

    def _image(self, content: bytes) -> tuple[str, Any, str | None]:
        row = self._decoded("image", content)
        for one in self.stages:
            encoder = _stage(json.dumps(one))
            if encoder.takes == "pixels":
                own = next(
                    (name for name in encoder.writes.names if _is_vector(encoder, name) and name != "vector"), None
                )
                computed = _opened(json.dumps(one))(row)
                return own or "vector", computed.column(own or "vector")[0].as_py(), None
        raise InvalidUse(f"dataset {self.table.name!r} has no encoder of pictures", where="image")

    def _audio(self, content: bytes) -> tuple[str, Any, str | None]:
        row = self._decoded("audio", content)
        for one in self.stages:
            encoder = _stage(json.dumps(one))
            if encoder.takes != "samples":
                continue
            computed = _opened(json.dumps(one))(row)
            if "text" in encoder.writes.names and (heard := computed.column("text")[0].as_py()):
                return "vector", self._text(heard), heard
            own = next((name for name in encoder.writes.names if _is_vector(encoder, name)), None)
            if own is not None:
                return own, computed.column(own)[0].as_py(), None
        raise InvalidUse(
            f"nothing in this recording can be searched for in dataset {self.table.name!r}",
            where="audio",
            fix="it needs speech (encoder whisper) or an encoder of sounds (sound_events)",
        )

    def _like(self, key: str) -> tuple[str, Any, str | None]:
        row = query.row(self.table, key, version=self.version)
        own = [one.name for one in self.table.schema(self.version) if pa.types.is_fixed_size_list(one.type)]
        column = next((name for name in ("vector", *own) if row.get(name) is not None), None)
        if column is None:
            raise InvalidUse(f"row {key!r} has no vector, so nothing can be like it", where="id")
        return column, row[column], row["text"]

    def _decoded(self, modality: str, content: bytes) -> pa.RecordBatch:
        """Return the first row of a file, decoded as the dataset's own were."""
        options = next((one for one in self.decoders if one["use"] == modality), {"use": modality})
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
    options = json.loads(declared)
    family = "decode" if options.pop("family", None) == "decode" else "encode"
    name = str(options.pop("use"))
    module = name.partition(":")[0]
    if stage.is_private(name) and module not in os.environ.get(TRUSTED, "").split(","):
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
