"""How near is a pipeline to its model: films become frames, two a second, with EfficientNet-Lite0's columns."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
from _arms import Work
from _corpus import CLIPS
from _decode import PICTURE, frames

from raycluster.encode.efficientnet import Efficientnet

FPS = 2
MODEL = Efficientnet(batch=64)
WORK = Work(
    file=Path(__file__),
    corpus=CLIPS,
    take=lambda: partial(frames, fps=FPS),
    columns=(("start_seconds", pa.float64()), ("end_seconds", pa.float64()), ("features", PICTURE)),
    models=(MODEL,),
    turn=4,
    declared={
        "decode": {"video": {"fps": FPS, "size": 224, "thumbnail": False}},
        "encode": [{"use": "efficientnet", "batch": MODEL.batch}],
    },
    sizes=(40, 150),
)

if __name__ == "__main__":
    WORK.question().main()
