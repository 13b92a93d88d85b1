"""An index in memory becomes an HTTP search in the fewest lines, and the fewest instructions: uvicorn and faiss.

One ASGI function: no framework between the server and the search. The same graph file as raycluster's gateway maps, the
same candidates, the same columns of each hit, from a list of Python dictionaries; the same encoder in the process. No
policy, no bounds, no versions to follow, no metrics, no tracing; whoever can reach it sees everything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson

from raycluster.encode._minilm import Minilm
from raycluster.lake.hot import Base


def application() -> Any:
    """Return the application over the base that the environment names."""
    base = Base.open(Path(os.environ["BENCHMARK_BASE"])).pile
    index = faiss.read_index(str(Path(os.environ["BENCHMARK_BASE"]) / "index.faiss"))
    index.hnsw.efSearch = base.breadth
    rows = [{name: row[name] for name in row if name != "object_id"} for row in base.rows.to_pylist()]
    model = Minilm()
    model.embed(["warm"])

    async def search(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        asked = orjson.loads(body)
        vector = model.embed([asked["text"]])[0] if "text" in asked else asked["vector"]
        scores, places = index.search(np.asarray([vector], np.float32), asked["k"])
        hits = [rows[at] | {"score": score} for at, score in zip(places[0].tolist(), scores[0].tolist(), strict=True)]
        answer = orjson.dumps({"hits": hits})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return search
