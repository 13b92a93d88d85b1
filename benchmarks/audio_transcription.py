"""How near is a pipeline to its model: recordings become Whisper's transcripts, and those MiniLM vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from _arms import Work
from _corpus import SPEECH
from _decode import IDENTITY, encoded, pieces

from raycluster.decode.audio import Audio
from raycluster.encode import Sound
from raycluster.encode.minilm import Minilm
from raycluster.encode.whisper import Whisper

RATE = 16_000
WINDOWS = Audio(rate=RATE, window=30.0, thumbnail=False)
HEARING, MODEL = Whisper(model="tiny.en"), Minilm()
MEASURED = ("duration", "loudness", "level", "peak", "clipping", "silence", "speech")
FEATURES = pa.struct([(name, Audio.features[name]) for name in MEASURED])
SCHEMA = pa.schema([*IDENTITY, ("features", FEATURES), *HEARING.writes, *MODEL.writes])


def pipeline() -> Callable[[list[str]], pa.RecordBatch]:
    """Load the models and return the function from recordings to rows."""
    hear, encode = HEARING.encoder(), MODEL.encoder()
    kinds = {".wav": (("audio", "audio/wav"), WINDOWS.decoder())}

    def rows(paths: list[str]) -> pa.RecordBatch:
        found = pieces(paths, kinds, "samples")
        heard = hear([Sound(samples, RATE) for samples in found.payloads])
        return found.batch(SCHEMA, {**heard, **encoded(encode, heard["text"], batch=MODEL.batch)})

    return rows


WORK = Work(
    file=Path(__file__),
    corpus=SPEECH,
    schema=SCHEMA,
    pipeline=pipeline,
    turn=1,  # one takes a second
    declared={
        "decode": {"audio": {"rate": RATE, "window": "30s", "thumbnail": False}},
        "encode": [{"use": "whisper", "model": "tiny.en"}, {"use": "minilm"}],
    },
    sizes=(8, 28),
)

if __name__ == "__main__":
    WORK.question().main()
