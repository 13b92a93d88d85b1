"""Every decoder keeps the same laws: cheap to list, a value, pure, and one bad object costs only itself."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import io
import json
import pickle
import random
import resource
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from reportlab.pdfgen import canvas

from raycluster import stage
from raycluster.decode import batch_of
from raycluster.errors import QUARANTINE_CODES
from raycluster.row import MEDIA, Media, Piece, row_schema

NAMES = stage.names("decode")

# What must not be loaded by listing, describing or planning: each costs 0.1 to 2 s or does not exist everywhere.
HEAVY = (
    "torch torchvision torchaudio av PIL scenedetect silero_vad cv2 onnxruntime ray lance pandas scipy "
    "py3langid charset_normalizer sentencex tokenizers pypdfium2 docx lxml inscriptis netCDF4 cftime mcap"
)

TRY = """
import sys
from raycluster import stage
from raycluster.decode import batch_of
names = stage.names("decode")
loaded = [name for name in names if f"raycluster.decode.{name}" in sys.modules]
assert not loaded, f"listing imported {loaded}"
from raycluster.row import features_type
for name in names:
    stage.find("decode", name)().digest
features_type()
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def picture() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        tone = np.sin(np.arange(16_000) * 440 / 16_000 * 2 * np.pi) * 8000
        file.writeframes(tone.astype("<i2").tobytes())
    return out.getvalue()


def clip() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, 8)
        for number in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 15, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def page() -> bytes:
    out = io.BytesIO()
    sheet = canvas.Canvas(out, invariant=True)
    sheet.drawString(72, 720, "The lighthouse keeper climbed the narrow stairs.")
    sheet.showPage()
    sheet.rect(100, 100, 300, 300, fill=1)
    sheet.save()
    return out.getvalue()


GOOD = {
    "image": (picture, "image/png"),
    "audio": (sound, "audio/wav"),
    "video": (clip, "video/mp4"),
    "text": (lambda: b"The lighthouse keeper climbed the narrow stairs each evening.", "text/plain"),
    "document": (page, "application/pdf"),
    "sensor": (lambda: b"time,level\n" + b"".join(b"%d,%d\n" % (n, n % 7) for n in range(90)), "text/csv"),
}


def media(name: str, number: int, content: bytes) -> dict:
    return {
        "object_id": f"object{number}",
        "uri": f"file:///{number}",
        "sha256": "0" * 64,
        "modality": name,
        "media_type": GOOD[name][1],
        "content": content,
        "path": None,
    }


def rows(name: str, contents: list[bytes]) -> pa.Table:
    objects = [media(name, number, content) for number, content in enumerate(contents)]
    batch = pa.RecordBatch.from_pylist(objects, schema=MEDIA)
    return pa.Table.from_batches(list(stage.find("decode", name)().open()(batch)), schema=row_schema())


def test_every_modality_has_a_decoder_and_a_sample_here():
    assert set(NAMES) <= set(GOOD)


def test_listing_and_describing_load_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & set(HEAVY.split())


def test_decoders_work_without_torch():
    code = "import sys; from raycluster import stage; [stage.find('decode', name)().open() for name in sys.argv[1:]]"
    code += "; print(sorted({'torch', 'torchvision', 'torchaudio', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *NAMES], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_is_a_value(name):
    family = stage.find("decode", name)
    decoder = family()
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    assert decoder.name == name
    assert decoder.reads == tuple(MEDIA.names)
    assert decoder.writes == row_schema()
    with pytest.raises(dataclasses.FrozenInstanceError):
        decoder.timeout = 1.0


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_says_what_is_made_not_how_long_it_may_take(name):
    family = stage.find("decode", name)
    assert family().digest == family().digest
    assert family(timeout=7.0).digest == family().digest
    for field in dataclasses.fields(family):
        if field.name not in ("needs", "timeout") and isinstance(field.default, bool | int | float):
            other = not field.default if isinstance(field.default, bool) else field.default * 2 or 1
            assert family(**{field.name: other}).digest != family().digest, field.name


@pytest.mark.parametrize("name", NAMES)
def test_yaml_keys_are_typed_and_complete(name):
    family = stage.find("decode", name)
    adapter = TypeAdapter(family)
    assert adapter.validate_json("{}") == family()
    with pytest.raises(ValidationError, match="no_such_key"):
        adapter.validate_json(json.dumps({"no_such_key": 1}))
    assert adapter.json_schema()["additionalProperties"] is False
    assert len(inspect.getdoc(family) or "") > 40  # the manual


@pytest.mark.parametrize("name", NAMES)
def test_what_is_measured_is_declared(name):
    family = stage.find("decode", name)
    declared = pa.struct(list(family.features.items()))
    found = list(family().decoder()(Media(**media(name, 0, GOOD[name][0]()))))
    assert found
    for piece in found:
        if piece.modality in (None, name):
            # A struct drops keys that it does not know without a word.
            assert set(piece.features) <= set(family.features)
            pa.array([piece.features], declared).validate(full=True)


@pytest.mark.parametrize("name", NAMES)
def test_one_bad_object_costs_only_itself(name):
    good, bad = GOOD[name][0](), random.Random(5).randbytes(3000)
    alone = rows(name, [good])
    table = rows(name, [good, bad, b"", good])
    errors = table.filter(pa.compute.is_valid(table["error"]))
    assert errors["object_id"].to_pylist() == ["object1", "object2"]
    assert {verdict["code"] for verdict in errors["error"].to_pylist()} <= set(QUARANTINE_CODES)
    assert errors["error"][1].as_py()["code"] == "empty"
    assert all(verdict["message"] for verdict in errors["error"].to_pylist())
    survivors = table.filter(pa.compute.is_null(table["error"]))
    for number in (0, 3):
        mine = survivors.filter(pa.compute.equal(survivors["object_id"], f"object{number}"))
        assert mine.drop_columns(["object_id", "uri"]).equals(alone.drop_columns(["object_id", "uri"]))


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_schema_and_positions_name_them(name):
    table = rows(name, [GOOD[name][0]()])
    assert table.schema == row_schema()
    assert table["error"].null_count == len(table)
    keys = list(zip(table["modality"].to_pylist(), table["position"].to_pylist(), strict=True))
    assert len(set(keys)) == len(keys)
    assert table["thumbnail"].null_count == (len(table) if name == "text" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_object_makes_the_same_rows(name):
    content = GOOD[name][0]()
    assert rows(name, [content]).equals(rows(name, [content]))


def test_rows_that_are_gone_leave_no_memory_behind():
    """pyarrow 26 keeps every memoryview that it is given: 150 kB a picture, for ever."""
    owner = Media(object_id="o", uri="u", sha256="s", modality="image", media_type="image/png", content=b"x")
    kept = []
    for _ in range(3):
        for _ in range(300):
            batch_of(owner, [Piece(pixels=np.full((224, 224, 3), 7, np.uint8)), Piece(text="no pixels")])
        gc.collect()
        kept.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert kept[-1] - kept[0] < 20 << 20  # 600 pictures are 90 MB
