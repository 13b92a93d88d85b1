"""A PDF becomes its pages: what they say, how large they are, whether there is ink on them, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raycluster.decode._layout import Glyph, read_page
from raycluster.errors import BadMedia
from raycluster.stage import need

if TYPE_CHECKING:
    from PIL import Image

_TAIL = 4096  # bytes at the end in which the end mark must lie; readers allow 1 kB, some programs append more
_UNREADABLE = 0.3  # share of characters without a meaning above which a text layer is useless (fonts without a map)
_PREVIEW = 512  # pixels of the longer side; thumbnails and the search for ink need no more
_PAPER = 250  # grey level from which on a pixel is blank paper
_PAGE_PIXELS = 24_000_000  # a poster is rendered at fewer dots per inch: 24 MP are A2 at 200 dpi, 72 MB


def open_pdf(source: str | bytes) -> Any:
    """Open a PDF, given as a path or as bytes.

    Raises:
        BadMedia: `unsupported` with a password, `truncated` without its end, `corrupt` otherwise.
    """
    pdfium = need("pypdfium2", '"raycluster[document]"')
    try:
        document = pdfium.PdfDocument(source)
    except pdfium.PdfiumError as error:
        if error.err_code in (pdfium.raw.FPDF_ERR_PASSWORD, pdfium.raw.FPDF_ERR_SECURITY):
            raise BadMedia("unsupported", "the PDF is encrypted: remove its password first") from error
        if _starts_as_pdf(source) and not _ends_as_pdf(source):
            raise BadMedia("truncated", "the PDF ends before its end mark (%%EOF)") from error
        raise BadMedia("corrupt", f"not a readable PDF: {error}") from error
    if not _ends_as_pdf(source):
        # PDFium repairs what it can, but pages may be gone without a trace.
        document.close()
        raise BadMedia("truncated", "the PDF ends before its end mark (%%EOF)")
    return document


def _starts_as_pdf(source: str | bytes) -> bool:
    if isinstance(source, bytes):
        return b"%PDF-" in source[:1024]
    with Path(source).open("rb") as file:
        return b"%PDF-" in file.read(1024)


def _ends_as_pdf(source: str | bytes) -> bool:
    if isinstance(source, bytes):
        return b"%%EOF" in source.rstrip(b"\0\r\n ")[-_TAIL:]
    with Path(source).open("rb") as file:
        file.seek(max(0, Path(source).stat().st_size - _TAIL))
        return b"%%EOF" in file.read()


def page_text(page: Any) -> str:
    """Return the text of a page in reading order; empty where it has no text layer, or one without meaning."""
    textpage = page.get_textpage()
    try:
        count = textpage.count_chars()
        glyphs = list(_glyphs(page, textpage, count))
        meaning = sum(glyph.text.isprintable() and not _is_private(glyph.text) for glyph in glyphs)
        return read_page(glyphs) if meaning >= len(glyphs) * (1 - _UNREADABLE) else ""
    finally:
        textpage.close()


def _is_private(character: str) -> bool:
    return "\ue000" <= character <= "\uf8ff" or character == "\ufffd"


def _glyphs(page: Any, textpage: Any, count: int) -> Iterator[Glyph]:
    """Iterate over the characters of a page in drawing order, boxes as the page is shown (its rotation applied)."""
    raw = need("pypdfium2.raw", '"raycluster[document]"')
    width, height = page.get_width(), page.get_height()
    turn, box, text = page.get_rotation(), raw.FS_RECTF(), textpage.raw
    for index in range(count):
        character = chr(raw.FPDFText_GetUnicode(text, index))
        # PDFium adds line ends and blanks of its own, by drawing order; the layout finds them by place.
        if character in "\r\n\0" or raw.FPDFText_IsGenerated(text, index) == 1:
            continue
        raw.FPDFText_GetLooseCharBox(text, index, box)
        left, bottom, right, top = box.left, box.bottom, box.right, box.top
        if turn == 90:
            left, bottom, right, top = bottom, height - right, top, height - left
        elif turn == 180:
            left, bottom, right, top = width - right, height - top, width - left, height - bottom
        elif turn == 270:
            left, bottom, right, top = width - top, left, width - bottom, right
        yield Glyph(character, left, min(bottom, top), right, max(bottom, top))


def preview(page: Any) -> Image.Image:
    """Render a page small, for its thumbnail."""
    return _render(page, _PREVIEW / max(page.get_size()))


def has_ink(picture: Image.Image) -> bool:
    """Say whether anything is drawn on a page."""
    # grey: (height, width) uint8
    grey = np.asarray(picture.convert("L"))
    return bool(grey.min() < _PAPER)


def page_picture(page: Any, dpi: int) -> bytes:
    """Render a page as JPEG at `dpi`, or at fewer where that would be more than 24 million pixels."""
    import io

    width, height = page.get_size()
    scale = min(dpi / 72, (_PAGE_PIXELS / (width * height)) ** 0.5)
    out = io.BytesIO()
    _render(page, scale).save(out, "JPEG", quality=90)
    return out.getvalue()


def _render(page: Any, scale: float) -> Image.Image:
    bitmap = page.render(scale=scale, may_draw_forms=False)
    try:
        image: Image.Image = bitmap.to_pil().convert("RGB")
        return image
    finally:
        bitmap.close()
