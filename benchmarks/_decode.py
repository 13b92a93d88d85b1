"""Paths of files become payloads for a model and the columns that every arm writes, by fast parts that need no torch.

The yardstick's own decoders of photos and films, with no raycluster in them: what raycluster's make must be equal to
this, and their speed is held against it. The text of documents and the windows of speech come from raycluster's own
decoders, called in a plain loop: nobody else cuts sentences, orders a page, or hears a pause just so.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from PIL import Image

    from raycluster.decode import Decode
    from raycluster.row import Piece

Pixels = npt.NDArray[np.uint8]  # (side, side, rgb)

SIDE, SHORTER, SMALL = 224, 256, 256  # pixels: of the square, of the shorter side before, of what is measured at most
MEASURES = ("sharpness", "brightness", "contrast", "exposure_dark", "exposure_bright")
PICTURE = pa.struct(
    [("width", pa.int32()), ("height", pa.int32()), *((name, pa.float32()) for name in MEASURES)],
)
IDENTITY = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "object_id", "uri", "sha256", "modality", "media_type")),
        ("position", pa.int32()),
    ]
)


class File(NamedTuple):
    """A file that was read."""

    content: bytearray
    uri: str
    object_id: str
    sha256: str


@dataclass
class Taken:
    """What was taken out of some files, in order: payloads for a model, and the rows' own columns."""

    payloads: list[Any] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, file: File, kind: tuple[str, str], payload: Any, **own: Any) -> None:
        """Take one row, of a modality and media type."""
        modality, media_type = kind
        place = own.setdefault("position", 0)
        identity = {"id": _hex("\0".join((file.object_id, modality, str(place))).encode())}
        identity |= {"object_id": file.object_id, "uri": file.uri, "sha256": file.sha256}
        self.payloads.append(payload)
        self.rows.append(identity | {"modality": modality, "media_type": media_type} | own)

    def batch(self, schema: pa.Schema, computed: Mapping[str, Sequence[Any]]) -> pa.RecordBatch:
        """Return the columns of `schema`: the rows' own, and what a model made of their payloads."""
        own = pa.schema([one for one in schema if one.name not in computed])
        made = pa.RecordBatch.from_pylist(self.rows, own)
        arrays = [
            _column(computed[one.name], one.type) if one.name in computed else made.column(one.name) for one in schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(list(values))), kind.list_size)


def encoded(
    encode: Callable[[Sequence[Any]], Mapping[str, Sequence[Any]]], payloads: Sequence[Any], *, batch: int
) -> dict[str, list[Any]]:
    """Call a model on batches of payloads of like length, so that little is padding; return values in their order."""
    order = sorted(range(len(payloads)), key=lambda index: len(payloads[index]))
    made: dict[str, list[Any]] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        for name, values in encode([payloads[index] for index in part]).items():
            column = made.setdefault(name, [None] * len(payloads))
            for index, value in zip(part, values, strict=True):
                column[index] = value
    return made


