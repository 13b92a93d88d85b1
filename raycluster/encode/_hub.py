"""A Hugging Face model becomes the function of one batch, for each kind of payload; see `transformers.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raycluster.encode import Encoder, Sound
from raycluster.encode._torch import device, dtype_of
from raycluster.encode._towers import config_of, known_width
from raycluster.errors import InvalidUse
from raycluster.stage import need

if TYPE_CHECKING:
    import torch

_INSTALL = '"raycluster[hub]"'
# Tokens a window where neither tokenizer nor configuration knows a limit (T5), and the most where they know a large
# one: attention grows with the square.
_WINDOW = 512
# The peak of what counts as silence: -60 dB. Speech models make words up from it.
_SILENCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One model at one revision, and how it is used; the fields are those of `Transformers`."""

    name: str  # hub id or local folder
    revision: str | None
    kind: str
    dtype: str
    compile: bool
    batch: int
    pooling: str
    prefix: str
    language: str | None
    columns: tuple[str, ...]
    width: int  # 0 for speech, which writes no vector


def texts(checkpoint: Checkpoint) -> Encoder:
    """Return the function of a sentence encoder, or of the text tower of a CLIP-like model."""
    tokenizer, model = _pretrained(checkpoint, "AutoTokenizer"), _model(checkpoint)
    towers = hasattr(model, "get_text_features")
    if not towers and model.config.is_encoder_decoder:
        model = model.get_encoder()
    limit = _limit(tokenizer, model.config)
    run = _run(checkpoint, model, "get_text_features" if towers else None)
    # SigLIP learnt from texts filled up to a fixed length, and without them gives other vectors.
    padding = "max_length" if "siglip" in model.config.model_type else True
    windows = not towers and tokenizer.is_fast

    def encode(batch: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        written = [checkpoint.prefix + text for text in batch]
        shape: dict[str, Any] = {"truncation": True, "max_length": limit, "padding": padding, "return_tensors": "pt"}
        tokens = tokenizer(written, return_overflowing_tokens=windows, **shape)
        # owners: (window,) which text each window is of; all but long texts have one
        owners = tokens.pop("overflow_to_sample_mapping", np.arange(len(batch)))
        # sums: (text, width) float32, windows weighted by their tokens
        sums = np.zeros((len(batch), checkpoint.width), np.float32)
        for start in range(0, len(owners), checkpoint.batch):
            part = {name: tensor[start : start + checkpoint.batch] for name, tensor in tokens.items()}
            mask = part.get("attention_mask", (part["input_ids"] != tokenizer.pad_token_id).long())
            vectors = run(part, mask)
            np.add.at(
                sums, np.asarray(owners[start : start + checkpoint.batch]), vectors * mask.sum(1, keepdim=True).numpy()
            )
        return _columns(checkpoint, sums)

    return encode


def images(checkpoint: Checkpoint) -> Encoder:
    """Return the function of a picture encoder."""
    processor, model = _pretrained(checkpoint, "AutoImageProcessor"), _model(checkpoint)
    run = _run(checkpoint, model, "get_image_features" if hasattr(model, "get_image_features") else None)

    def encode(batch: Sequence[npt.NDArray[np.uint8]]) -> Mapping[str, Sequence[Any]]:
        parts = [
            # The processor resizes, crops and normalises as this model was trained.
            run(dict(processor(images=list(same), return_tensors="pt", input_data_format="channels_last")))
            for _, same in groupby(batch, key=len)
        ]
        return _columns(checkpoint, np.concatenate(parts))

    return encode


def sounds(checkpoint: Checkpoint) -> Encoder:
    """Return the function of an audio encoder. Only sounds of one length share a call: none hears another's padding."""
    extractor, model = _pretrained(checkpoint, "AutoFeatureExtractor"), _model(checkpoint)
    towers = hasattr(model, "get_audio_features")
    if not towers and model.config.is_encoder_decoder:
        model = model.get_encoder()
    run = _run(checkpoint, model, "get_audio_features" if towers else None)
    fixed = getattr(extractor, "n_samples", None)  # Whisper hears 30 s, whatever is there

    def encode(batch: Sequence[Sound]) -> Mapping[str, Sequence[Any]]:
        parts = []
        for length, same in groupby((sound.at(extractor.sampling_rate) for sound in batch), key=len):
            inputs = extractor(list(same), sampling_rate=extractor.sampling_rate, return_tensors="pt")
            parts.append(run(dict(inputs), heard=min(1.0, length / fixed) if fixed else 1.0))
        return _columns(checkpoint, np.concatenate(parts))

    return encode


def speech(checkpoint: Checkpoint) -> Encoder:
    """Return the function of a speech recogniser, of the CTC or of the Whisper family."""
    library = need("transformers", _INSTALL)
    config_of(checkpoint.name, checkpoint.revision)  # says in one line what is wrong with a name
    dtype, where = dtype_of(checkpoint.dtype), device()
    listen = library.pipeline(
        "automatic-speech-recognition", checkpoint.name, revision=checkpoint.revision, dtype=dtype, device=where
    )
    rate = listen.feature_extractor.sampling_rate
    options: dict[str, Any] = {} if where.type == "cpu" else {"batch_size": checkpoint.batch}
    if listen.type == "seq2seq_whisper":
        # Beyond 30 s Whisper finds its place again by the times that it writes down.
        options["return_timestamps"] = True
        if checkpoint.language and getattr(listen.model.generation_config, "is_multilingual", True):
            options["generate_kwargs"] = {"language": checkpoint.language, "task": "transcribe"}

    def encode(batch: Sequence[Sound]) -> Mapping[str, Sequence[Any]]:
        heard = [index for index, sound in enumerate(batch) if np.abs(sound.samples).max(initial=0.0) > _SILENCE]
        written: list[str | None] = [None] * len(batch)
        found = listen([{"raw": batch[index].at(rate), "sampling_rate": rate} for index in heard], **options)
        for index, result in zip(heard, found, strict=True):
            written[index] = result["text"].strip() or None
        return {"text": written}

    return encode


def _pretrained(checkpoint: Checkpoint, kind: str, **options: Any) -> Any:
    library = need("transformers", _INSTALL)
    try:
        return getattr(library, kind).from_pretrained(checkpoint.name, revision=checkpoint.revision, **options)
    except (OSError, ValueError) as error:
        raise InvalidUse(
            f"transformers: {kind} finds nothing to load in {checkpoint.name!r} for kind {checkpoint.kind!r}: "
            f"{str(error).splitlines()[0]}",
            fix="check `model` and `kind`",
        ) from error


def _model(checkpoint: Checkpoint) -> Any:
    """Load the model onto this worker's device.

    Raises:
        InvalidUse: its vectors are not as wide as the stage declares.
    """
    model = _pretrained(checkpoint, "AutoModel", dtype=dtype_of(checkpoint.dtype))
    found = known_width(model.config)
    if found not in (None, checkpoint.width):
        raise InvalidUse(
            f"transformers: {checkpoint.name!r} gives vectors of {found} numbers, `width` says {checkpoint.width}",
            fix=f"write `width: {found}`, or leave it out",
        )
    return model.eval().to(device())


def _run(checkpoint: Checkpoint, model: Any, tower: str | None) -> Callable[..., npt.NDArray[np.float32]]:
    """Return the function from a model's inputs to unit vectors.

    tower: the model's own method that does all of it; without one its last hidden states are pooled.
    """
    import torch

    whole = getattr(model, tower) if tower else model
    whole = torch.compile(whole) if checkpoint.compile else whole

    def run(
        inputs: dict[str, torch.Tensor], mask: torch.Tensor | None = None, *, heard: float = 1.0
    ) -> npt.NDArray[np.float32]:
        # Numbers go in in the model's precision, token ids stay integers.
        inputs = {
            name: tensor.to(device(), model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        with torch.inference_mode():
            output = whole(**inputs)
            if tower:
                pooled = output if isinstance(output, torch.Tensor) else output.pooler_output
            else:
                pooled = _pool(checkpoint, output, mask, heard)
            # (row, width)
            unit: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy()
            return unit

    return run


def _pool(checkpoint: Checkpoint, output: Any, mask: torch.Tensor | None, heard: float) -> torch.Tensor:
    """Make one vector a row of its last hidden states.

    A model's own pooler is left alone: in most checkpoints it was never trained.
    Shapes: (row, token, width), or (row, width, high, wide) of a convolutional network -> (row, width)
    """
    hidden: torch.Tensor = output.last_hidden_state.float()
    if hidden.dim() == 4:
        return hidden.flatten(2).mean(2)
    if checkpoint.pooling == "cls":
        return hidden[:, 0]
    if mask is None or mask.shape[1] != hidden.shape[1]:
        return hidden[:, : max(1, round(heard * hidden.shape[1]))].mean(1)
    weights = mask.to(hidden.device, hidden.dtype)[:, :, None]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _limit(tokenizer: Any, config: Any) -> int:
    """Return the tokens a window: the least of what tokenizer, positions and cost allow."""
    text = getattr(config, "text_config", config)
    return int(min(tokenizer.model_max_length, getattr(text, "max_position_embeddings", _WINDOW), _WINDOW))


def _columns(checkpoint: Checkpoint, vectors: npt.NDArray[np.float32]) -> Mapping[str, Sequence[Any]]:
    """Give the vectors, of unit length, under every name that the stage writes."""
    rows = list(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
    return dict.fromkeys(checkpoint.columns, rows)
