"""The first bytes of an object become its modality and media type; its name decides nothing that bytes can.

Signatures settle nearly everything in microseconds. What is left and reads as text goes to `_text_type`; what is
left and does not is named by magika, a small model, so that a person learns what the unusable file is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

from raycluster.errors import BadMedia
from raycluster.read._text_type import MediaType, ask_magika, identify_text

# Enough for every container's own list of streams; the first 64 KiB of an object are read anyway.
HEAD_BYTES = 64 << 10

# A movie's index is read whole to learn whether it has pictures; of three hours of video it is about 8 MB.
_MOOV_BYTES = 16 << 20

# Movies whose index comes last have three or four boxes before it; fragmented ones have thousands.
_MAX_BOXES = 64


class Sample(NamedTuple):
    """What identification may look at: the first bytes, and more where reading on is cheap."""

    head: bytes
    size: int  # of the whole object, bytes
    name: str
    read: Callable[[int, int], bytes]  # (offset, length) -> bytes, fewer or none beyond what is at hand


_PREFIXES: tuple[tuple[bytes, MediaType], ...] = (
    (b"\xff\xd8\xff", MediaType("image", "image/jpeg")),
    (b"\x89PNG\r\n\x1a\n", MediaType("image", "image/png")),
    (b"GIF87a", MediaType("image", "image/gif")),
    (b"GIF89a", MediaType("image", "image/gif")),
    (b"II*\0", MediaType("image", "image/tiff")),
    (b"MM\0*", MediaType("image", "image/tiff")),
    (b"II+\0", MediaType("image", "image/tiff")),
    (b"MM\0+", MediaType("image", "image/tiff")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", MediaType("image", "image/jxl")),
    (b"\xff\x0a", MediaType("image", "image/jxl")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", MediaType("image", "image/jp2")),
    (b"\xff\x4f\xff\x51", MediaType("image", "image/jp2")),
    (b"8BPS\0\x01", MediaType("image", "image/vnd.adobe.photoshop")),
    (b"\0\0\x01\0", MediaType("image", "image/vnd.microsoft.icon")),
    (b"qoif", MediaType("image", "image/qoi")),
    (b"\x76\x2f\x31\x01", MediaType("image", "image/x-exr")),
    (b"fLaC", MediaType("audio", "audio/flac")),
    (b".snd\0\0", MediaType("audio", "audio/basic")),
    (b"#!AMR", MediaType("audio", "audio/amr")),
    (b"caff\0\x01", MediaType("audio", "audio/x-caf")),
    (b"wvpk", MediaType("audio", "audio/x-wavpack")),
    (b"MAC ", MediaType("audio", "audio/x-ape")),
    (b"\x0b\x77", MediaType("audio", "audio/ac3")),
    (b"\x7f\xfe\x80\x01", MediaType("audio", "audio/vnd.dts")),
    (b"TTA1", MediaType("audio", "audio/x-tta")),
    (b"MPCK", MediaType("audio", "audio/x-musepack")),
    (b"DKIF\0\0", MediaType("video", "video/x-ivf")),
    (b"YUV4MPEG2 ", MediaType("video", "video/x-yuv4mpeg")),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01", MediaType("video", "application/mxf")),
    (b"FLV\x01", MediaType("video", "video/x-flv")),
    (b"\0\0\x01\xba", MediaType("video", "video/mpeg")),
    (b"\0\0\x01\xb3", MediaType("video", "video/mpeg")),
    (b"PAR1", MediaType("sensor", "application/vnd.apache.parquet")),
    (b"ARROW1\0\0", MediaType("sensor", "application/vnd.apache.arrow.file")),
    (b"CDF\x01", MediaType("sensor", "application/x-netcdf")),
    (b"CDF\x02", MediaType("sensor", "application/x-netcdf")),
    (b"CDF\x05", MediaType("sensor", "application/x-netcdf")),
    (b"\x89HDF\r\n\x1a\n", MediaType("sensor", "application/x-hdf5")),
    (b"\x89MCAP0\r\n", MediaType("sensor", "application/x-mcap")),
    (b"{\\rtf", MediaType("document", "application/rtf")),
)

_HOLDS_FILES = "holds other files: unpack it and list those"
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", f"a gzip archive, which {_HOLDS_FILES}"),
    (b"BZh", f"a bzip2 archive, which {_HOLDS_FILES}"),
    (b"\xfd7zXZ\0", f"an xz archive, which {_HOLDS_FILES}"),
    (b"\x28\xb5\x2f\xfd", f"a zstandard archive, which {_HOLDS_FILES}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7-zip archive, which {_HOLDS_FILES}"),
    (b"Rar!\x1a\x07", f"a RAR archive, which {_HOLDS_FILES}"),
    (b"MThd\0\0\0\x06", "a MIDI file, which holds notes and no sound: render it to audio first"),
    (b"\x7fELF", "a program, not media"),
    (b"MZ\x90\0", "a program, not media"),
    (b"SQLite format 3\0", "an SQLite database: export its tables to Parquet or CSV first"),
    (b"PK\x05\x06", "an empty zip archive"),
)


def identify(
    head: bytes, *, name: str = "", size: int | None = None, read: Callable[[int, int], bytes] | None = None
) -> MediaType:
    """Return what an object is, from its first bytes (`HEAD_BYTES` of them, or all).

    `name` settles only what bytes leave open, such as Markdown or plain text. `size` is the whole object's, where
    `head` is not all of it. `read` returns bytes further on, where that is cheap: a movie's index may come last.

    Raises:
        BadMedia: `empty`, `corrupt` for nothing but zeros, `unsupported`.
    """
    if not head:
        raise BadMedia("empty", "it has no bytes")
    for prefix, found in _PREFIXES:
        if head.startswith(prefix):
            return found
    sample = Sample(
        head, len(head) if size is None else size, name, read or (lambda start, length: head[start : start + length])
    )
    found_inside = _container(sample) or _unmarked(head)
    return found_inside or _text(sample) or _by_model(sample)


def _container(sample: Sample) -> MediaType | None:
    """Look into formats whose first bytes only name the wrapping."""
    head = sample.head
    if head[4:8] == b"ftyp" or head[4:8] in (b"moov", b"mdat", b"wide"):
        return _movie(sample)
    for prefix, look in _CONTAINERS:
        if head.startswith(prefix):
            return look(sample)
    for prefix, reason in _REFUSED:
        if head.startswith(prefix):
            raise BadMedia("unsupported", f"it is {reason}")
    if head[257:262] == b"ustar":
        raise BadMedia("unsupported", f"it is a tar archive, which {_HOLDS_FILES}")
    return None


def _riff(sample: Sample) -> MediaType | None:
    kinds = {
        b"WAVE": MediaType("audio", "audio/wav"),
        b"WEBP": MediaType("image", "image/webp"),
        b"AVI ": MediaType("video", "video/x-msvideo"),
    }
    return kinds.get(sample.head[8:12])


def _aiff(sample: Sample) -> MediaType | None:
    return MediaType("audio", "audio/aiff") if sample.head[8:12] in (b"AIFF", b"AIFC") else None


def _ogg(sample: Sample) -> MediaType:
    # Every stream announces its codec at the start of one of the first pages (RFC 3533 section 4).
    start = sample.head[:4096]
    has_video = any(codec in start for codec in (b"\x80theora", b"OVP80", b"BBCD\0", b"\x01video\0\0\0"))
    return MediaType("video", "video/ogg") if has_video else MediaType("audio", "audio/ogg")


def _matroska(sample: Sample) -> MediaType:
    kind = "webm" if b"webm" in sample.head[:64] else "x-matroska"
    # CodecID (0x86), its length in one byte, then V_..., A_... or S_... (RFC 9559 section 5.1.4).
    streams = set(re.findall(rb"\x86[\x80-\xff]([VA])_", sample.head))
    modality = "audio" if streams == {b"A"} else "video"
    return MediaType(modality, f"{modality}/{kind}")


def _asf(sample: Sample) -> MediaType:
    # The stream type GUIDs of video and audio (ASF specification, section 10.4).
    video = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")
    audio = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
    if audio in sample.head and video not in sample.head:
        return MediaType("audio", "audio/x-ms-wma")
    return MediaType("video", "video/x-ms-asf")


_STILL = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
}


def _movie(sample: Sample) -> MediaType:
    """Tell pictures, sound and film of the MP4 family apart (ISO/IEC 14496-12)."""
    head = sample.head
    brand = head[8:12] if head[4:8] == b"ftyp" else b"qt  "
    if brand in _STILL:
        end = int.from_bytes(head[:4], "big")
        others = {head[index : index + 4] for index in range(16, min(end, 256), 4)}
        return MediaType("image", "image/avif" if others & {b"avif", b"avis"} else _STILL[brand])
    tracks = _tracks(sample)
    if brand in (b"M4A ", b"M4B ", b"F4A ") or (b"soun" in tracks and b"vide" not in tracks):
        return MediaType("audio", "audio/mp4")
    if brand == b"qt  ":
        return MediaType("video", "video/quicktime")
    return MediaType("video", "video/3gpp" if brand[:2] == b"3g" else "video/mp4")


def _tracks(sample: Sample) -> set[bytes]:
    """Return the handler types of a movie's tracks, by walking its top boxes to the index; empty if not at hand."""
    offset = 0
    for _ in range(_MAX_BOXES):
        box = sample.read(offset, 16)
        if len(box) < 8:
            break
        length = int.from_bytes(box[:4], "big")
        length = int.from_bytes(box[8:16], "big") if length == 1 else length
        if box[4:8] == b"moov":
            index = sample.read(offset, min(length, _MOOV_BYTES))
            return set(re.findall(rb"hdlr.{8}(vide|soun)", index, re.DOTALL))
        if length < 8:
            break
        offset += length
    return set()


