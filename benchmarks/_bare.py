"""A Lance dataset becomes an HTTP search, in the fewest lines: what a team writes before it needs anything else.

FastAPI under uvicorn, the same index asked with the same parameters, the same encoder in the process. No policy, no
bounds, no versions to follow, no metrics; whoever can reach it sees everything.
"""

from __future__ import annotations

import os
from typing import Any

import lance
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from raycluster.encode._minilm import Minilm
from raycluster.lake.rank import _PROBES, _REFINE

COLUMNS = ("id", "uri", "text", "_distance")


class Asked(BaseModel):
    """What a request holds: a vector, or a text."""

    vector: list[float] | None = None
    text: str | None = None
    k: int = 10


def application() -> FastAPI:
    """Return the application over the dataset that the environment names."""
    dataset = lance.dataset(os.environ["BENCHMARK_DATASET"], version="live")
    for index in dataset.describe_indices():
        dataset.prewarm_index(index.name)
    model = Minilm()
    model.embed(["warm"])
    app = FastAPI()

    @app.post("/search")
    def search(asked: Asked) -> dict[str, Any]:
        vector = model.embed([asked.text])[0] if asked.text else np.asarray(asked.vector, np.float32)
        nearest = {"column": "vector", "q": vector, "k": asked.k, "metric": "cosine"}
        nearest |= {"minimum_nprobes": _PROBES, "refine_factor": _REFINE}
        return {"hits": dataset.to_table(columns=list(COLUMNS), nearest=nearest).to_pylist()}

    return app
