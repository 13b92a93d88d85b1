"""Any classifier of torchvision becomes an encoder, with weights of one's own."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torchvision import models

from raycluster.encode.torchvision import Torchvision, _Network
from raycluster.errors import InvalidUse, NotFound

PIXELS = [np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8) for seed in range(3)]


def trained(folder: Path, kind: str = ".pth", classes: int = 3) -> tuple[str, torch.nn.Module]:
    """Save a small network, as a training run would."""
    torch.manual_seed(1)
    network = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=classes).eval()
    path = folder / f"weights{kind}"
    if kind == ".safetensors":
        from safetensors.torch import save_file

        save_file(network.state_dict(), path)
    else:
        torch.save({"model": network.state_dict(), "epoch": 3} if kind == ".pt" else network.state_dict(), path)
    return str(path), network


@pytest.mark.parametrize(
    ("model", "width"),
    [("resnet50", 2048), ("vit_b_16", 768), ("squeezenet1_0", 512), ("regnet_x_400mf", 400), ("inception_v3", 2048)],
)
def test_width_is_known_without_weights(model: str, width: int) -> None:
    assert Torchvision(model=model).writes == pa.schema([(model, pa.list_(pa.float32(), width))])


@pytest.mark.slow
def test_every_classifier_has_a_width() -> None:
    for model in models.list_models(module=models):
        assert _Network.named(model).width > 0, model


@pytest.mark.parametrize("kind", [".pth", ".pt", ".safetensors"])
def test_weights_of_ones_own_are_used(kind: str, tmp_path: Path) -> None:
    path, network = trained(tmp_path, kind)
    (tmp_path / "names.txt").write_text("cat\ndog\nship\n")
    stage = Torchvision(
        model="shufflenet_v2_x0_5", weights_from=path, labels=str(tmp_path / "names.txt"), column="mine"
    )
    assert stage.writes.names == ["mine", "label", "label_score"]
    found = stage.encoder()(PIXELS)
    # pixels: as ImageNet's networks take them
    colours = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
    images = torch.from_numpy((np.stack(PIXELS) / 255 - colours[0]) / colours[1]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network(images).softmax(1)
    names = ["cat", "dog", "ship"]
    assert found["label"] == [names[index] for index in expected.argmax(1).tolist()]
    assert found["label_score"] == pytest.approx(expected.amax(1).tolist(), abs=1e-4)
    assert np.stack(found["mine"]).shape == (3, 1024)


def test_features_are_what_the_last_layer_sees(tmp_path: Path) -> None:
    path, network = trained(tmp_path)
    (vector,) = Torchvision(model="shufflenet_v2_x0_5", weights_from=path, column="mine").encoder()(PIXELS[:1])["mine"]
    network.fc = torch.nn.Identity()
    image = (torch.from_numpy(PIXELS[0]).permute(2, 0, 1)[None] / 255 - 0.45) / 0.225  # nearly its colours
    with torch.inference_mode():
        near = torch.nn.functional.normalize(network(image))[0].numpy()
    assert vector @ near > 0.99


@pytest.mark.parametrize("model", ["squeezenet1_1", "vit_b_32", "googlenet"])
def test_odd_families_work(model: str) -> None:
    stage = Torchvision(model=model)
    vectors = np.stack(stage.encoder()([np.repeat(np.repeat(PIXELS[0], 2, 0), 2, 1)])[model])
    assert vectors.shape == (1, stage.writes.field(model).type.list_size)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-4)


def test_random_weights_are_the_same_everywhere() -> None:
    torch.manual_seed(5)
    first = Torchvision(model="squeezenet1_1").encoder()(PIXELS)["squeezenet1_1"]
    torch.manual_seed(6)
    second = Torchvision(model="squeezenet1_1").encoder()(PIXELS)["squeezenet1_1"]
    assert np.array_equal(np.stack(first), np.stack(second))


def test_named_weights_know_their_classes() -> None:
    stage = Torchvision(model="resnet50", weights_from="DEFAULT")
    assert stage.revision == "resnet50@IMAGENET1K_V2"
    assert stage.writes.names == ["resnet50", "label", "label_score"]


def test_other_weights_are_another_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (trained(tmp_path / name, classes=size)[0] for name, size in (("a", 3), ("b", 4)))
    stages = [Torchvision(model="shufflenet_v2_x0_5", weights_from=path) for path in (first, second)]
    assert stages[0].revision != stages[1].revision


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for a CPU with g++")
def test_compiled_is_the_same() -> None:
    plain = Torchvision(model="shufflenet_v2_x0_5").encoder()(PIXELS)["shufflenet_v2_x0_5"]
    fast = Torchvision(model="shufflenet_v2_x0_5", compile=True).encoder()(PIXELS)["shufflenet_v2_x0_5"]
    assert np.abs(np.stack(plain) - np.stack(fast)).max() < 1e-3


def test_misspelt_model_gets_the_nearest() -> None:
    with pytest.raises(NotFound, match="resnet50"):
        _ = Torchvision(model="resnet5").writes


def test_misspelt_weights_get_the_nearest() -> None:
    with pytest.raises(NotFound, match="IMAGENET1K_V2"):
        _ = Torchvision(model="resnet50", weights_from="IMAGENET_V2").revision


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InvalidUse, match=r"nowhere\.pth"):
        Torchvision(model="resnet50", weights_from="nowhere.pth").encoder()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path, _ = trained(tmp_path)
    with pytest.raises(InvalidUse, match="vit_b_16"):
        Torchvision(model="vit_b_16", weights_from=path).encoder()
    with pytest.raises(InvalidUse, match="do not fit shufflenet_v2_x1_0"):
        Torchvision(model="shufflenet_v2_x1_0", weights_from=path).encoder()
