"""The configuration of a Hugging Face model says how wide its vectors are, before any weight is loaded."""

from __future__ import annotations

from functools import cache
from typing import Any

from raycluster.errors import InvalidUse
from raycluster.stage import need


@cache
def config_of(name: str, revision: str | None) -> Any:
    """Return the model's configuration; the hub is asked once a process.

    Raises:
        InvalidUse: no such model, or it cannot be reached.
    """
    library = need("transformers", '"raycluster[hub]"')
    try:
        return library.AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        at = f" at {revision}" if revision else ""
        raise InvalidUse(
            f"transformers: model {name!r}{at} cannot be loaded: {str(error).splitlines()[0]}",
            fix="name a model of the hub as owner/name@revision, or a folder written by save_pretrained; "
            "with HF_HUB_OFFLINE=1 only cached ones are found",
        ) from error


def has_towers(config: Any) -> bool:
    """Say whether a model puts texts and something else into one space, as CLIP, SigLIP and CLAP do."""
    two = hasattr(config, "text_config") and (hasattr(config, "vision_config") or hasattr(config, "audio_config"))
    return two and (hasattr(config, "projection_dim") or "siglip" in config.model_type)


def known_width(config: Any) -> int | None:
    """Return the length of the vectors that a model gives; None where its configuration does not say it."""
    if has_towers(config):
        # SigLIP projects texts into the space that its picture tower has by itself.
        width = getattr(config, "projection_dim", None) or config.vision_config.hidden_size
    else:
        sizes = getattr(config, "hidden_sizes", None)  # convolutional networks have one a stage
        width = sizes[-1] if sizes else getattr(config, "hidden_size", None)
    return width if isinstance(width, int) else None
