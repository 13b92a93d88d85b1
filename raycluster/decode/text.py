"""Text files in any encoding become chunks of a declared number of tokens, cut at sentence borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from raycluster.decode import Decode, Decoder
from raycluster.decode._encoding import find_encoding, read_blocks
from raycluster.decode._prose import FEATURES, chunks, identifier
from raycluster.errors import BadMedia
from raycluster.row import Media, Piece
from raycluster.stage import need
from raycluster.units import Bytes, show_bytes


@dataclass(frozen=True, kw_only=True)
class Text(Decode):
    """Plain text, Markdown, source code, logs, JSON, XML: one row a chunk, `position` is the chunk's number.

    chunk: tokens a chunk, at most. A token is about one WordPiece of MiniLM: up to nine Latin letters, up to two
        digits, or one other character.
    overlap: tokens that a chunk may repeat from the one before, in whole sentences.
    max_bytes: larger files are refused.
    """

    features: ClassVar[dict[str, pa.DataType]] = {**FEATURES, "encoding": pa.string()}

    chunk: Annotated[int, Field(ge=8)] = 200
    overlap: Annotated[int, Field(ge=0)] = 0
    max_bytes: Bytes = 256 << 20

    def __post_init__(self) -> None:
        """Refuse an overlap that would leave no room for anything new."""
        if self.overlap * 2 > self.chunk:
            raise ValueError(f"overlap {self.overlap} is more than half of chunk {self.chunk}: choose a smaller one")

    def decoder(self) -> Decoder:
        """Load the language model and return the function from a file to its chunks."""
        identifier()
        need("sentencex", '"raycluster[text]"')
        return self._pieces

    def _pieces(self, media: Media) -> Iterator[Piece]:
        if media.size > self.max_bytes:
            raise BadMedia(
                "too_large",
                f"{show_bytes(media.size)} of text, over the limit of {show_bytes(self.max_bytes)}: "
                "split it, or raise `max_bytes` of decode.text",
            )
        with media.open() as file:
            encoding = find_encoding(file)
            position = -1
            for position, chunk in enumerate(chunks(read_blocks(file, encoding), self.chunk, overlap=self.overlap)):
                yield Piece(position=position, text=chunk.text, features={**chunk.features, "encoding": encoding})
        if position < 0:
            raise BadMedia("empty", "it holds nothing but blanks")
