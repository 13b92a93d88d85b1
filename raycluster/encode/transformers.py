"""Text, pixels or samples become vectors or transcripts of any Hugging Face model, from the hub or a local folder.

The general door for deployments: sentence encoders, CLIP and SigLIP (images and query texts in one space), audio
encoders, CLAP, and speech recognition. How each kind is computed lies in `_hub.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from raycluster.encode import Encode, Encoder, _hub
from raycluster.encode._torch import Precision, local_sum
from raycluster.encode._towers import config_of, has_towers, known_width
from raycluster.errors import InvalidUse
from raycluster.units import Seconds

_PAYLOADS = {"text": "text", "image": "pixels", "audio": "samples", "speech": "samples"}


@dataclass(frozen=True, kw_only=True)
class Transformers(Encode):
    """Runs a Hugging Face model.

    model: `owner/name@revision` on the hub (a commit, tag or branch), or a local folder.
    kind: what it is fed: text, image, audio (vectors of sound), or speech (sound to text).
    column: name of the written column; left out, the model's own name.
    width: length of the vector; left out, the model's configuration is read to learn it.
    shared: also write `vector`, the space in which modalities are searched together.
    pooling: how vectors of tokens, patches or moments become one; models with a tower of their own (CLIP) ignore it.
    prefix, query_prefix: put before each text of a row, of a query, as E5 models want it.
    language: of speech, where the model asks for one.
    """

    model: str
    kind: Literal["text", "image", "audio", "speech"]
    column: str | None = None
    width: Annotated[int, Field(gt=0)] | None = None
    shared: bool = False
    pooling: Literal["mean", "cls"] = "mean"
    prefix: str = ""
    query_prefix: str | None = None
    language: str | None = None
    dtype: Precision = "auto"
    compile: bool = False
    timeout: Seconds = 300.0  # a batch of a large model on a CPU; the first call of a compiled one takes minutes

    @property
    def takes(self) -> Any:  # type: ignore[override]  # the only encoder whose payload depends on its fields
        """Return the payload that this kind of model is fed."""
        return _PAYLOADS[self.kind]

    @property
    def source(self) -> tuple[str, str | None]:
        """Return the local folder or hub id, and the revision."""
        if Path(self.model).expanduser().is_dir():
            return str(Path(self.model).expanduser()), None
        name, _, revision = self.model.partition("@")
        return name, revision or None

    @property
    def own_column(self) -> str:
        """Return the name of the written column: the model's, in letters that any query accepts."""
        name = Path(self.source[0]).name.lower()
        return self.column or re.sub(r"\W+", "_", name).strip("_")

    @property
    def revision(self) -> str:
        """Return the model and its revision: as pinned, else the hub's present commit, or the sum of local weights."""
        name, revision = self.source
        if revision:
            return self.model
        if Path(name).is_dir():
            return f"{Path(name).name}@{_folder_sum(Path(name))}"
        return f"{name}@{config_of(name, None)._commit_hash}"

    @property
    def writes(self) -> pa.Schema:
        """Return the transcript, or the vector under the names it is wanted."""
        if self.kind == "speech":
            return pa.schema([("text", pa.string())])
        names = [self.own_column, "vector"] if self.shared else [self.own_column]
        width = self.width or known_width(config_of(*self.source))
        if width is None:
            raise InvalidUse(
                f"transformers: the configuration of {self.model!r} does not say how wide its vectors are",
                fix="write it as `width`",
            )
        return pa.schema([(name, pa.list_(pa.float32(), width)) for name in names])

    def encoder(self) -> Encoder:
        """Load the model, downloading it the first time, on the GPU if this worker has one."""
        build = {"text": _hub.texts, "image": _hub.images, "audio": _hub.sounds, "speech": _hub.speech}[self.kind]
        name, revision = self.source
        return build(
            _hub.Checkpoint(
                name=name,
                revision=revision,
                kind=self.kind,
                dtype=self.dtype,
                compile=self.compile,
                batch=self.batch,
                pooling=self.pooling,
                prefix=self.prefix,
                language=self.language,
                columns=tuple(self.writes.names),
                width=getattr(self.writes.field(0).type, "list_size", 0),
            )
        )

    def text_encoder(self) -> Encoder | None:
        """Return the text tower of a CLIP-like model, or a sentence encoder with the prefix of queries."""
        if self.kind == "text":
            queries = dataclasses.replace(self, prefix=self.query_prefix or "")
            return None if self.query_prefix is None else queries.encoder()
        if self.kind == "speech" or not has_towers(config_of(*self.source)):
            return None
        return dataclasses.replace(self, kind="text", prefix=self.query_prefix or self.prefix).encoder()


@cache
def _folder_sum(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".txt"))
    sums = " ".join(f"{path.name} {local_sum(path)}" for path in files)
    return hashlib.sha256(sums.encode()).hexdigest()[:12]
