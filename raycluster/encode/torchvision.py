"""Pixels become features of any classification network of torchvision, and its label where the classes are known.

Weights are one of torchvision's own (`IMAGENET1K_V2`), a local file of any training run, or none (for tests of shape
and speed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from raycluster import stage
from raycluster.encode import Encode, Encoder
from raycluster.encode._torch import Precision, device, dtype_of, local_sum, stacks
from raycluster.errors import InvalidUse

if TYPE_CHECKING:
    import torch

_FILES = (".pth", ".pt", ".safetensors")
# Colours of ImageNet, in which torchvision trains what does not say otherwise.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Torchvision(Encode):
    """Describes images and frames with a network of torchvision.models.

    model: any name of its classification models, as `resnet50`.
    weights_from: the name of its weights (`DEFAULT`, `IMAGENET1K_V2`), or a local .pth or .safetensors file; left out,
        they are random: the same on every worker, good for nothing but trials.
    labels: a text file with the name of one class a line, for weights of your own.
    column: name of the written column; left out, the model's.
    """

    takes: ClassVar = "pixels"

    model: str
    weights_from: str | None = None
    labels: str | None = None
    column: str | None = None
    dtype: Precision = "float32"
    compile: bool = False

    @property
    def writes(self) -> pa.Schema:
        """Return the features before the last layer, and the likeliest class where classes have names."""
        network = _Network.named(self.model)
        fields = [pa.field(self.column or self.model, pa.list_(pa.float32(), network.width))]
        if self._names():
            fields += [pa.field("label", pa.string()), pa.field("label_score", pa.float32())]
        return pa.schema(fields)

    @property
    def revision(self) -> str:
        """Return the model and its weights: their name, or the sum of a local file."""
        if self._is_file():
            return f"{self.model}@{local_sum(self._file())}"
        return f"{self.model}@{self._packaged() or 'random'}"

    def encoder(self) -> Encoder:
        """Load the weights, downloading torchvision's own the first time."""
        import torch
        from torch.nn.functional import normalize, softmax

        network, dtype = _Network.named(self.model), dtype_of(self.dtype)
        whole, mean, std = self._load(network)
        whole = whole.eval().to(device(), dtype)
        captured: list[torch.Tensor] = []
        whole.get_submodule(network.last).register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
        run = torch.compile(whole) if self.compile else whole
        names, column = self._names(), self.column or self.model

        def encode(pixels: Sequence[Any]) -> Mapping[str, Sequence[Any]]:
            columns: dict[str, list[Any]] = {name: [] for name in self.writes.names}
            with torch.inference_mode():
                for images in stacks(pixels, mean=mean, std=std, dtype=dtype):
                    captured.clear()
                    logits = run(_at_side(images, whole))
                    # features: (image, width), or (image, width, high, wide) before a last convolution
                    features = captured[0].flatten(2).mean(2) if captured[0].dim() > 2 else captured[0]
                    columns[column] += list(normalize(features.float(), dim=1).cpu().numpy())
                    if names:
                        scores, classes = softmax(logits.float(), 1).max(1)
                        columns["label"] += [names[index] for index in classes.tolist()]
                        columns["label_score"] += scores.tolist()
            return columns

        return encode

    def _load(self, network: _Network) -> tuple[torch.nn.Module, Sequence[float], Sequence[float]]:
        """Return the network with its weights, and the mean and deviation of the colours that it was trained with."""
        import torch
        from torchvision.models import get_model, get_model_weights

        if self._is_file():
            state = _read(self._file())
            return network.load(state), _MEAN, _STD
        if weights := self._packaged():
            chosen = get_model_weights(self.model)[weights]
            preset = chosen.transforms()
            return get_model(self.model, weights=chosen), preset.mean, preset.std
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return get_model(self.model, weights=None, **_quiet(self.model)), _MEAN, _STD

    def _is_file(self) -> bool:
        return self.weights_from is not None and self.weights_from.endswith(_FILES)

    def _file(self) -> Path:
        path = Path(self.weights_from or "").expanduser()
        if not path.is_file():
            raise InvalidUse(f"torchvision: no file {self.weights_from!r}", fix="check `weights_from`")
        return path

    def _packaged(self) -> str | None:
        """Return the full name of torchvision's own weights; None where there are none to load."""
        from torchvision.models import get_model_weights

        if self.weights_from is None or self._is_file():
            return None
        known = get_model_weights(self.model)
        if self.weights_from != "DEFAULT" and self.weights_from not in known.__members__:
            raise stage.unknown(f"weights of {self.model}", self.weights_from, list(known.__members__))
        return str(known[self.weights_from].name)

    def _names(self) -> list[str]:
        """Return the names of the classes, none where they are not known."""
        from torchvision.models import get_model_weights

        if self.labels is not None:
            return Path(self.labels).expanduser().read_text().splitlines()
        if weights := self._packaged():
            return list(get_model_weights(self.model)[weights].meta["categories"])
        return []


@dataclass(frozen=True)
class _Network:
    """What is known of a model without its weights: the layer that decides, and the width of what comes before it."""

    model: str
    last: str
    width: int

    @staticmethod
    @cache
    def named(model: str) -> _Network:
        """Build the model without memory for weights, and look at its last layer."""
        import torch
        from torchvision import models

        known = models.list_models(module=models)
        if model not in known:
            raise stage.unknown("torchvision classification model", model, known)
        with _hollow():
            layers = list(models.get_model(model, weights=None, **_quiet(model)).named_modules())
        linear = [(name, layer.in_features) for name, layer in layers if isinstance(layer, torch.nn.Linear)]
        convolution = [(name, layer.in_channels) for name, layer in layers if isinstance(layer, torch.nn.Conv2d)]
        name, width = (linear or convolution)[-1]  # squeezenet decides with a convolution
        return _Network(model, name, width)

    def load(self, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Build the model with as many classes as these weights have, and put them in."""
        from torchvision.models import get_model

        decides = f"{self.last}.weight"
        if decides not in state:
            raise InvalidUse(
                f"torchvision: these weights are not of {self.model}: they have no {decides!r}",
                fix="save model.state_dict() of the same torchvision model",
            )
        model: torch.nn.Module = get_model(
            self.model, weights=None, num_classes=len(state[decides]), **_quiet(self.model)
        )
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise InvalidUse(f"torchvision: these weights do not fit {self.model}: {error}") from error
        return model


def _hollow() -> Any:
    """Return a context in which new weights have a shape but no memory.

    `torch.device("meta")` would also empty the small tensors from which regnet and others compute their shape.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Hollow(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in (torch.empty, torch.zeros, torch.ones, torch.randn):
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    return Hollow()


def _quiet(model: str) -> dict[str, bool]:
    """Return the arguments without which these two warn that their random weights will change one day."""
    return {"init_weights": False} if model in ("googlenet", "inception_v3") else {}


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    # A checkpoint of a training run often holds the weights beside its optimiser's state.
    state: Mapping[str, torch.Tensor] = next((loaded[key] for key in ("model", "state_dict") if key in loaded), loaded)
    return state


def _at_side(images: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """Resize where the network was built for one side only, as vision transformers are."""
    from torch.nn.functional import interpolate

    side = getattr(model, "image_size", images.shape[-1])
    if side == images.shape[-1]:
        return images
    return interpolate(images, (side, side), mode="bilinear", antialias=True)
