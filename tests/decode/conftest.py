"""Bytes become pieces or a verdict: what every decoder's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster.decode import Decode, bad
from raycluster.errors import BadMedia
from raycluster.row import Media, Piece

Pieces = Callable[..., list[Piece]]
Verdict = Callable[..., BadMedia]


def _media(stage: Decode, content: bytes | Path, media_type: str) -> Media:
    modality = type(stage).__module__.rpartition(".")[2]
    where = {"path": str(content)} if isinstance(content, Path) else {"content": memoryview(content)}
    return Media(object_id="o", uri="file:///o", sha256="", modality=modality, media_type=media_type, **where)


@pytest.fixture
def pieces() -> Pieces:
    """Decode bytes, or the file at a path, into all their pieces."""

    def decode(stage: Decode, content: bytes | Path, media_type: str = "") -> list[Piece]:
        return list(stage.decoder()(_media(stage, content, media_type)))

    return decode


@pytest.fixture
def verdict() -> Verdict:
    """Decode what cannot be decoded, and return the reason as a row would carry it; no reason is a failure."""

    def refuse(stage: Decode, content: bytes | Path, media_type: str = "") -> BadMedia:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any exception becomes a verdict
            list(stage.decoder()(_media(stage, content, media_type)))
        return bad(caught.value)

    return refuse
