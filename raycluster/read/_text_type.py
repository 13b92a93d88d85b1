"""Bytes that read as text become prose, a table of measurements, a web page or another kind of text.

`_media_type` comes first with its signatures. magika, a model of 20 ms a call, is asked last: only about text that
is neither prose nor a table nor JSON, that is, for the exact name of a programming or markup language.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from raycluster.errors import BadMedia


class MediaType(NamedTuple):
    """What an object is."""

    modality: str
    media_type: str


# How much text decides, characters: 50 lines of a wide table, or a page of prose.
_SAMPLE = 16 << 10
_PROSE_SAMPLE = 2048

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Bytes that text never holds: C0 controls except tab, line ends, form feed, and the escape of ISO-2022 and terminals.
_CONTROLS = bytes([*range(7), *range(14, 27), *range(28, 32)])

_PREAMBLE = r"\s*(?:<\?xml[^>]*\?>\s*|<!--.*?-->\s*)*"
_HTML = re.compile(_PREAMBLE + r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(_PREAMBLE + r"(?:<!doctype\s+svg[^>]*>\s*)?(?:<!--.*?-->\s*)*<svg\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(r"\s*<\?xml\b")
_MARKUP_LINE = re.compile(r"^\s*(?:#|```|\||<|[-*+] |\d+\. |[{\[]|=====?|-----?$)", re.MULTILINE)
_UNUSUAL = re.compile(r"[^\w\s.,;:!?'\"()…–—‘’“”„«»¿¡。、，！？「」-]")  # noqa: RUF001 - prose has these signs


def identify_text(head: bytes, *, name: str, whole: bool) -> MediaType | None:
    """Return what kind of text this is, or None where it is not text.

    Measurements (a delimited table with a column of numbers and none of prose) are `sensor`, web pages `document`,
    everything else `text`: a table of words or reviews, JSON and source code too.

    Raises:
        BadMedia: `unsupported` for an SVG drawing; `empty` for nothing but white space.
    """
    text = _decode(head)
    if text is None:
        return None
    if whole and not text.strip():
        raise BadMedia("empty", "it holds nothing but white space")
    text = text[:_SAMPLE]
    whole = whole and len(text) < _SAMPLE
    if _HTML.match(text):
        return MediaType("document", "text/html")
    if _SVG.match(text):
        raise BadMedia("unsupported", "it is an SVG drawing, which has no pixels: render it to PNG first")
    if _XML.match(text):
        return MediaType("text", "text/xml")
    if kind := _json(text, whole=whole):
        return MediaType("text", kind)
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if table := _table(text, extension=extension, whole=whole):
        return MediaType(*table)
    if _is_prose(text):
        return MediaType("text", "text/markdown" if extension in ("md", "markdown") else "text/plain")
    return _by_model(text)


def _decode(head: bytes) -> str | None:
    """Return the text in the encoding that its bytes suggest, good enough to see its structure."""
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return _strict(head, encoding)
    if b"\0" in head:
        return _wide(head)
    if len(head) - len(head.translate(None, _CONTROLS)) > len(head) // 100:
        return None
    # A text in an old 8-bit or East Asian encoding: which one is the decoder's question.
    return _strict(head, "utf-8") or head.decode("latin-1")


def _strict(head: bytes, encoding: str) -> str | None:
    try:  # incremental: the last character may be cut
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def _wide(head: bytes) -> str | None:
    """Read UTF-16 without a mark: mostly Latin, so that every other byte is zero."""
    start = head[:4096]
    pairs = len(start) // 2
    for zeros, encoding in ((start[1::2], "utf-16-le"), (start[0::2], "utf-16-be")):
        if pairs and zeros.count(0) > 0.7 * pairs and start.count(0) < 1.1 * pairs:
            text = _strict(head, encoding)
            if text and sum(character.isprintable() or character.isspace() for character in text) > 0.95 * len(text):
                return text
    return None


def _json(text: str, *, whole: bool) -> str | None:
    start = text.lstrip()
    if start[:1] not in ("{", "["):
        return None
    lines = [line for line in start.splitlines()[: None if whole else -1] if line.strip()][:5]
    if lines and len(lines) > 1 and all(_parses(line) for line in lines):
        return "application/x-ndjson"
    if _parses(start) if whole else re.match(r'[{\[]\s*(?:["\d\[{\-]|true|false|null)', start):
        return "application/json"
    return None


def _parses(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _table(text: str, *, extension: str, whole: bool) -> tuple[str, str] | None:
    """Return the modality and media type of a delimited table; None where the text is not evidently one."""
    lines = [line for line in text.splitlines()[: None if whole else -1] if line.strip() and line[0] != "#"][:50]
    named = extension in ("csv", "tsv")
    if len(lines) < (2 if named else 3):
        return None
    for delimiter in "\t;,|":
        rows = _split(lines, delimiter)
        if rows is None:
            continue
        media_type = "text/tab-separated-values" if delimiter == "\t" else "text/csv"
        columns = list(zip(*rows[1:], strict=True))
        if any(map(_is_numeric, columns)) and not any(map(_is_words, columns)):
            return "sensor", media_type
        if named:
            return "text", media_type
    if named and _is_numeric(tuple(lines[1:])):
        return "sensor", "text/csv"
    return None


def _split(lines: list[str], delimiter: str) -> list[list[str]] | None:
    """Return the cells, where at least two stand in every line and all lines have as many."""
    if delimiter not in lines[0] or delimiter not in lines[-1]:
        return None
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return None
    return rows


def _is_numeric(cells: tuple[str, ...]) -> bool:
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and sum(map(_is_number, filled)) >= 0.8 * len(filled)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".") if cell.count(",") == 1 else cell)
    except ValueError:
        return False
    return True


def _is_words(cells: tuple[str, ...]) -> bool:
    """Say whether a column is prose: four words a cell or more, times apart."""
    filled = [cell for cell in cells if cell.strip()]
    words = sum(len(cell.split()) for cell in filled)
    return bool(filled) and words >= 4 * len(filled) and not all(map(_is_time, filled[:3]))


def _is_time(cell: str) -> bool:
    try:
        datetime.fromisoformat(cell.strip())
    except ValueError:
        return False
    return True


def _is_prose(text: str) -> bool:
    """Say whether this is plain running text: nearly only letters and the usual signs, no line of markup."""
    page = text[:_PROSE_SAMPLE]
    return len(_UNUSUAL.findall(page)) <= 0.02 * len(page) and not _MARKUP_LINE.search(page)


def _by_model(text: str) -> MediaType:
    guess = ask_magika(text.encode()).output
    if guess.label == "html":
        return MediaType("document", "text/html")
    return MediaType("text", guess.mime_type if guess.is_text else "text/plain")


def ask_magika(head: bytes) -> Any:
    """Return magika's verdict (0.4 s to load, then about 20 ms a call on one core)."""
    return _magika().identify_bytes(head)


@cache
def _magika() -> Any:
    from magika import Magika

    return Magika()
