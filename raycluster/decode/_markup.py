"""DOCX and HTML become text: paragraphs, headings, lists and tables in the order of the document."""

from __future__ import annotations

import codecs
import importlib
import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from raycluster.decode._encoding import find_encoding
from raycluster.errors import BadMedia
from raycluster.stage import need

_UNPACKED = 1 << 30  # bytes; a DOCX that unpacks to more is a zip bomb, or no document for a search
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # the container of old Office files, and of encrypted new ones
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""")
_DECLARED = 2048  # bytes at the start in which an encoding is declared; the HTML standard says 1024


def open_docx(content: bytes) -> Any:
    """Open a Word document.

    Raises:
        BadMedia: `unsupported` when encrypted or in the old format, `truncated`, `corrupt`, or `too_large` unpacked.
    """
    if content.startswith(_OLE):
        if _ENCRYPTED in content:
            raise BadMedia("unsupported", "the document is encrypted: remove its password first")
        raise BadMedia("unsupported", "a Word 97-2003 document (.doc): save it as .docx or PDF first")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            names = set(archive.namelist())
    except zipfile.BadZipFile as error:
        # A zip's table of contents is its end.
        cut = content.startswith(b"PK") and b"PK\5\6" not in content[-(1 << 16) - 22 :]
        raise BadMedia("truncated" if cut else "corrupt", f"not a whole DOCX file: {error}") from error
    if unpacked > _UNPACKED:
        raise BadMedia("too_large", f"it unpacks to {unpacked} bytes, over the limit of {_UNPACKED}")
    if "[Content_Types].xml" not in names:
        raise BadMedia("corrupt", "a zip file, but no DOCX: it has no [Content_Types].xml")
    try:
        return need("docx", '"raycluster[document]"').Document(io.BytesIO(content))
    except Exception as error:
        raise BadMedia("corrupt", f"not a readable DOCX: {type(error).__name__}: {error}") from error


def docx_blocks(document: Any) -> Iterator[str]:
    """Iterate over paragraphs and tables; a row of a table is one line, its cells parted by bars."""
    for part in document.iter_inner_content():
        if hasattr(part, "rows"):
            yield "\n".join(_table_lines(part))
        else:
            yield part.text


def _table_lines(table: Any) -> Iterator[str]:
    for row in table.rows:
        cells: dict[int, str] = {}  # a merged cell comes once for every place that it covers
        for cell in row.cells:
            cells.setdefault(id(cell._tc), " ".join(cell.text.split()))
        yield " | ".join(cells.values())


def read_html(content: bytes) -> tuple[str, str, str]:
    """Return the visible text of an HTML or XHTML page, its title, and the encoding that it was read in."""
    encoding = _html_encoding(content)
    source = content.decode(encoding, "replace")
    html = need("lxml.html", '"raycluster[document]"')
    source = re.sub(r"^\s*<\?xml[^>]*\?>", "", source.lstrip("\ufeff"))  # lxml takes no text that declares its bytes
    if not source.strip():
        return "", "", encoding
    try:
        tree = html.fromstring(source, parser=html.HTMLParser(huge_tree=True))  # else it stops at depth 256
    except Exception as error:
        raise BadMedia("corrupt", f"not readable as HTML: {error}") from error
    for node in tree.xpath("//script | //style | //template | //noscript"):
        node.drop_tree()
    title = " ".join(tree.findtext(".//title", "").split())
    inscriptis = need("inscriptis", '"raycluster[document]"')
    profiles, config = (importlib.import_module(f"inscriptis.{part}") for part in ("css_profiles", "model.config"))
    try:
        # The strict profile adds no indentation of its own.
        text = inscriptis.Inscriptis(tree, config.ParserConfig(profiles.STRICT_CSS_PROFILE)).get_text()
    except RecursionError:  # tags nested by the hundred, mostly generated: the text without its layout
        text = "\n".join(tree.itertext())
    return text, title, encoding


def _html_encoding(content: bytes) -> str:
    """Return the codec: a byte order mark, else what the page declares if it fits, else what the bytes look like."""
    found = find_encoding(io.BytesIO(content))
    head = content[:_DECLARED]
    declared = _CHARSET.search(head) or _XML_CHARSET.search(head)
    if found.startswith("utf") or not declared:
        return found
    try:
        name = codecs.lookup(declared[1].decode("ascii")).name
    except (LookupError, UnicodeDecodeError):
        return found
    return "cp1252" if name in ("iso8859-1", "ascii") else name  # as the HTML standard wants it
