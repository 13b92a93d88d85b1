"""One image file becomes one row: upright square pixels on white, a thumbnail, and how good a picture it is.

Pillow decodes all formats, and reduces very large JPEGs while it does. Nothing is decoded before its declared size is
checked.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from raycluster.decode import Decode, Decoder, _picture
from raycluster.decode._ending import ends_early
from raycluster.errors import BadMedia
from raycluster.row import Media, Piece

if TYPE_CHECKING:
    from PIL import Image as Pillow

# What Pillow may open. Left out: formats that start other programs (EPS runs Ghostscript) or only read text.
_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
_RARE = ("DDS", "DIB", "ICNS", "ICO", "PCX", "PPM", "PSD", "QOI", "SGI", "TGA")
# A JPEG whose shorter side is this many times the one needed is decoded at a quarter or less of its size (the DCT
# gives that nearly free): 4000 x 3000 px takes half the time, and pixels differ by 0.5 of 255. Not at half the size: of
# 1280 x 960 px that takes 3.8 ms instead of 6.9, but sharpness comes out 6 % lower, so that photos of two sizes, and of
# two versions of this, could not be compared.
_DRAFT = 8
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Image(Decode):
    """Decodes photos and drawings: JPEG, PNG, GIF, WebP, TIFF, BMP, AVIF and what else Pillow reads."""

    features: ClassVar[dict[str, pa.DataType]] = {
        "width": pa.int32(),  # as displayed: after orientation
        "height": pa.int32(),
        "channels": pa.int32(),  # of the source: 1 grey, 3 colour, 4 with alpha or CMYK
        "frames": pa.int32(),  # more than 1: animated, or pages; only the first is decoded
        "has_alpha": pa.bool_(),
        "orientation": pa.int32(),  # Exif, 1 to 8: how the camera was held
        **_picture.QUALITY,
    }

    size: Annotated[int, Field(gt=0, le=4096)] = 224  # side of the square of pixels
    max_pixels: Annotated[int, Field(gt=0)] = 178_956_970  # half a GiB of RGB: where Pillow too suspects a bomb
    thumbnail: bool = True

    def decoder(self) -> Decoder:
        """Load Pillow and what resizes."""
        import cykooz_resizer  # noqa: F401 - loaded here, so that the first object does not pay for it
        from PIL import Image as Pillow

        # Our own limit speaks first; Pillow's second one, at twice its value, still stands behind it.
        Pillow.MAX_IMAGE_PIXELS = max(Pillow.MAX_IMAGE_PIXELS or 0, self.max_pixels)
        warnings.filterwarnings("ignore", category=Pillow.DecompressionBombWarning)

        def decode(media: Media) -> Iterator[Piece]:
            yield self._decode(media)

        return decode

    def _decode(self, media: Media) -> Piece:
        if not media.size:
            raise BadMedia("empty", "the file has no bytes")
        with media.open() as file:
            header = _header(media, file)
            if header.width * header.height > self.max_pixels:
                size = f"{header.width} x {header.height} pixels"
                raise BadMedia("too_large", f"{size} are more than the {self.max_pixels} that max_pixels allows")
            # Kept from here: Pillow's own values change when it reduces while decoding.
            width, height = header.size
            try:
                whole = self._pixels(header)
                measured = _measure(header)
            except (OSError, RuntimeError, SyntaxError, ValueError, EOFError) as error:
                raise _verdict(file, error) from error
        orientation = measured["orientation"]
        if orientation in (5, 6, 7, 8):
            width, height = height, width
        piece = _picture.piece(whole, self.size, orientation, thumbnail=self.thumbnail)
        return replace(piece, features={"width": width, "height": height} | measured | (piece.features or {}))

    def _pixels(self, header: Pillow.Image) -> Pillow.Image:
        """Decode to RGB, not yet upright."""
        plain = header.mode in ("L", "RGB") and not header.has_transparency_data
        needed = _picture.shorter(self.size)
        if plain and header.format in ("JPEG", "MPO") and min(header.size) >= _DRAFT * needed:
            header.draft(header.mode, (2 * needed, 2 * needed))
        header.load()
        return _eight_bits(header)


def _header(media: Media, file: BinaryIO) -> Pillow.Image:
    """Read format, size and mode, and no pixels."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        return Pillow.open(file, formats=_COMMON + _RARE)
    except Pillow.DecompressionBombError as error:
        limit = 2 * (Pillow.MAX_IMAGE_PIXELS or 0)
        raise BadMedia("too_large", f"its header promises more than {limit} pixels: a decompression bomb") from error
    except UnidentifiedImageError as error:
        if not _is_known(file):
            raise BadMedia("unsupported", f"{media.media_type} is not an image format that can be decoded") from error
        raise _verdict(file, ValueError("its header makes no sense")) from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError) as error:
        raise _verdict(file, error) from error


def _measure(image: Pillow.Image) -> dict[str, Any]:
    """Return what the file says of its picture."""
    return {
        # A palette stands for the colours it holds.
        "channels": 3 + image.has_transparency_data if image.mode in ("P", "PA") else len(image.getbands()),
        # The second picture of a phone's JPEG is a depth or light map, not a frame.
        "frames": 1 if image.format == "MPO" else getattr(image, "n_frames", 1),
        "has_alpha": image.has_transparency_data,
        "orientation": _orientation(image),
    }


def _orientation(image: Pillow.Image) -> int:
    """Return how the camera was held, 1 to 8; a damaged note about it does not spoil a good picture."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _is_known(file: BinaryIO) -> bool:
    """Say whether the first bytes are those of a format that we decode."""
    file.seek(0)
    start = file.read(16)
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    boxed = start[4:12] in (b"ftypavif", b"ftypavis", b"jP  \r\n\x87\n")
    return (
        webp
        or boxed
        or start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0"))
    )


def _eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Turn any mode of Pillow into RGB: transparency on white, 16 bits scaled to 8, floats by their range."""
    from PIL import Image as Pillow

    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return Pillow.fromarray(_scale(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _scale(values: np.ndarray[Any, Any]) -> _picture.Pixels:
    """Turn 16 bit, 32 bit and float greys (height, width) into uint8."""
    if values.dtype == np.uint16:
        # 257 = 65535 / 255
        scaled: _picture.Pixels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return scaled
    grey = np.nan_to_num(values.astype(np.float64))
    low, high = float(grey.min()), float(grey.max())
    if values.dtype.kind == "i" and low >= 0 and high <= 65_535:
        low, high = 0.0, 65_535.0  # Pillow reads some 16 bit files into 32 bits
    # Otherwise these are measurements, not light: their range is all there is to go by.
    scaled = np.rint((grey - low) * (255 / (high - low if high > low else 1))).astype(np.uint8)
    return scaled


def _verdict(file: BinaryIO, error: Exception) -> BadMedia:
    """Tell a cut file from a damaged one, and both from one of an unknown kind."""
    missing = ends_early(file)
    said = str(error).rsplit(", ", 1)[-1].lower()
    if missing or isinstance(error, EOFError) or "truncated" in said or "incomplete" in said:
        return BadMedia("truncated", f"the file is cut off: {missing or said}")
    # libjpeg calls a damaged marker "unsupported" too
    unknown = ("unsupported" in said and "marker" not in said) or "not supported" in said
    if isinstance(error, NotImplementedError) or unknown:
        return BadMedia("unsupported", f"the image uses what its decoder does not know: {said}")
    return BadMedia("corrupt", f"the image cannot be decoded: {said}")


__all__ = ["Image"]
