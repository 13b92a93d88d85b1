"""The bytes of a file become the answer to one question: do they reach as far as its own header says?

Libraries tell a cut file from a damaged one badly or not at all: many show the missing part as grey, or as silence.
Only sizes and end marks that formats declare are read, never the media itself.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

# Writers that forget to count a header of their own in the size they declare are off by this much at most.
_SLOPPY_BYTES = 64
# Streams of unknown length write one of these instead of a size; ffmpeg does, into a pipe.
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)


def ends_early(file: BinaryIO) -> str:
    """Say what is missing at the end of a seekable file, for people; empty where nothing is or nobody knows."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    for start, offset, rule in _RULES:
        if head[offset : offset + len(start)] == start:
            file.seek(0)
            return rule(file, size)
    return ""


def _short(missing: int) -> str:
    return f"it ends {missing} bytes before its header says it does" if missing > _SLOPPY_BYTES else ""


def _riff(file: BinaryIO, size: int) -> str:
    """WAV, AVI, WebP: one chunk that declares the size of the file."""
    declared = struct.unpack("<4xI", file.read(8).ljust(8, b"\0"))[0]
    return "" if declared in _UNKNOWN_SIZES else _short(declared + 8 - size)


def _form(file: BinaryIO, size: int) -> str:
    """AIFF: as RIFF, the other byte order."""
    declared = struct.unpack(">4xI", file.read(8).ljust(8, b"\0"))[0]
    return "" if declared in _UNKNOWN_SIZES else _short(declared + 8 - size)


def _boxes(file: BinaryIO, size: int) -> str:
    """MP4, MOV, M4A, HEIC, AVIF: a chain of boxes that ends with the file. Source: ISO/IEC 14496-12, 4.2."""
    at, kinds = 0, set()
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0]
        if length == 0:  # to the end of the file
            length = size - at
        if length < 8 or not kind.isascii():
            return ""  # no box: something was appended
        kinds.add(kind)
        at += length
    if at > size:
        return f"its last part ({kind.decode('ascii')}) lacks {at - size} bytes"
    if b"mdat" in kinds and not kinds & {b"moov", b"moof", b"meta"}:
        return "its index (moov) is missing: the recording was not finished, or the end was cut off"
    return ""


def _matroska(file: BinaryIO, size: int) -> str:
    """MKV, WebM: an EBML header, then a segment that declares its size. Source: RFC 8794, 4 and RFC 9559."""
    file.read(4)
    header = _vint(file)
    if header is None:
        return ""
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return ""
    segment = _vint(file)
    return "" if segment is None else _short(file.tell() + segment - size)


def _vint(file: BinaryIO) -> int | None:
    """Read a number of variable length; None where it says `unknown`."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - length)) - 1)]) + file.read(length - 1), "big")
    return None if value == (1 << (7 * length)) - 1 else value


def _ogg(file: BinaryIO, size: int) -> str:
    """Opus, Vorbis, Speex, Theora: the last page of every stream carries a flag. Source: RFC 3533, 6."""
    # A page is at most 65,307 bytes, so the last one begins within this tail; Theora and Vorbis may both end in it.
    file.seek(max(0, size - 2 * 65_307))
    tail = file.read()
    last = tail.rfind(b"OggS")
    if last < 0 or last + 27 > len(tail):
        return "its last Ogg page is incomplete"
    segments = tail[last + 26]
    if last + 27 + segments + sum(tail[last + 27 : last + 27 + segments]) > len(tail):
        return "its last Ogg page is incomplete"
    return "" if tail[last + 5] & 4 else "its last Ogg page does not end the stream"


def _mp3(file: BinaryIO, size: int) -> str:
    """MP3: a first frame without sound may count the bytes. Source: the Xing header, as LAME writes it."""
    head = file.read(10)
    begin = 0
    if head[:3] == b"ID3":
        # Four bytes of seven bits each
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    file.seek(begin)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or at + 16 > len(frame):
        return ""
    flags = struct.unpack(">I", frame[at + 4 : at + 8])[0]
    if not flags & 2:
        return ""
    place = at + 8 + 4 * (flags & 1)
    return _short(begin + struct.unpack(">I", frame[place : place + 4])[0] - size)


def _jpeg(file: BinaryIO, _: int) -> str:
    """JPEG: an end mark after the first scan; a preview inside the header has its own. Source: ITU-T T.81, B.1."""
    content = file.read()
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        at += 1 if content[at + 1] == 0xFF else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    # Where the header is damaged the walk may jump over the end mark.
    ended = content.find(b"\xff\xd9", at) >= 0 or content.endswith(b"\xff\xd9")
    return "" if ended else "it has no end mark"


def _jpeg2000(file: BinaryIO, size: int) -> str:
    """JP2: a code stream that ends as a JPEG does. Source: ISO/IEC 15444-1, A.4.4."""
    file.seek(max(0, size - 2))
    return "" if file.read() == b"\xff\xd9" else "it has no end mark"


def _png(file: BinaryIO, size: int) -> str:
    """PNG: a chain of chunks up to IEND. Source: ISO/IEC 15948, 5."""
    at = 8
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return ""
        if not kind.isalpha():
            return ""  # no chunk: damaged, not cut
        at += 12 + length
    return "it has no end mark"


def _gif(file: BinaryIO, size: int) -> str:
    """GIF: a trailer byte, perhaps padded. Source: GIF89a, 27."""
    file.seek(max(0, size - 64))
    return "" if file.read().rstrip(b"\0").endswith(b";") else "it has no end mark"


def _bmp(file: BinaryIO, size: int) -> str:
    declared = struct.unpack("<2xI", file.read(6).ljust(6, b"\0"))[0]
    return _short(declared - size)


# What the file starts with, at which offset, and who knows its end.
_RULES: tuple[tuple[bytes, int, Callable[[BinaryIO, int], str]], ...] = (
    (b"RIFF", 0, _riff),
    (b"FORM", 0, _form),
    (b"ftyp", 4, _boxes),
    (b"jP  ", 4, _jpeg2000),
    (b"\x1a\x45\xdf\xa3", 0, _matroska),
    (b"OggS", 0, _ogg),
    (b"ID3", 0, _mp3),
    *((b"\xff" + second, 0, _mp3) for second in (b"\xfb", b"\xfa", b"\xf3", b"\xf2")),
    (b"\xff\xd8\xff", 0, _jpeg),
    (b"\x89PNG", 0, _png),
    (b"GIF8", 0, _gif),
    (b"BM", 0, _bmp),
)
