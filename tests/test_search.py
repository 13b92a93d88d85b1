"""Questions of every kind are embedded by the encoders that made the dataset, on real photos, words and speech."""

import io
import wave
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from raycluster.declare.workload import Workload, declaration, parse_workload
from raycluster.engine.prepare import prepare, schema_of
from raycluster.engine.run import execute
from raycluster.errors import InvalidUse, NotFound
from raycluster.fetch import Package, fetch
from raycluster.lake.access import EVERYTHING, Access
from raycluster.lake.lake import Lake
from raycluster.lake.table import Table
from raycluster.search import Question, answer, answer_all, ask, embed, embed_texts

PHOTOS = Package(
    client="pypi",
    name="scikit-image",
    version="0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    licence="per file",
)
# Somebody reads from Samuel Beckett's Worstward Ho: "Ever tried. Ever failed. No matter. Try again. ..."
SPEECH = Package(
    client="pypi",
    name="useful-moonshine-onnx",
    version="20251121",
    sha256="b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2",
    licence="MIT",
)
TEXTS = {
    "failing": "Whoever never failed has not tried; fail better the next time.",
    "bread": "Bread is baked from flour, water and salt.",
    "sea": "The lighthouse stands on a rock above the sea.",
}


def workload(corpus: Path, encoders: str) -> Workload:
    return parse_workload(
        dedent(f"""
        apiVersion: raycluster/v1
        kind: Workload
        metadata: {{name: w, labels: {{team: t}}}}
        spec:
          source: {{files: {{paths: ["{corpus}"]}}}}
          decode: {{text: {{}}, image: {{}}, audio: {{}}}}
          encode: {encoders}
          sink: {{dataset: d}}
        """)
    )


def sound(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    photos = fetch(PHOTOS) / "skimage" / "data"
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        (folder / name).write_bytes((photos / name).read_bytes())
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text + "\n")
    seconds = np.arange(48_000) / 16_000
    bell = np.sin(2 * np.pi * 880 * seconds) * np.exp(-3 * (seconds % 1.0)) * 0.5
    (folder / "bell.wav").write_bytes(sound(bell))
    (folder / "hush.wav").write_bytes(sound(seconds * 0))
    (folder / "beckett.wav").write_bytes((fetch(SPEECH) / "moonshine_onnx/assets/beckett.wav").read_bytes())
    return folder


@pytest.fixture(scope="module")
def table(corpus: Path, tmp_path_factory: pytest.TempPathFactory, cluster: object) -> Table:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    work = workload(corpus, "[{use: whisper}, {use: minilm}, {use: efficientnet}, {use: sound_events}]")
    summary = execute(prepare(work, lake), lake)
    assert (summary.status, summary.objects, summary.quarantined) == ("done", 9, 0)
    return lake.existing("d")


@pytest.fixture
def bare(tmp_path: Path) -> Any:
    """Make an empty dataset whose encoders are the given ones."""

    def make(encoders: str) -> Table:
        work = workload(tmp_path, encoders)
        made = Lake(str(tmp_path / "bare")).table("d")
        made.create_or_check(schema_of(work), [declaration("encode", one) for one in work.encode])
        made.set_live(made.version())
        return made

    return make


def names(answer: dict[str, Any]) -> list[str]:
    return [Path(hit["uri"]).stem for hit in answer["hits"]]


def test_text_finds_text_pictures_and_speech(table: Table) -> None:
    assert names(ask(table, Question(text="a cat")))[0] == "chelsea"
    assert names(ask(table, Question(text="a cup of coffee")))[0] == "coffee"
    assert names(ask(table, Question(text="baking a loaf")))[0] == "bread"
    heard = ask(table, Question(text="no matter, try again", filter="modality = 'audio'"))
    assert names(heard)[0] == "beckett"
    assert "again" in heard["hits"][0]["text"].lower()


def test_the_answer_is_shaped_as_promised(table: Table) -> None:
    answer = ask(table, Question(text="a cat", k=2, columns=("sha256",)))
    assert set(answer) == {"dataset", "version", "took_ms", "hits"}
    assert (answer["dataset"], answer["version"], len(answer["hits"])) == ("d", table.live(), 2)
    wanted = {"id", "uri", "modality", "score", "start_seconds", "end_seconds", "text", "position", "label", "sha256"}
    assert wanted <= set(answer["hits"][0])
    assert answer["hits"][0]["label"] == "tiger cat"


