"""Bytes in any encoding become normalised text, in blocks; bytes that are no text are refused.

Used by the text, document and sensor decoders. A file is read twice, once to find its encoding and once to decode
it, so that a log of any length passes through in blocks and memory does not grow with it.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO

from raycluster.decode._prose import identifier
from raycluster.errors import BadMedia
from raycluster.stage import need

_BLOCK = 1 << 16  # characters handled at once: a few dozen pages
_SAMPLE = 1 << 16  # bytes that decide on an unknown encoding
_BINARY = 0.02  # share of control characters above which bytes are no text
_DAMAGE = 0.1  # share of broken characters among those beyond ASCII up to which a file still counts as UTF-8

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_BLANKS = re.compile(r"(?<=\S)[^\S\n\f]+")  # inside a line; indentation stays, because code needs it
_GAP = re.compile(r"[^\S\f]*\n[^\S\f]*\n[^\S\f]*\n")
# Control characters but tab, newline, form feed and escape.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
# Soft hyphens and marks without width split words that people see as one; escapes colour a terminal.
_INVISIBLE = re.compile(r"[\u00ad\u200b\u2060\ufeff]|\x1b\[[0-9;]*[A-Za-z]|\x1b")


def find_encoding(file: BinaryIO) -> str:
    """Return the Python codec that reads `file`: its byte order mark, else UTF-8, else the likeliest legacy one.

    Raises:
        BadMedia: `empty`, `truncated` inside a character, or `corrupt` where it is no text at all.
    """
    head = file.read(_SAMPLE)
    file.seek(0)
    if not head:
        raise BadMedia("empty", "it holds no bytes")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if head.count(0) > len(head) * _BINARY:
        return _wide(head)
    if len(_CONTROL_BYTES.findall(head)) > len(head) * _BINARY:
        raise BadMedia("corrupt", "its bytes are binary, not text")
    broken = _first_broken(file)
    file.seek(max(0, (broken or 0) - _SAMPLE // 2))
    sample = file.read(_SAMPLE)
    file.seek(0)
    return "utf-8" if broken is None or _is_damaged_utf8(sample) else _guess(sample)


def _wide(head: bytes) -> str:
    """Return the encoding of bytes full of zeros: UTF-16 or UTF-32 without a mark."""
    encoding = _guess(head)
    if not encoding.startswith(("utf_16", "utf_32")):
        raise BadMedia("corrupt", "its bytes are binary, not text")
    return encoding


def _first_broken(file: BinaryIO) -> int | None:
    """Return the offset of the first byte that is not UTF-8, None if all are."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    while True:
        block = file.read(_SAMPLE)
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            if not block and offset > 4:
                raise BadMedia("truncated", f"it ends inside a UTF-8 character, after {offset} bytes") from error
            return offset - pending + error.start
        if not block:
            return None
        offset += len(block)


def _is_damaged_utf8(sample: bytes) -> bool:
    beyond = [character for character in sample.decode("utf-8", "replace") if character > "\x7f"]
    return beyond.count("\ufffd") <= len(beyond) * _DAMAGE


def _guess(sample: bytes) -> str:
    """Return the likeliest encoding of bytes that are not UTF-8: the one that reads most like a language."""
    matches = need("charset_normalizer", '"raycluster[text]"').from_bytes(sample)
    scores = {match.encoding: _likeness(sample, match.encoding, match.chaos) for match in matches}
    for match in matches:
        if "cp1252" in match.could_be_from_charset:
            # By far the commonest on the web, and a superset of Latin-1: it wins ties.
            scores["cp1252"] = _likeness(sample, "cp1252", match.chaos) + 0.01
    if not scores:
        raise BadMedia("corrupt", "its bytes are binary, or text in no known encoding")
    return str(max(scores, key=lambda encoding: scores[encoding]))


def _likeness(sample: bytes, encoding: str, chaos: float) -> float:
    # Only words beyond ASCII tell encodings apart.
    words = [word for word in sample.decode(encoding, "replace").split() if not word.isascii()]
    _, confidence = identifier()(" ".join(words)[:1000])
    return confidence - chaos


def read_blocks(file: BinaryIO, encoding: str) -> Iterator[str]:
    """Iterate over the normalised text in blocks that end at a paragraph, else at a line, else at a blank."""
    # A legacy codec is a guess from a sample, and a damaged file still holds text: U+FFFD marks what is lost.
    text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline=None)
    pending = ""
    try:
        while more := text.read(_BLOCK):
            pending += more
            while len(pending) > _BLOCK:
                cut = _border(pending[:_BLOCK])
                yield normalise(pending[:cut])
                pending = pending[cut:]
        yield normalise(pending)
    finally:
        text.detach()  # the file is the caller's to close


def _border(block: str) -> int:
    for mark in ("\n\n", "\n", " "):
        found = block.rfind(mark)
        if found > len(block) // 2:
            return found + len(mark)
    return len(block)


def normalise(text: str) -> str:
    """Return text as people read it: composed characters, single blanks, at most one empty line, nothing invisible."""
    text = unicodedata.normalize("NFC", text)
    text = _CONTROL.sub("", _INVISIBLE.sub("", text)).replace("\f", "\n\n").replace("\x85", "\n")
    text = _BLANKS.sub(" ", text).replace(" \n", "\n")
    return _GAP.sub("\n\n", text).strip("\n")
