"""Documents become rows: each page of a PDF, each chunk of a Word document or of a web page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from raycluster.decode import Decode, Decoder
from raycluster.decode._encoding import normalise
from raycluster.decode._prose import FEATURES, chunks, identifier, measure
from raycluster.errors import BadMedia
from raycluster.row import Media, Piece
from raycluster.units import Bytes, show_bytes

_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@dataclass(frozen=True, kw_only=True)
class Document(Decode):
    """PDF: one row a page, `position` is its number from 0. DOCX and HTML: one row a chunk, as with `text`.

    A page with nothing on it makes no row. A page with ink but no text carries its picture, for an `ocr` encoder.

    ocr: render pages that have no text layer, so that an encoder can read them.
    dpi: dots per inch of such a picture.
    max_pages: PDFs with more are refused.
    max_bytes: larger files are refused.
    chunk: tokens a chunk of DOCX and HTML, which have no pages.
    thumbnail: draw each page small, for people.
    """

    features: ClassVar[dict[str, pa.DataType]] = {
        **FEATURES,
        "encoding": pa.string(),  # of HTML
        "title": pa.string(),
        "author": pa.string(),
        "pages": pa.int32(),  # of the whole PDF
        "page_width": pa.float32(),  # points, 1/72 inch
        "page_height": pa.float32(),
        "has_text_layer": pa.bool_(),
    }

    ocr: bool = True
    dpi: Annotated[int, Field(ge=36, le=600)] = 200
    max_pages: Annotated[int, Field(gt=0)] = 5000
    max_bytes: Bytes = 512 << 20
    chunk: Annotated[int, Field(ge=8)] = 200
    thumbnail: bool = True

    @property
    def relies_on(self) -> tuple[str, ...]:
        """Return `ocr`, which reads the pages that have no text."""
        return ("ocr",) if self.ocr else ()

    def decoder(self) -> Decoder:
        """Load the language model and return the function from a document to its pages or chunks."""
        identifier()
        return self._pieces

    def _pieces(self, media: Media) -> Iterator[Piece]:
        if not media.size:
            raise BadMedia("empty", "it holds no bytes")
        if media.size > self.max_bytes:
            limit = show_bytes(self.max_bytes)
            raise BadMedia("too_large", f"{show_bytes(media.size)}, over the limit of {limit}: raise `max_bytes`")
        kind = media.media_type
        if kind == "application/pdf":
            return self._pages(media)
        if kind == _WORD:
            return self._word(media)
        if kind in ("text/html", "application/xhtml+xml"):
            return self._web(media)
        raise BadMedia("unsupported", f"{kind or 'an unknown type'}: convert it to PDF, DOCX or HTML first")

    def _pages(self, media: Media) -> Iterator[Piece]:
        from raycluster.decode import _pdf

        document = _pdf.open_pdf(media.path or bytes(media.read()))
        try:
            count = len(document)
            if count > self.max_pages:
                raise BadMedia("too_large", f"{count} pages, over the limit of {self.max_pages}: raise `max_pages`")
            about = {"pages": count, **_about(document.get_metadata_dict())}
            found = False
            for position in range(count):
                if piece := self._page(document, position, about):
                    found = True
                    yield piece
            if not found:
                raise BadMedia("empty", f"nothing to see on its {count} pages")
        finally:
            document.close()

    def _page(self, document: Any, position: int, about: dict[str, Any]) -> Piece | None:
        from raycluster.decode import _pdf
        from raycluster.decode._thumbnail import picture

        try:
            page = document[position]
        except Exception as error:
            raise BadMedia("corrupt", f"page {position + 1} cannot be read: {error}") from error
        try:
            text = normalise(_pdf.page_text(page))
            small = _pdf.preview(page) if self.thumbnail or not text else None
            if not text and small and not _pdf.has_ink(small):
                return None
            width, height = page.get_size()
            features = {**about, "page_width": width, "page_height": height, "has_text_layer": bool(text)}
            return Piece(
                position=position,
                text=text or None,
                thumbnail=picture(small) if small and self.thumbnail else None,
                features=features | (measure(text) if text else {}),
                page=_pdf.page_picture(page, self.dpi) if self.ocr and not text else None,
            )
        finally:
            page.close()

    def _word(self, media: Media) -> Iterator[Piece]:
        from raycluster.decode import _markup

        document = _markup.open_docx(bytes(media.read()))
        about = document.core_properties
        text = normalise("\n\n".join(_markup.docx_blocks(document)))
        return self._chunks(text, _about({"Title": about.title, "Author": about.author}))

    def _web(self, media: Media) -> Iterator[Piece]:
        from raycluster.decode import _markup

        text, title, encoding = _markup.read_html(bytes(media.read()))
        return self._chunks(normalise(text), {"encoding": encoding, **_about({"Title": title})})

    def _chunks(self, text: str, about: dict[str, Any]) -> Iterator[Piece]:
        if not text.strip():
            raise BadMedia("empty", "no text in it")
        for position, chunk in enumerate(chunks([text], self.chunk)):
            features = {**about, **chunk.features, "has_text_layer": True}
            yield Piece(position=position, text=chunk.text, features=features)


def _about(properties: dict[str, str | None]) -> dict[str, str]:
    return {name.lower(): value for name in ("Title", "Author") if (value := (properties.get(name) or "").strip())}
