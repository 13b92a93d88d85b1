"""How near is a pipeline to its model: recordings become Whisper's transcripts, and those MiniLM vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from _arms import Work
from _corpus import SPEECH
from _decode import pieces

from raycluster.decode.audio import Audio
from raycluster.encode import Sound
from raycluster.encode.minilm import Minilm
from raycluster.encode.whisper import Whisper
from raycluster.row import Piece

RATE = 16_000
WINDOWS = Audio(rate=RATE, window=30.0, thumbnail=False)
MEASURED = ("duration", "loudness", "level", "peak", "clipping", "silence", "speech")
FEATURES = pa.struct([(name, Audio.features[name]) for name in MEASURED])


def sound(piece: Piece) -> Sound:
    """Return what Whisper takes."""
    return Sound(piece.samples, RATE)


WORK = Work(
    file=Path(__file__),
    corpus=SPEECH,
    take=partial(pieces, {".wav": (("audio", "audio/wav"), WINDOWS)}, sound),
    columns=(("features", FEATURES),),
    models=(Whisper(model="tiny.en"), Minilm()),
    turn=1,  # one takes a second
    declared={
        "decode": {"audio": {"rate": RATE, "window": "30s", "thumbnail": False}},
        "encode": [{"use": "whisper", "model": "tiny.en"}, {"use": "minilm"}],
    },
    sizes=(8, 28),
)

if __name__ == "__main__":
    WORK.question().main()
