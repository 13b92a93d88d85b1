"""Paths of JPEGs become pixels and the columns that every arm writes, as fast as is known here; no raycluster in it.

The yardstick's own decoder: what raycluster's makes must be equal to this, and its speed is held against it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SIDE, SHORTER, SMALL = 224, 256, 256  # pixels: of the square, of the shorter side before, of what is measured at most
MEASURES = ("sharpness", "brightness", "contrast", "exposure_dark", "exposure_bright")
FEATURES = pa.struct(
    [("width", pa.int32()), ("height", pa.int32()), *((name, pa.float32()) for name in MEASURES)],
)
COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "object_id", "uri", "sha256", "modality", "media_type")),
        ("position", pa.int32()),
        ("features", FEATURES),
    ]
)


@dataclass
class Photos:
    """Some decoded photos."""

    pixels: list[npt.NDArray[np.uint8]] = field(default_factory=list)  # (side, side, rgb) each
    rows: list[dict[str, Any]] = field(default_factory=list)

    def batch(self, schema: pa.Schema, computed: dict[str, pa.Array]) -> pa.RecordBatch:
        """Return the columns of `schema`: the photos' own, and what a model made of their pixels."""
        own = pa.RecordBatch.from_pylist(self.rows, COLUMNS)
        return pa.RecordBatch.from_arrays(
            [computed[name] if name in computed else own.column(name) for name in schema.names], schema=schema
        )


def photos(paths: list[str]) -> Photos:
    """Read, hash, decode and measure."""
    found = Photos()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            content = bytearray(status.st_size)
            file.readinto(content)
        pixels, features = _decode(content)
        found.pixels.append(pixels)
        found.rows.append(_identity(path, status, content) | {"features": features})
    return found


def _identity(path: str, status: os.stat_result, content: bytearray) -> dict[str, Any]:
    """Return the ids as DESIGN.md defines them; a local file's version is its size and time."""
    uri = "file://" + quote(path)
    whole = _hex("\0".join((uri, f"{status.st_size}-{status.st_mtime_ns}")).encode())
    kind = {"modality": "image", "media_type": "image/jpeg", "position": 0}
    row = _hex("\0".join((whole, "image", "0")).encode())
    return {"id": row, "object_id": whole, "uri": uri, "sha256": _hex(content)} | kind


def _hex(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()


def _decode(content: bytearray) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    # (rgb, height, width) -> (1, rgb, height, width) uint8, by way of the order in which torchvision lays it in memory:
    # only so do the strides say `channels last`, without which torch copies before and after each resizing
    decoded = decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), mode=ImageReadMode.RGB)
    whole = decoded.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    height, width = whole.shape[2:]
    reduced = _resized(whole, SHORTER / min(height, width))
    small = _resized(reduced, SMALL / max(reduced.shape[2:]))
    top, left = (reduced.shape[2] - SIDE) // 2, (reduced.shape[3] - SIDE) // 2
    # pixels: (side, side, rgb) uint8
    pixels = reduced[0, :, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).contiguous().numpy()
    return pixels, {"width": width, "height": height} | _measured(small[0].permute(1, 2, 0).numpy())


def _resized(images: Any, scale: float) -> Any:
    from torch.nn.functional import interpolate

    size = [round(side * scale) for side in images.shape[2:]]
    return interpolate(images, size=size, mode="bicubic", antialias=True)


def _measured(picture: npt.NDArray[np.uint8]) -> dict[str, float]:
    from PIL import Image

    # grey: (height, width) uint8
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    share = np.bincount(grey.reshape(-1), minlength=256) / grey.size
    levels = np.arange(256) / 255
    mean = float(levels @ share)
    wide = grey.astype(np.int16)
    # edges: (height - 2, width - 2) int16
    edges = 4 * wide[1:-1, 1:-1] - wide[:-2, 1:-1] - wide[2:, 1:-1] - wide[1:-1, :-2] - wide[1:-1, 2:]
    spread = float(np.sqrt((levels - mean) ** 2 @ share))
    dark, bright = float(share[:3].sum()), float(share[-3:].sum())
    return dict(zip(MEASURES, (float(edges.astype(np.float32).var()), mean, spread, dark, bright), strict=True))
