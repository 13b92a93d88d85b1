"""The bytes of a real file become those of another: a scan of its page, its table as Parquet, or a broken file.

Everything is a pure function of its input, so that a corpus is the same wherever it is built.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable

import pyarrow.csv
import pyarrow.parquet

from raycluster.declare.corpus import Made
from raycluster.errors import InvalidUse
from raycluster.stage import need

# A fax at "fine" has 200 dots per inch, and most scanners' presets begin there.
_SCAN_DPI = 200
# Wide and high enough to be 400 gigapixels: no picture library decodes it, and none should try.
_BOMB_SIDE = 632_455
_GARBAGE_BYTES = 40_000


def remake(made: Made, content: bytes) -> bytes:
    """Return the bytes of the declared file, made from those of the one it is made of.

    Raises:
        InvalidUse: the content is not of a kind that this change applies to.
    """
    if made.how == "scan":
        return scan(content, made.page)
    return _CHANGES[made.how](content)


def scan(content: bytes, page: int) -> bytes:
    """Return a PDF whose only page is a grey picture of one page of a PDF: no text in it, as from a scanner."""
    pdfium = need("pypdfium2", '"raycluster[document]"')
    with pdfium.PdfDocument(content) as document:
        if page >= len(document):
            raise InvalidUse(f"page {page} cannot be scanned: the document has {len(document)}")
        picture = document[page].render(scale=_SCAN_DPI / 72, grayscale=True).to_pil()
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=70)
    return _picture_pdf(jpeg.getvalue(), picture.width, picture.height)


def _picture_pdf(jpeg: bytes, width: int, height: int) -> bytes:
    """Write a PDF of one picture by hand: Pillow's own writer puts the time of day into it."""
    points = (round(width * 72 / _SCAN_DPI), round(height * 72 / _SCAN_DPI))
    content = b"q %d 0 0 %d 0 0 cm /Im0 Do Q" % points
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 4 0 R "
        b"/Resources << /XObject << /Im0 5 0 R >> >> >>" % points,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray /BitsPerComponent 8 "
        b"/Filter /DCTDecode /Length %d >>\nstream\n%s\nendstream" % (width, height, len(jpeg), jpeg),
    ]
    written, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, len(written))
    return written + b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1) + table + trailer


def to_parquet(content: bytes) -> bytes:
    """Return the table of a CSV file as Parquet."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(io.BytesIO(content)), buffer)
    return buffer.getvalue()


def truncate(content: bytes) -> bytes:
    """Return the first half, as a broken download leaves it."""
    return content[: len(content) // 2]


def empty(_: bytes) -> bytes:
    """Return nothing."""
    return b""


def garbage(content: bytes) -> bytes:
    """Return bytes without any structure: those of a cipher, or of a disk gone bad."""
    return hashlib.shake_128(content).digest(_GARBAGE_BYTES)


def overwrite(content: bytes) -> bytes:
    """Return the same file with its middle third overwritten by noise: the head promises what the rest belies."""
    third = len(content) // 3
    return content[:third] + hashlib.shake_128(content).digest(third) + content[2 * third :]


def bomb(content: bytes) -> bytes:
    """Return a PNG whose head claims 400 gigapixels, its checksum in order."""
    if content[12:16] != b"IHDR":
        raise InvalidUse("only a PNG can become a bomb")
    head = b"IHDR" + struct.pack(">II", _BOMB_SIDE, _BOMB_SIDE) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def encrypt(content: bytes) -> bytes:
    """Return a PDF that asks for a password nobody has.

    An update at the end names a 128-bit RC4 key of which only the digests are known (PDF 1.7, 7.6.3). No reader gets
    past the question, so what lies behind needs no scrambling.
    """
    roots = re.findall(rb"/Root\s+(\d+)\s+(\d+)\s+R", content)
    starts = re.findall(rb"startxref\s+(\d+)", content)
    if not roots or not starts:
        raise InvalidUse("only a PDF can be encrypted")
    secret = hashlib.sha512(content).digest()
    names = (b"%d %d R" % (int(roots[-1][0]), int(roots[-1][1])), int(starts[-1]))
    lock = b"<< /Filter /Standard /V 2 /R 3 /Length 128 /P -3904 /O <%s> /U <%s> >>" % (
        secret[:32].hex().encode(),
        secret[32:].hex().encode(),
    )
    number = max(int(found) for found in re.findall(rb"(\d+)\s+\d+\s+obj", content)) + 1
    size = max([number, *(int(found) for found in re.findall(rb"/Size\s+(\d+)", content))]) + 1
    body = b"\n%d 0 obj\n%s\nendobj\n" % (number, lock)
    table = b"xref\n%d 1\n%010d 00000 n \n" % (number, len(content) + 1)
    trailer = b"trailer << /Size %d /Root %s /Prev %d /Encrypt %d 0 R /ID [<%s> <%s>] >>\nstartxref\n%d\n%%%%EOF\n" % (
        size,
        *names,
        number,
        secret[:16].hex().encode(),
        secret[:16].hex().encode(),
        len(content) + len(body),
    )
    return content + body + table + trailer


_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "parquet": to_parquet,
    "truncate": truncate,
    "empty": empty,
    "garbage": garbage,
    "encrypt": encrypt,
    "bomb": bomb,
    "overwrite": overwrite,
}
