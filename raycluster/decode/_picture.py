"""A decoded picture becomes what a row holds of it: square pixels, a thumbnail, and how sharp and well lit it is.

Images and video frames come here as full-colour arrays of any size. All that is measured is measured on one small
picture of standard size, so that values of a phone photo and of a film frame can be compared, and cost little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raycluster.decode import _thumbnail
from raycluster.row import Piece

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]

QUALITY: dict[str, pa.DataType] = {
    "sharpness": pa.float32(),  # variance of the Laplacian, grey in 0..255; a blurred picture has less than about 100
    "brightness": pa.float32(),  # mean grey, 0..1
    "contrast": pa.float32(),  # standard deviation of grey, 0..0.5
    "exposure_dark": pa.float32(),  # share of pixels lost in black
    "exposure_bright": pa.float32(),  # share of pixels lost in white
}

# Evaluation of EfficientNet and its kin: shorter side to 256, then the central 224 (Tan and Le 2019).
_MARGIN = 256 / 224
# Beyond this ratio of sides only the middle is enlarged: a 10000 x 10 strip would become 256000 x 256.
_STRIP = 4
# Grey values within this distance of black or white are lost: JPEG's ringing moves clipped areas by one or two.
_CLIPPED = 2


def shorter(side: int) -> int:
    """Return what the shorter side of a picture is reduced to before its central `side` pixels are cut out."""
    return round(side * _MARGIN)


def piece(whole: Tensor, side: int, orientation: int, *, thumbnail: bool) -> Piece:
    """Return pixels, thumbnail and the features of `QUALITY`, turned upright.

    Shapes: whole (height, width, rgb) uint8; pixels (side, side, rgb) uint8.
    """
    from PIL import Image

    short, long = sorted(whole.shape[:2])
    strip = long > _STRIP * short
    # middle, reduced: (height, width, rgb) uint8, shorter side of reduced = shorter(side)
    middle = _centre(whole, short) if strip else whole
    reduced = _resize(middle, shorter(side) / short)
    # small: (height, width, rgb) uint8, longer side <= SIDE, never enlarged
    source = whole if strip or max(reduced.shape) > max(whole.shape) else reduced
    small = _resize(source, min(1.0, _thumbnail.SIDE / max(source.shape)))
    picture = Image.fromarray(_upright(small.numpy(), orientation))
    return Piece(
        pixels=_upright(_centre(reduced, side).numpy(), orientation),
        thumbnail=_thumbnail.picture(picture) if thumbnail else None,
        features=quality(picture),
    )


def _resize(image: Tensor, scale: float) -> Tensor:
    """Resize with a filter that averages what it shrinks, on uint8 all the way."""
    from torch.nn.functional import interpolate

    height, width = image.shape[:2]
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    if size == [height, width]:
        return image
    # (1, rgb, height, width), a view whose strides say `channels last`: without that torch copies twice
    planes = image[None].permute(0, 3, 1, 2)
    return interpolate(planes, size=size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)[0]


def _centre(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return image[top : top + side, left : left + side]


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo a camera's orientation. Source: Exif 3.0, tag 0x0112; anything but 2 to 8 means upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def quality(picture: Image.Image) -> dict[str, Any]:
    """Measure one small picture; see `QUALITY`."""
    # grey: (height, width) uint8
    grey = np.asarray(picture.convert("L"))
    # counts: (256,) int64; mean and deviation from 256 numbers instead of 50,000
    counts = np.bincount(grey.reshape(-1), minlength=256)
    levels, share = np.arange(256) / 255, counts / grey.size
    brightness = float(levels @ share)
    return {
        "sharpness": _sharpness(grey),
        "brightness": brightness,
        "contrast": float(np.sqrt(np.square(levels - brightness) @ share)),
        "exposure_dark": float(share[: _CLIPPED + 1].sum()),
        "exposure_bright": float(share[-_CLIPPED - 1 :].sum()),
    }


def _sharpness(grey: Pixels) -> float:
    """Return the variance of the Laplacian. Source: Pech-Pacheco et al., ICPR 2000."""
    if min(grey.shape) < 3:
        return 0.0
    wide = grey.astype(np.int16)
    # edges: (height - 2, width - 2) int16, within +-1020
    edges = wide[1:-1, 1:-1] * np.int16(4)
    edges -= wide[:-2, 1:-1]
    edges -= wide[2:, 1:-1]
    edges -= wide[1:-1, :-2]
    edges -= wide[1:-1, 2:]
    return float(edges.astype(np.float32).var())