_OFFICE = (
    (b"wordprocessingml", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"spreadsheetml", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"presentationml", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
)


def _zip(sample: Sample) -> MediaType:
    """Tell office documents from archives by the first entry, which their formats fix."""
    head = sample.head
    flags, method = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    start = 30 + int.from_bytes(head[26:28], "little")
    entry = head[30:start]
    start += int.from_bytes(head[28:30], "little")
    if flags & 1:
        raise BadMedia("unsupported", "it is an encrypted zip archive: decrypt and unpack it first")
    if entry == b"mimetype":  # OpenDocument and EPUB (OpenDocument 1.3 part 2, section 3.3)
        found = re.match(rb"application/[\w.+-]+?(?=PK|$|[^\w.+-])", head[start : start + 80])
        if found:
            return MediaType("document", found[0].decode())
    listing = head
    if entry == b"[Content_Types].xml" and method == 8:
        try:
            listing = zlib.decompressobj(-15).decompress(head[start:], 64 << 10)
        except zlib.error as error:
            raise BadMedia("corrupt", f"an office document whose table of contents is damaged: {error}") from error
    for mark, media_type in _OFFICE:
        if mark in listing:
            return MediaType("document", media_type)
    for folder, (_, media_type) in zip((b"word/", b"xl/", b"ppt/"), _OFFICE, strict=True):
        if b"PK\x03\x04" in head and re.search(rb"PK\x03\x04.{26}" + folder, head, re.DOTALL):
            return MediaType("document", media_type)
    raise BadMedia("unsupported", f"it is a zip archive, which {_HOLDS_FILES}")


def _ole(sample: Sample) -> MediaType:
    """Tell old and encrypted Office files apart by the names in their directory ([MS-CFB] section 2.6)."""
    sector = 1 << int.from_bytes(sample.head[30:32], "little")
    directory = sample.read((int.from_bytes(sample.head[48:52], "little") + 1) * sector, 4096)
    if "EncryptedPackage".encode("utf-16-le") in directory:
        raise BadMedia("unsupported", "it is an Office document locked with a password: save it without one")
    for stream, media_type in (
        ("WordDocument", "application/msword"),
        ("Workbook", "application/vnd.ms-excel"),
        ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ):
        if stream.encode("utf-16-le") in directory:
            return MediaType("document", media_type)
    return MediaType("document", "application/x-ole-storage")


_CONTAINERS: tuple[tuple[bytes, Callable[[Sample], MediaType | None]], ...] = (
    (b"RIFF", _riff),
    (b"RF64", _riff),
    (b"BW64", _riff),
    (b"RIFX", _riff),
    (b"FORM", _aiff),
    (b"OggS", _ogg),
    (b"\x1aE\xdf\xa3", _matroska),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf),
    (b"PK\x03\x04", _zip),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _ole),
)