def test_words_are_looked_up_without_any_model(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster.search.Encoders", lambda *_: pytest.fail("no encoder is needed"))
    assert names(ask(table, Question(text="lighthouse", mode="text"))) == ["sea"]


def test_hybrid_is_words_and_meaning(table: Table) -> None:
    assert names(ask(table, Question(text="salt and water", mode="hybrid")))[0] == "bread"


def test_a_picture_finds_itself_and_is_compared_in_its_own_space(table: Table, corpus: Path) -> None:
    answer = ask(table, Question(image=(corpus / "rocket.jpg").read_bytes()))
    assert names(answer)[0] == "rocket"
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert {hit["modality"] for hit in answer["hits"]} == {"image"}


def test_speech_is_heard_and_asked_as_text(table: Table, corpus: Path) -> None:
    answer = ask(table, Question(audio=(corpus / "beckett.wav").read_bytes()))
    assert names(answer)[0] == "beckett"
    assert names(answer).index("failing") < min(names(answer).index(other) for other in ("bread", "sea", "coffee"))
    words = ask(table, Question(audio=(corpus / "beckett.wav").read_bytes(), mode="text"))
    assert names(words)[0] == "beckett"


def test_a_sound_without_words_is_compared_in_its_own_space(table: Table, corpus: Path) -> None:
    answer = ask(table, Question(audio=(corpus / "bell.wav").read_bytes()))
    assert names(answer)[0] == "bell"
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-2)
    assert {hit["modality"] for hit in answer["hits"]} == {"audio"}
    row = answer["hits"][0]["id"]
    assert ask(table, Question(id=row))["hits"][0]["id"] == row


def test_a_row_finds_itself_first(table: Table) -> None:
    row = ask(table, Question(text="baking a loaf"))["hits"][0]["id"]
    answer = ask(table, Question(id=row))
    assert answer["hits"][0]["id"] == row
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert ask(table, Question(id=row, mode="hybrid"))["hits"][0]["id"] == row


def test_a_vector_is_asked_as_it_is_in_the_space_that_is_named(table: Table) -> None:
    row = ask(table, Question(text="a cup of coffee", k=1, columns=("vector", "efficientnet")))["hits"][0]
    for space in ("vector", "efficientnet"):
        found = ask(table, Question(vector=tuple(row[space]), column=space))["hits"][0]
        assert (found["id"], found["score"]) == (row["id"], pytest.approx(1, abs=1e-3))
        assert ask(table, Question(id=row["id"], column=space))["hits"][0]["id"] == row["id"]
    with pytest.raises(InvalidUse, match="has no vector"):
        ask(table, Question(id=ask(table, Question(text="a loaf"))["hits"][0]["id"], column="efficientnet"))


def test_a_picture_and_words_are_asked_together(table: Table, corpus: Path) -> None:
    photo = (corpus / "rocket.jpg").read_bytes()
    asked = {"image": photo, "text": "lighthouse above the sea", "mode": "hybrid", "explain": True}
    best = ask(table, Question(**asked))["hits"][:2]
    assert {Path(hit["uri"]).stem for hit in best} == {"rocket", "sea"}
    assert [set(hit["why"]) - {"mode", "matched"} for hit in best if "sea" in hit["uri"]] == [{"text"}]
    assert names(ask(table, Question(**asked, weights=(0.0, 1.0))))[0] == "sea"
    assert names(ask(table, Question(**asked, weights=(1.0, 0.0))))[0] == "rocket"


def test_several_texts_are_embedded_at_once(table: Table) -> None:
    found = embed_texts(table, "live", ["a cat", "baking a loaf"])
    for text, one in zip(("a cat", "baking a loaf"), found, strict=True):
        assert one.vector == pytest.approx(embed(table, Question(text=text)).vector, abs=1e-5)
        assert names(answer(table, Question(text=text), one)) == names(ask(table, Question(text=text)))


