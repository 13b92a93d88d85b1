"""Libraries that are installed become findings: whether they can be loaded, and do what is asked of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

from raycluster.cluster.look import Finding, Site

# What decoding meets most; a build of ffmpeg without them quarantines most of a corpus.
_CODECS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "flac", "mjpeg", "pcm_s16le")
_SET = "install torch and torchvision as one set, from one index: uv pip install -r requirements.txt"
_AGAIN = "pip install --force-reinstall --no-deps {}"


def look(_: Site) -> Iterator[Finding]:
    """Load each library as its users do."""
    loaded = []
    checks: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("av", _ffmpeg, _AGAIN.format("av")),
        ("lance", _version_of("lance"), _AGAIN.format("pylance")),
        ("cykooz_resizer", _version_of("cykooz_resizer"), _AGAIN.format("cykooz-resizer")),
        ("onnxruntime", _version_of("onnxruntime"), _AGAIN.format("onnxruntime")),
        ("faiss", _version_of("faiss"), _AGAIN.format("faiss-cpu")),
        ("torch", _torches, _SET),
        ("ray", _version_of("ray.data"), _AGAIN.format("ray")),
    )
    for name, check, fix in checks:
        try:
            lacking = check()
        except Exception as error:  # noqa: BLE001 - whatever a broken library raises
            words = str(error).strip().splitlines() or [""]
            yield Finding("problem", f"{name} is installed and cannot be used: {words[-1]}", fix=fix)
            continue
        if lacking:
            yield Finding("problem", lacking, fix=fix)
        else:
            loaded.append(name)
    if loaded:
        yield Finding("ok", f"loaded and working: {', '.join(loaded)}")


def _version_of(module: str) -> Callable[[], str]:
    def check() -> str:
        importlib.import_module(module)
        return ""

    return check


def _ffmpeg() -> str:
    import av.codec

    lacking = [name for name in _CODECS if name not in av.codec.codecs_available]
    return f"this build of ffmpeg cannot decode {', '.join(lacking)}" if lacking else ""


def _torches() -> str:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(boxes, torch.ones(1), 0.5)  # the operator that is missing where the two do not match
    return ""
