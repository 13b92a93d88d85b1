"""GPUs become findings: the hardware, NVIDIA's driver, its library, and whether torch can compute on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycluster.cluster.look import Finding, Site
from raycluster.units import show_bytes

_NVIDIA, _DISPLAY = "0x10de", "0x03"
_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install --gpgpu), or start from an image that has it"
_CONTAINER = "start the container with the NVIDIA runtime: docker run --gpus all, or Kubernetes' nvidia.com/gpu"
_TORCH = "install the set of torches that is built for CUDA: uv pip install -r requirements.txt"
_BUSY_SHARE = 0.5  # of a GPU's memory, held before anything of ours runs


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What each layer says about this machine's GPUs."""

    cards: int = 0  # on the PCI bus
    driver: str = ""  # version of the kernel's
    nvml: str = ""  # why NVIDIA's library does not answer; empty where it does, or is not asked
    names: tuple[str, ...] = ()
    memory: tuple[tuple[int, int], ...] = ()  # free and total bytes
    cuda: tuple[int, int] = (0, 0)  # the latest version that the driver runs
    build: str = ""  # the CUDA that torch is built for; empty for a CPU's
    usable: int = 0  # that torch has computed on
    trouble: str = ""  # what torch said
    hidden: dict[str, str] = field(default_factory=dict)  # variables that hide GPUs


def look(_: Site) -> Iterator[Finding]:
    """Ask each layer, from the bus upwards."""
    yield from verdicts(_seen())


def verdicts(seen: Seen) -> Iterator[Finding]:
    """Say what follows: the lowest layer that fails explains those above it."""
    if not seen.names:
        yield _none(seen)
        return
    told = ", ".join(dict.fromkeys(seen.names))
    version = ".".join(map(str, seen.cuda))
    if seen.usable == len(seen.names):
        yield Finding("ok", f"torch computes on {seen.usable} of {len(seen.names)} GPUs ({told}), driver {seen.driver}")
    elif seen.hidden:
        names = ", ".join(f"{name}={value}" for name, value in seen.hidden.items())
        what = f"torch sees {seen.usable} of {len(seen.names)} GPUs ({told}): {names} hides the others"
        yield Finding("warning", what, fix=f"unset {' '.join(seen.hidden)}, unless that is meant")
    elif not seen.build:
        yield Finding("problem", f"there are GPUs ({told}), and this torch is built for a CPU", fix=_TORCH)
    elif seen.cuda[0] < int(seen.build.partition(".")[0]):
        what = f"the driver {seen.driver} runs CUDA {version} at most, torch is built for {seen.build}"
        yield Finding("problem", what, fix=f"update the driver, or install torches built for CUDA {seen.cuda[0]}")
    else:
        what = (
            f"torch computes on {seen.usable} of {len(seen.names)} GPUs ({told}): {seen.trouble or 'it sees no more'}"
        )
        yield Finding(
            "problem", what, fix="look at nvidia-smi and at `dmesg | grep -i xid`; a reset or a restart may mend it"
        )
    for index, (free, total) in enumerate(seen.memory):
        if free < total * (1 - _BUSY_SHARE):
            what = f"{show_bytes(free)} of {show_bytes(total)} are free on GPU {index}: somebody else computes there"
            yield Finding("warning", what, fix="look who: nvidia-smi; Ray does not know of them")


def _none(seen: Seen) -> Finding:
    if seen.driver and seen.nvml:
        what = f"the driver {seen.driver} is loaded, and its library does not answer: {seen.nvml}"
        mismatch = "mismatch" in seen.nvml.lower()
        fix = "restart: the driver was updated under a running kernel" if mismatch else _CONTAINER
        return Finding("problem", what, fix=fix)
    if seen.cards and not seen.driver:
        return Finding("problem", f"{seen.cards} NVIDIA cards, and no driver for them", fix=_INSTALL)
    if seen.driver:
        return Finding("problem", f"the driver {seen.driver} is loaded, and finds no GPU", fix=_CONTAINER)
    return Finding("note", "there is no NVIDIA GPU here; everything runs on CPUs")


def _seen() -> Seen:
    cards = sum(
        (device / "vendor").read_text().strip() == _NVIDIA and (device / "class").read_text().startswith(_DISPLAY)
        for device in _folder(Path("/sys/bus/pci/devices"))
    )
    words = _DRIVER.read_text().split() if _DRIVER.is_file() else []
    driver = next((word for word in words if word[0].isdigit() and "." in word), "")
    return Seen(cards=cards, driver=driver, **_asked())


def _folder(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _asked() -> dict[str, Any]:
    """Ask NVIDIA's library, and torch where there is a GPU to compute on."""
    import pynvml

    try:
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        if not devices:
            return {}
        rooms = [pynvml.nvmlDeviceGetMemoryInfo(device) for device in devices]
        version = pynvml.nvmlSystemGetCudaDriverVersion()
        found = {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "names": tuple(str(pynvml.nvmlDeviceGetName(device)) for device in devices),
            "memory": tuple((int(room.free), int(room.total)) for room in rooms),
            "cuda": (version // 1000, version % 1000 // 10),
        }
    except pynvml.NVMLError as error:
        return {"nvml": str(error)}
    hidden = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    return found | _computed() | {"hidden": hidden}


def _computed() -> dict[str, Any]:
    """Let torch compute a sum on every GPU that it sees."""
    import torch

    usable, trouble = 0, ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        for index in range(torch.cuda.device_count()):
            usable += int(torch.ones(8, device=f"cuda:{index}").sum().item() == 8)
    except (RuntimeError, AssertionError) as error:
        trouble = str(error).strip().splitlines()[0]
    return {"build": torch.version.cuda or "", "usable": usable, "trouble": trouble}