def test_datasets_that_see_a_question_otherwise_are_merged_by_rank(table: Table, corpus: Path) -> None:
    photo = Question(image=(corpus / "rocket.jpg").read_bytes())
    own = embed(table, photo)
    same = answer_all([(table, own, EVERYTHING), (table, own, EVERYTHING)], photo)
    assert [hit["score"] for hit in same["hits"][:2]] == pytest.approx([1, 1], abs=1e-3)
    words = embed(table, Question(text="a rocket"))
    mixed = answer_all([(table, own, EVERYTHING), (table, words, EVERYTHING)], photo)
    assert [hit["score"] for hit in mixed["hits"][:3]] == [1 / 61, 1 / 61, 1 / 62]


def test_what_is_hidden_is_hidden_from_every_question(table: Table, corpus: Path) -> None:
    access = Access(filters=("modality <> 'image'",), masks={"label": "'hidden'"})
    photo = Question(image=(corpus / "rocket.jpg").read_bytes())
    row = ask(table, photo)["hits"][0]["id"]
    assert ask(table, photo, access=access)["hits"] == []
    assert "image" not in {hit["modality"] for hit in ask(table, Question(text="a rocket"), access=access)["hits"]}
    with pytest.raises(NotFound):
        ask(table, Question(id=row), access=access)
    shown = ask(table, Question(text="a rocket"), access=Access(masks={"label": "'hidden'"}))["hits"]
    assert {hit["label"] for hit in shown} == {"hidden"}


@pytest.mark.parametrize(
    ("question", "where", "message"),
    [
        (Question(), "text", "got none"),
        (Question(text="a", image=b"b"), "text", "got text and image"),
        (Question(text="a", id="b"), "text", "got text and id"),
        (Question(text=" \n"), "text", "is empty"),
        (Question(text="\ud800"), "text", "half a character"),
        (Question(text="a", image=b"b", id="c", mode="hybrid"), "text", "got text and image and id"),
        (Question(vector=(1.0,)), "vector", "has 1 dimensions"),
        (Question(vector=(1.0,) * 384, mode="hybrid"), "text", "needs text"),
        (Question(vector=(1.0,), column="text"), "column", "not vectors"),
        (Question(image=b"GIF89a, it says"), "image", "the image cannot be used"),
        (Question(image=b""), "image", "has no bytes"),
        (Question(image=b"just words, in a file of any name\n"), "image", "text/plain is not an image format"),
        (Question(audio=b"just words, in a file of any name\n"), "audio", "the audio cannot be used"),
        (Question(audio=b""), "audio", "has no bytes"),
        (Question(audio=sound(np.zeros(16_000)), mode="text"), "text", "a text search needs text"),
        (Question(text="a", columns=("thumbnail",)), "columns", "holds pictures"),
        (Question(text="a", columns=("lable",)), "columns", "lable"),
        (Question(text="a", filter="modality ="), "filter", "is no condition"),
    ],
)
def test_a_wrong_question_names_what_is_wrong(table: Table, question: Question, where: str, message: str) -> None:
    with pytest.raises(InvalidUse) as caught:
        ask(table, question)
    assert caught.value.where == where
    assert message in caught.value.message


def test_what_is_not_there_is_not_found(table: Table) -> None:
    with pytest.raises(NotFound, match="no version 99"):
        ask(table, Question(text="a", version=99))
    with pytest.raises(NotFound, match="no row 'x'"):
        ask(table, Question(id="x"))


@pytest.mark.parametrize(
    ("encoders", "question", "message"),
    [
        ("[{use: sound_events}]", Question(text="a"), "no encoder that puts text into its shared space"),
        ("[{use: minilm}]", Question(image=b"PHOTO"), "no encoder of pictures"),
        ("[{use: minilm}]", Question(audio=b"SOUND"), "nothing in this recording can be searched for"),
        ("[]", Question(text="a"), "no encoder that puts text"),
    ],
)
def test_without_an_encoder_for_it_nothing_can_be_asked(
    bare: Any, corpus: Path, encoders: str, question: Question, message: str
) -> None:
    if question.image:
        question = Question(image=(corpus / "rocket.jpg").read_bytes())
    if question.audio:
        question = Question(audio=(corpus / "beckett.wav").read_bytes())
    with pytest.raises(InvalidUse, match=message):
        ask(bare(encoders), question)


def test_pictures_alone_can_be_asked_in_words(bare: Any) -> None:
    assert ask(bare("[{use: efficientnet}]"), Question(text="a cat"))["hits"] == []