def _unmarked(head: bytes) -> MediaType | None:
    """Recognise formats without a fixed first word by their inner regularity."""
    if head.startswith(b"ID3"):
        # The tag's length: four bytes of seven bits (ID3v2.4 section 3.1); FLAC and AAC carry such tags too.
        tag = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False)) + 10
        return MediaType("audio", "audio/flac" if head[tag : tag + 4] == b"fLaC" else "audio/mpeg")
    if head[0] == 0xFF and len(head) > 6:
        return _sound_frames(head)
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0" and head[15:18] == b"\0\0\0":
        return MediaType("image", "image/bmp")
    if re.match(rb"P[1-7]\s+(#.*\s+)*(\d+\s+\d+|WIDTH)\s", head[:512]):
        return MediaType("image", "image/x-portable-anymap")
    # Transport streams repeat 0x47 every 188 bytes, or every 192 behind a time stamp (ISO/IEC 13818-1 section 2.4.3).
    for first, step in ((0, 188), (4, 192)):
        if len(head) > first + 3 * step and all(head[first + n * step] == 0x47 for n in range(4)):
            return MediaType("video", "video/mp2t")
    if b"%PDF-" in head[:1024]:
        return MediaType("document", "application/pdf")
    if any(head[start : start + 8] == b"\x89HDF\r\n\x1a\n" for start in (512, 1024, 2048, 4096)):
        return MediaType("sensor", "application/x-hdf5")
    return None


