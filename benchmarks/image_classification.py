"""How near is a pipeline to its model: JPEGs become EfficientNet-Lite0 features, labels and vectors."""

from __future__ import annotations

from pathlib import Path

from _arms import Pictures, Work
from _corpus import PHOTOS
from _decode import PICTURE, photos

from raycluster.encode.efficientnet import Efficientnet

MODEL = Efficientnet(batch=64)
WORK = Work(
    file=Path(__file__),
    corpus=PHOTOS,
    take=lambda: photos,
    columns=(("features", PICTURE),),
    models=(MODEL,),
    turn=64,
    declared={
        "decode": {"image": {"size": 224, "thumbnail": False}},
        "encode": [{"use": "efficientnet", "batch": 64}],
    },
    sizes=(2000, 3500),
    idiom=Pictures(MODEL),
)

if __name__ == "__main__":
    WORK.question().main()
