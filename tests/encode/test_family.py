"""Every encoder keeps the laws of its family."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from raycluster import stage as stages
from raycluster.encode import Encode, Sound
from raycluster.encode.efficientnet import Efficientnet
from raycluster.encode.minilm import Minilm
from raycluster.encode.ocr import Ocr
from raycluster.encode.sound_events import SoundEvents
from raycluster.encode.torchvision import Torchvision
from raycluster.encode.transformers import Transformers
from raycluster.encode.whisper import Whisper

HEAVY = ("torch", "torchvision", "torchaudio", "transformers", "onnxruntime", "PIL", "faster_whisper", "tokenizers")
MEMBERS = ["minilm", "efficientnet", "whisper", "sound_events", "ocr", "torchvision", "transformers"]


@dataclass(frozen=True)
class Member:
    stage: Encode
    payloads: list[Any]  # four that give a value
    work: Callable[[pa.RecordBatch], pa.RecordBatch]
    made: list[list[Any]]  # their values, one list a written column


def _page(text: str) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(picture).text((30, 30), text, fill="black", font=ImageFont.load_default(36))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _tiny_vit(folder: Path) -> str:
    import transformers

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **small)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def _payloads(stage: Encode, request: pytest.FixtureRequest) -> list[Any]:
    random = np.random.default_rng(0)
    if stage.takes == "text":
        return ["a cat", "the quick brown fox jumps over the lazy dog", "tea", "a ship sails"]
    if stage.takes == "page":
        return [_page(word) for word in ("Invoice", "Summary", "Appendix", "Contents")]
    if stage.takes == "pixels":
        return [random.integers(0, 255, (side, side, 3), dtype=np.uint8) for side in (64, 96, 64, 80)]
    if stage.name == "whisper":
        said = request.getfixturevalue("prompts")
        names = ("auth-incorrect", "cancelled", "all-circuits-busy-now", "agent-loggedoff")
        return [said[name].sound for name in names]
    return [
        Sound(random.standard_normal(length).astype(np.float32) * 0.1, 16_000) for length in (9_000, 32_000, 100, 9)
    ]


@pytest.fixture(scope="session", params=MEMBERS)
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rows: Any) -> Member:
    made: dict[str, Callable[[], Encode]] = {
        "minilm": Minilm,
        "efficientnet": Efficientnet,
        "whisper": Whisper,
        "sound_events": SoundEvents,
        "ocr": Ocr,
        "torchvision": lambda: Torchvision(model="shufflenet_v2_x0_5"),
        "transformers": lambda: Transformers(model=_tiny_vit(tmp_path_factory.mktemp("vit") / "vit"), kind="image"),
    }
    stage = made[request.param]()
    payloads, work = _payloads(stage, request), stage.open()
    return Member(stage, payloads, work, values(work(rows(payloads)), stage))


def failing(stage: Encode, fails: Callable[[list[Any]], Exception | None], **changes: Any) -> Encode:
    """Return the same stage, whose real model also fails where `fails` says so."""

    class Failing(type(stage)):  # type: ignore[misc]
        def encoder(self) -> Any:
            real = super().encoder()

            def encode(inputs: Any) -> Any:
                if error := fails(inputs):
                    raise error
                return real(inputs)

            return encode

    fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
    return Failing(**(fields | changes))


def values(rows: pa.RecordBatch, stage: Encode) -> list[list[Any]]:
    return [rows.column(name).to_pylist() for name in stage.writes.names]


def alike(left: list[list[Any]], right: list[list[Any]]) -> bool:
    """Say whether two results agree to what a different batch changes in the last digits."""
    for mine, yours in zip(left, right, strict=True):
        for one, other in zip(mine, yours, strict=True):
            same = one == other if isinstance(one, str) or one is None else np.allclose(one, other, atol=1e-3)
            if not same:
                return False
    return True


def test_every_member_is_tested() -> None:
    assert sorted(MEMBERS) == stages.names("encode")


def test_listing_and_importing_is_light() -> None:
    script = (
        "import sys, time; import pyarrow, numpy, pydantic\n"
        "start = time.process_time()\n"
        "from raycluster import stage\n"
        "found = [stage.find('encode', name) for name in stage.names('encode')]\n"
        "[member().writes for member in found if member.__name__ not in ('Torchvision', 'Transformers')]\n"
        f"print(time.process_time() - start, *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, *loaded = ended.stdout.split()
    assert loaded == []
    assert float(seconds) < 0.5


def test_it_is_a_value(member: Member) -> None:
    copied = pickle.loads(pickle.dumps(member.stage))
    assert copied == member.stage
    assert (copied.digest, copied.revision, copied.writes) == (
        member.stage.digest,
        member.stage.revision,
        member.stage.writes,
    )


def test_yaml_takes_its_fields_and_no_others(member: Member) -> None:
    adapter = TypeAdapter(type(member.stage))
    required = {
        field.name: getattr(member.stage, field.name)
        for field in dataclasses.fields(member.stage)
        if field.default is dataclasses.MISSING
    }
    assert adapter.validate_json(json.dumps(required), strict=True) == member.stage
    with pytest.raises(ValidationError, match="colour"):
        adapter.validate_json(json.dumps(required | {"colour": "red"}), strict=True)
    with pytest.raises(ValidationError, match="batch"):
        adapter.validate_json(json.dumps(required | {"batch": 0}), strict=True)


def test_it_writes_what_it_says_and_touches_nothing_else(member: Member, rows: Any) -> None:
    batch = rows([*member.payloads, None])
    before = batch.to_pydict()
    filled = member.work(batch)
    assert batch.to_pydict() == before
    for field in member.stage.writes:
        assert filled.schema.field(field.name).type == field.type
        assert filled.column(field.name).is_valid().to_pylist() == [True] * 4 + [False], field.name
    others = [name for name in batch.schema.names if name not in member.stage.writes.names]
    assert filled.select(others).equals(batch.select(others))
    assert filled.column("error").null_count == 5


def test_rows_keep_their_order(member: Member, rows: Any) -> None:
    back = values(member.work(rows(member.payloads[::-1])), member.stage)
    assert alike(member.made, [column[::-1] for column in back])


def test_it_is_pure(member: Member, rows: Any) -> None:
    assert values(member.work(rows(member.payloads)), member.stage) == member.made


def test_rows_with_an_error_stay_as_they_are(member: Member, rows: Any) -> None:
    batch = rows(member.payloads)
    error = [None, {"code": "corrupt", "message": "before"}, None, None]
    index = batch.schema.get_field_index("error")
    batch = batch.set_column(index, batch.schema.field(index), pa.array(error, batch.schema.field(index).type))
    filled = member.work(batch)
    assert filled.column("error").to_pylist() == error
    for name in member.stage.writes.names:
        old = batch.column(name)[1].as_py() if name in batch.schema.names else None
        assert filled.column(name)[1].as_py() == old


def test_a_batch_of_nothing_is_fine(member: Member, rows: Any) -> None:
    for batch in (rows([None, None]), rows([None]).slice(0, 0)):
        filled = member.work(batch)
        assert filled.num_rows == batch.num_rows
        for field in member.stage.writes:
            assert filled.schema.field(field.name).type == field.type
            assert filled.column(field.name).null_count == batch.num_rows


def test_one_bad_row_never_costs_its_batch(member: Member, rows: Any) -> None:
    guilty = member.stage.weight(member.payloads[1])

    def fails(inputs: list[Any]) -> Exception | None:
        bad = any(member.stage.weight(one) == guilty for one in inputs)
        return ZeroDivisionError("this one") if bad else None

    assert sum(member.stage.weight(one) == guilty for one in member.payloads) == 1
    filled = failing(member.stage, fails, batch=4).open()(rows(member.payloads))
    codes = [error and error["code"] for error in filled.column("error").to_pylist()]
    assert codes == [None, "model_error", None, None]
    assert "ZeroDivisionError: this one" in filled.column("error")[1]["message"].as_py()
    kept = values(filled, member.stage)
    for column in kept:
        assert column[1] is None or member.stage.takes == "text"
    assert alike([column[2:] for column in kept], [column[2:] for column in member.made])


def test_out_of_memory_halves_the_batch_and_goes_on(member: Member, rows: Any) -> None:
    sizes: list[int] = []

    def fails(inputs: list[Any]) -> Exception | None:
        sizes.append(len(inputs))
        return MemoryError() if len(inputs) > 2 else None

    work = failing(member.stage, fails, batch=4).open()
    filled = work(rows(member.payloads))
    assert filled.column("error").null_count == 4
    assert sizes == [4, 2, 2]
    assert alike(values(filled, member.stage), member.made)
    work(rows(member.payloads))
    assert sizes == [4, 2, 2, 2, 2]  # it does not try again what did not fit


def test_a_row_that_fits_nowhere_says_so(member: Member, rows: Any) -> None:
    most = max(member.payloads, key=member.stage.weight)

    def fails(inputs: list[Any]) -> Exception | None:
        return MemoryError() if any(member.stage.weight(one) == member.stage.weight(most) for one in inputs) else None

    filled = failing(member.stage, fails, batch=4).open()(rows(member.payloads))
    codes = [error and error["code"] for error in filled.column("error").to_pylist()]
    assert codes.count("out_of_memory") == 1
    assert codes.count(None) == 3