def read(path: str) -> File:
    """Read and hash a file; ids are those of DESIGN.md: a local file's version is its size and time."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        content = bytearray(status.st_size)
        file.readinto(content)
    return identify(path, status, content)


def identify(path: str, status: os.stat_result, content: bytearray) -> File:
    """Name what was read."""
    uri = "file://" + quote(path)
    whole = _hex("\0".join((uri, f"{status.st_size}-{status.st_mtime_ns}")).encode())
    return File(content, uri, whole, _hex(content))


def _hex(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()


def photos(paths: Iterable[str]) -> Taken:
    """Read, decode and measure JPEGs; payloads are pixels.

    OpenCV's libjpeg takes 0.67 ms for a photo of 500 x 375, torchvision's 0.71, Pillow's 0.93; pixels are the same.
    """
    import cv2

    found = Taken()
    for path in paths:
        file = read(path)
        # (height, width, rgb) uint8
        decoded = cv2.imdecode(np.frombuffer(file.content, np.uint8), cv2.IMREAD_COLOR_RGB)
        pixels, figures = _square(decoded)
        found.add(file, ("image", "image/jpeg"), pixels, features=figures)
    return found


def frames(paths: Iterable[str], *, fps: float) -> Taken:
    """Read films, decode the frame next to each multiple of the interval, and measure it; payloads are pixels."""
    found = Taken()
    for path in paths:
        file = read(path)
        duration, shown = _shown(file.content, fps)
        ends = [start for start, _ in shown[1:]] + [duration]
        for position, ((start, rgb), end) in enumerate(zip(shown, ends, strict=True)):
            pixels, figures = _square(rgb)
            own = {"position": position, "start_seconds": start, "end_seconds": max(start, end)}
            found.add(file, ("video", "video/mp4"), pixels, features=figures, **own)
    return found


def _shown(content: bytearray, fps: float) -> tuple[float, list[tuple[float, Pixels]]]:
    """Return the length of a film and its wanted frames: when, and (height, width, rgb).

    Frames that no other frame refers to are left out: with them it takes twice as long.
    """
    import av

    shown: list[tuple[float, Pixels]] = []
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        stream.codec_context.thread_count = 1
        early = 0.5 * fps / float(stream.average_rate)
        duration = float(container.duration) / 1e6
        for frame in container.decode(stream):
            if int(frame.time * fps + early + 1e-6) >= len(shown):
                shown.append((frame.time, frame.reformat(format="rgb24").to_ndarray()))
    return duration, shown


def pieces(
    stages: Mapping[str, tuple[tuple[str, str], Decode]], payload: Callable[[Piece], Any]
) -> Callable[[Iterable[str]], Taken]:
    """Open raycluster's own decoders, by suffix: kind (see `Taken.add`) and stage; return what takes files by them."""
    from raycluster.row import Media

    opened = {suffix: (kind, stage.decoder()) for suffix, (kind, stage) in stages.items()}

    def take(paths: Iterable[str]) -> Taken:
        found = Taken()
        for path in paths:
            file = read(path)
            kind, decode = opened[os.path.splitext(path)[1]]
            identity = {"object_id": file.object_id, "uri": file.uri, "sha256": file.sha256}
            for piece in decode(
                Media(modality=kind[0], media_type=kind[1], content=memoryview(file.content), **identity)
            ):
                own = {"position": piece.position, "text": piece.text, "features": piece.features}
                found.add(file, kind, payload(piece), **own)
        return found

    return take


def _square(shown: Pixels) -> tuple[Pixels, dict[str, Any]]:
    """Return the middle of a picture, and what is measured of it. Shapes: (height, width, rgb) -> (side, side, rgb)."""
    from PIL import Image

    whole = Image.fromarray(shown)
    reduced = _resized(whole, SHORTER / min(whole.size))
    left, top = (reduced.width - SIDE) // 2, (reduced.height - SIDE) // 2
    pixels = np.asarray(reduced)[top : top + SIDE, left : left + SIDE]
    size = {"width": whole.width, "height": whole.height}
    return np.ascontiguousarray(pixels), size | _measured(_resized(reduced, SMALL / max(reduced.size)))


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    """Resize by a cubic filter that averages what it shrinks, across first, then down: what torch gives, to the bit."""
    import cykooz_resizer as fast
    from PIL import Image

    resizer, cubic = fast.Resizer(), fast.ResizeAlg.convolution(fast.FilterType.catmull_rom)
    width, height = (round(side * scale) for side in picture.size)
    for size in ((width, picture.height), (width, height)):
        resized = Image.new("RGB", size)
        resizer.resize_pil(picture, resized, fast.ResizeOptions(cubic))
        picture = resized
    return picture


def _measured(picture: Image.Image) -> dict[str, float]:
    grey = picture.convert("L")
    share = np.array(grey.histogram()) / (grey.width * grey.height)
    levels = np.arange(256) / 255
    mean = float(levels @ share)
    # wide: (height, width) int16; edges: (height - 2, width - 2) int16
    wide = np.asarray(grey).astype(np.int16)
    edges = 4 * wide[1:-1, 1:-1] - wide[:-2, 1:-1] - wide[2:, 1:-1] - wide[1:-1, :-2] - wide[1:-1, 2:]
    spread = float(np.sqrt((levels - mean) ** 2 @ share))
    dark, bright = float(share[:3].sum()), float(share[-3:].sum())
    return dict(zip(MEASURES, (float(edges.astype(np.float32).var()), mean, spread, dark, bright), strict=True))


def turns(paths: Sequence[str], size: int) -> Iterator[list[str]]:
    """Cut a list into parts of so many."""
    return (list(paths[start : start + size]) for start in range(0, len(paths), size))
