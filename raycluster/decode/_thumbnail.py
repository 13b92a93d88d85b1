"""What was decoded becomes a small picture for people: photo, waveform or line plot, at most 256 px, on white.

Decoders call these with what they have already reduced; nothing here decodes. Photos become JPEG, drawings PNG.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

# DESIGN.md: at most 256 px. Drawings are flat, so that a list of results shows many at once.
SIDE = 256
_HEIGHT = 96
_MARGIN = 4

# JPEG quality: 80 is 6-14 kB at 256 px, and its artefacts do not show at that size.
_QUALITY = 80

# Hues that stay apart in print and for colour-blind readers (Okabe and Ito 2008), rgb.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
_GRID = (225, 229, 234)
# Lines are drawn this many times too large and then averaged: PIL's own lines have no smooth edges.
_OVERSAMPLE = 3


def picture(pixels: npt.NDArray[np.uint8] | Image.Image) -> bytes:
    """Return a JPEG of an image, its longer side at most 256 px; transparency lies on white.

    Shapes: pixels (height, width, rgb) or (height, width) uint8, or any PIL image.
    """
    from PIL import Image

    # image: RGB, longer side <= SIDE
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image = _opaque(image)
    if max(image.size) > SIDE:
        scale = SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # A gap of 2: cheap box averaging down to twice the size, then a good filter; looks the same, 3x faster.
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _opaque(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def waveform(samples: npt.NDArray[np.float32]) -> bytes:
    """Return a PNG of a sound: its peaks in a light tone, its loudness (RMS) in a full one.

    Quiet sounds are drawn up to eight times taller, so that speech at -30 dBFS is not a flat line.

    Shapes: samples (time,) float32 in [-1, 1].
    """
    samples = np.nan_to_num(np.asarray(samples, np.float32).reshape(-1), posinf=1.0, neginf=-1.0)
    if not len(samples):
        samples = np.zeros(1, np.float32)
    # low, high, loud: (column,) float32
    edges = np.linspace(0, len(samples), min(SIDE, len(samples)) + 1).astype(np.int64)[:-1]
    low, high = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
    counts = np.diff(np.append(edges, len(samples)))
    loud = np.sqrt(np.add.reduceat(np.square(samples), edges) / counts)
    peak = float(max(high.max(), -low.min()))
    middle, reach = _HEIGHT / 2, _HEIGHT / 2 - _MARGIN
    scale = reach * min(8.0, 1.0 / peak) if peak > 0 else reach
    stretch = np.linspace(0, len(edges), SIDE, endpoint=False).astype(np.int64)
    low, high, loud = (part[stretch] * scale for part in (low, high, loud))
    # canvas: (height, column, rgb) float32
    canvas = np.full((_HEIGHT, SIDE, 3), 255, np.float32)
    _paint(canvas, np.full(SIDE, middle - 0.5), np.full(SIDE, middle + 0.5), _COLOURS[0], 0.5)
    _paint(canvas, middle - high - 0.5, middle - low + 0.5, _COLOURS[0], 0.4)
    _paint(canvas, middle - np.minimum(loud, high), middle + np.minimum(loud, -low), _COLOURS[0], 1.0)
    return _png(canvas.astype(np.uint8))


def _paint(
    canvas: npt.NDArray[np.float32],
    top: npt.NDArray[Any],
    bottom: npt.NDArray[Any],
    colour: tuple[int, int, int],
    strength: float,
) -> None:
    """Fill every column of `canvas` from `top` to `bottom` (fractional rows, so edges are smooth)."""
    rows = np.arange(len(canvas), dtype=np.float32)[:, None]
    # cover: (height, column) share of each pixel that lies between top and bottom
    cover = np.clip(np.minimum(rows + 1, bottom) - np.maximum(rows, top), 0, 1)[..., None] * strength
    canvas += cover * (np.array(colour, np.float32) - canvas)


def plot(series: Sequence[npt.NDArray[Any]]) -> bytes:
    """Return a PNG of up to six series, one lane each, every lane scaled to its own range; gaps stay gaps.

    Shapes: each series (time,) of any number type; NaN where nothing was measured.
    """
    from PIL import Image, ImageDraw

    lanes = list(series)[: len(_COLOURS)]
    width, height = SIDE * _OVERSAMPLE, _HEIGHT * _OVERSAMPLE
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, values in enumerate(lanes):
        top, bottom = height * number // len(lanes), height * (number + 1) // len(lanes)
        if number:
            pen.line([(0, top), (width, top)], fill=_GRID, width=_OVERSAMPLE)
        pad = _MARGIN * _OVERSAMPLE
        for line in _lines(values, width - 2 * pad, bottom - top - 2 * pad):
            points = [(x + pad, y + top + pad) for x, y in line]
            if len(points) == 1:
                (x, y), radius = points[0], _OVERSAMPLE
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=_COLOURS[number])
            pen.line(points, fill=_COLOURS[number], width=_OVERSAMPLE + 1, joint="curve")
    return _png(np.asarray(canvas.reduce(_OVERSAMPLE)))


def _lines(values: npt.NDArray[Any], width: int, height: int) -> list[list[tuple[float, float]]]:
    """Return the unbroken lines of one series as points inside width x height, the largest value on top."""
    values = np.asarray(values, np.float64).reshape(-1)
    known = np.isfinite(values)
    if not known.any():
        return []
    low, high = values[known].min(), values[known].max()
    # x, y: (time,) float64; a constant series lies in the middle
    x = np.linspace(0, width, len(values)) if len(values) > 1 else np.array([width / 2])
    span = high - low
    y = height * (1 - (values - low) / span) if span > 0 else np.where(known, height / 2, np.nan)
    x, y = _thin(x, y, SIDE)
    ends = np.flatnonzero(~np.isfinite(y))
    runs = zip(np.append(-1, ends) + 1, np.append(ends, len(y)), strict=True)
    return [list(zip(x[start:end].tolist(), y[start:end].tolist(), strict=True)) for start, end in runs if end > start]


def _thin(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], columns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Keep the lowest and highest value of each pixel column: what a full line would show, from few points."""
    if len(y) <= 4 * columns:
        return x, y
    size = -(-len(y) // columns)
    columns = -(-len(y) // size)
    # blocks: (column, time) float64; the last one is filled up with gaps
    blocks = np.pad(y, (0, size * columns - len(y)), constant_values=np.nan).reshape(columns, size)
    gap = np.isnan(blocks).all(axis=1)
    filled = np.where(np.isnan(blocks), np.where(gap, 0.0, np.inf)[:, None], blocks)
    first = filled.argmin(axis=1)
    filled[np.isinf(filled)] = -np.inf
    last = filled.argmax(axis=1)
    at = np.sort(np.stack([first, last], axis=1), axis=1) + size * np.arange(columns)[:, None]
    at = np.minimum(at.reshape(-1), len(y) - 1)
    return x[at], y[at]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    # 64 colours hold every shade of a drawing; a palette makes the file a third of the size.
    drawing = Image.fromarray(pixels).quantize(64, Image.Quantize.FASTOCTREE)
    # The palette is of averages: white would come out as 254.
    drawing.putpalette([255 if value >= 253 else value for value in drawing.getpalette() or []])
    drawing.save(out, "PNG")
    return out.getvalue()
