"""A small real lake to serve: pictures, sounds, a film, words and a page, as files, as rows, and as a gate sees them.

Every object is a real file, and its rows are as a run makes them: ids from uri and version, real thumbnails, unit
vectors, text, features.
"""

from __future__ import annotations

import io
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uvicorn

from raycluster.declare.workload import dump, parse_workload
from raycluster.errors import Forbidden, Unauthenticated
from raycluster.govern.gate import Gate, Rules
from raycluster.govern.principal import Principal
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.columns import dataset_schema
from raycluster.lake.commit import Change, commit
from raycluster.lake.lake import Lake
from raycluster.read._store import local_uri
from raycluster.read._stores import store_of
from raycluster.row import object_id, row_id

WIDTH = 16
SCHEMA = dataset_schema(pa.schema([("label", pa.string()), ("label_score", pa.float32())]), WIDTH)
COLORS = ("red", "green", "blue", "gold", "gray", "pink")
HTML = b"<!doctype html><title>x</title><script>alert(1)</script><p>the lighthouse above the sea"


def picture(color: str, size: tuple[int, int] = (320, 240)) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def tone(seconds: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        wave_of = np.sin(np.arange(seconds * 8000) * 2 * np.pi * 440 / 8000)
        sound.writeframes((wave_of * 20000).astype(np.int16).tobytes())
    return file.getvalue()


def film(seconds: int = 3) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for index in range(seconds * 10):
            # pixels: (height, width, rgb) uint8
            pixels = np.full((48, 64, 3), index * 8, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


DECLARED = """
apiVersion: raycluster/v1
kind: Workload
metadata: {name: w, labels: {team: t}}
spec:
  source: {files: {paths: [corpus]}}
  decode: {text: {}, image: {size: 32}}
  sink: {dataset: gallery}
"""


@dataclass(frozen=True)
class Piece:
    """A row to be; an object has one or several."""

    text: str | None = None
    seconds: tuple[float, float] | None = None
    thumbnail: bytes | None = None
    label: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Raw:
    """An object to be."""

    content: bytes
    modality: str
    media_type: str
    pieces: tuple[Piece, ...] = (Piece(),)


def photo(color: str) -> Raw:
    piece = Piece(thumbnail=picture(color, (32, 24)), label=color, score=0.5)
    return Raw(picture(color), "image", "image/png", (piece,))


def corpus() -> dict[str, Raw]:
    """Return the objects of `gallery` by their path; every row whose vector is null has no text either."""
    return {
        **{f"photos/{color}.png": photo(color) for color in COLORS},
        "photos/blå himmel #1.png": photo("skyblue"),
        "sounds/tone.wav": Raw(
            tone(),
            "audio",
            "audio/x-wav",
            (Piece("a piano plays", (0.0, 1.0), score=float("nan")), Piece("the storm is near", (1.0, 2.0))),
        ),
        "video/clip.mp4": Raw(
            film(),
            "video",
            "video/mp4",
            tuple(Piece(None, (float(at), at + 1.0), picture("black", (32, 24))) for at in range(3)),
        ),
        "words/river.txt": Raw(b"the river runs past the market", "text", "text/plain", (Piece("the river runs"),)),
        "words/bread.txt": Raw(b"bread is baked of flour", "text", "text/plain", (Piece("bread is baked of flour"),)),
        "pages/sea.html": Raw(HTML, "document", "text/html", (Piece("the lighthouse above the sea"),)),
    }


def rows_of(files: dict[str, str], objects: dict[str, Raw], seed: int = 0) -> pa.RecordBatch:
    """Return the rows of objects; `files` says at which uri each lies."""
    rng = np.random.default_rng(seed)
    rows = []
    for path, raw in objects.items():
        uri = files[path]
        oid = object_id(uri, store_of(uri).find(uri).version)
        for position, piece in enumerate(raw.pieces):
            vector = rng.standard_normal(WIDTH)
            start, end = piece.seconds or (None, None)
            rows.append(
                {
                    "id": row_id(oid, raw.modality, position),
                    "object_id": oid,
                    "uri": uri,
                    "sha256": "0" * 64,
                    "modality": raw.modality,
                    "media_type": raw.media_type,
                    "position": position,
                    "start_seconds": start,
                    "end_seconds": end,
                    "text": piece.text,
                    "vector": None if raw.modality == "video" else (vector / np.linalg.norm(vector)).tolist(),
                    "thumbnail": piece.thumbnail,
                    "features": {"width": 320, "height": 240} if raw.modality == "image" else None,
                    "provenance": {"run_id": "run1", "workload": "w", "stages": [raw.modality], "models": []},
                    "ingested_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(rows)),
                    "label": piece.label,
                    "label_score": piece.score,
                }
            )
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


def put(lake: Lake, name: str, rows: pa.RecordBatch, *, run: str = "run1") -> int:
    """Add rows to a dataset and let readers see them; return the version."""
    table = lake.table(name)
    fragments = table.create_or_check(SCHEMA).write(iter([rows]))
    landed = commit(table, Change(run_id=run, workload="w", fragments=fragments))
    table.set_live(landed.version)
    return landed.version


def save(folder: Path, objects: dict[str, Raw]) -> dict[str, str]:
    """Write objects as files; return their uris."""
    for path, raw in objects.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(raw.content)
    return {path: local_uri(str(folder / path)) for path in objects}


@dataclass
class Told(Gate):
    """A gate that goes by a table: who may read which dataset, and what they see of it.

    `Authorization: Bearer ann` is ann. Who changes it afterwards changes the policy.
    """

    rules: Rules = field(default_factory=Rules)
    lake: Any = None
    allowed: dict[str, dict[str, Access]] = field(default_factory=dict)
    revision: str = "1"

    def identify(self, authorization: str | None) -> Principal:
        subject = (authorization or "").removeprefix("Bearer ")
        if subject not in self.allowed:
            raise Unauthenticated("nobody known asks")
        return Principal(subject=subject)

    def permit(self, principal: Principal, method: str, path: Any) -> None:
        if list(path)[:1] == ["data"] and path[1] not in self.allowed.get(principal.subject, {}):
            raise Forbidden(f"{principal.subject} may not {method} {'/'.join(path)}")

    def problems(self) -> list[str]:
        return []

    def close(self) -> None: ...

    def access(self, principal: Principal, name: str, columns: pa.Schema) -> Access:
        self.permit(principal, "GET", ("data", name))
        return self.allowed.get(principal.subject, {}).get(name, EVERYTHING)


def declare(lake: Lake, name: str = "w") -> None:
    """Let a workload have run into `gallery`, so that it says how objects are taken in."""
    told = {"digest": "1", "yaml": dump(parse_workload(DECLARED.replace("name: w", f"name: {name}")))}
    table = lake.table("gallery")
    commit(table, Change(run_id="r0", workload=name, fence="take", declaration=told))
    table.set_live(commit(table, Change(run_id="r0", workload=name, fence="release")).version)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Run an ASGI application on a free port; yield its URL."""
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