# Kilobits a second by (MPEG version 1 or not, layer) and the header's index.
_KBPS = {
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _sound_frames(head: bytes) -> MediaType | None:
    """Recognise bare MP3, MP2 and AAC: a frame's header says where the next one starts, and there it is.

    Source: ISO/IEC 11172-3 section 2.4.1.3 and 13818-3; ISO/IEC 13818-7 section 6.2 for ADTS.
    """
    if head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    step, rate = head[2] >> 4, head[2] >> 2 & 3
    if layer == 4 and head[1] & 0x10:
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        found = MediaType("audio", "audio/aac")
    elif layer in (2, 3) and version in _RATES and 0 < step < 15 and rate < 3:
        samples = 72 if layer == 3 and version != 3 else 144  # of a frame, in bytes a bit
        length = samples * _KBPS[version == 3, layer][step] * 1000 // _RATES[version][rate] + (head[2] >> 1 & 1)
        found = MediaType("audio", "audio/mpeg")
    else:
        return None
    following = head[length : length + 2]
    return found if not following or following == head[:2] else None


def _text(sample: Sample) -> MediaType | None:
    return identify_text(sample.head, name=sample.name, whole=len(sample.head) >= sample.size)


def _by_model(sample: Sample) -> MediaType:
    """Ask magika about bytes that nothing above knows: either it names a medium, or the refusal names the thing."""
    if not any(sample.head):
        raise BadMedia("corrupt", "its first bytes are all zero, as in a file that was never written")
    guess = ask_magika(sample.head)
    # Below that score magika's own evaluation has it wrong about one time in ten.
    sure = guess.score >= 0.9 and guess.output.group != "unknown"
    if sure and guess.output.group in ("image", "audio", "video", "document"):
        return MediaType(guess.output.group, guess.output.mime_type)
    looks = f"it looks like {guess.output.description} ({guess.output.mime_type})" if sure else "its format is unknown"
    raise BadMedia("unsupported", f"{looks}: not an image, sound, video, text, document or sensor file")
