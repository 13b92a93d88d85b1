"""What NVIDIA's driver knows becomes who holds which GPU, and how much of its memory; nothing where there is none.

Processes are the driver's, by pid of the host. A GPU that several processes hold is shared by their utilisation, or
evenly while all are idle: it is held, and paid for, all the same. With MIG each instance is a device of its own.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)


class Gpus(NamedTuple):
    """The GPUs of a node, and who holds them."""

    number: int = 0
    name: str | None = None  # of the first: nodes have one kind
    held: dict[int, tuple[float, int]] = {}  # noqa: RUF012 - never changed: pid -> GPUs, bytes of memory


@cache
def _nvml() -> Any:
    """Return NVML, once; None where there is no driver, or no package for it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def gpus() -> Gpus:
    """Look at this node's GPUs."""
    nvml = _nvml()
    if nvml is None:
        return Gpus()
    held: dict[int, tuple[float, int]] = {}
    try:
        devices = _devices(nvml)
        name = str(nvml.nvmlDeviceGetName(devices[0])) if devices else None
    except nvml.NVMLError as error:  # a driver that has failed: the node is accounted for without it
        _log.warning("the GPUs of this node cannot be looked at: %s", error)
        return Gpus()
    for device in devices:
        memory = _memory(nvml, device)
        weights = {pid: max(1, weight) for pid, weight in _utilisation(nvml, device).items() if pid in memory}
        weights = weights or dict.fromkeys(memory, 1)
        for pid, used in memory.items():
            share, before = held.get(pid, (0.0, 0))
            held[pid] = (share + weights.get(pid, 0) / sum(weights.values()), before + used)
    return Gpus(len(devices), name, held)


def _memory(nvml: Any, device: Any) -> dict[int, int]:
    """Return the bytes that each process holds of a device; nothing of one that has failed, or may not be asked."""
    try:
        return {one.pid: int(one.usedGpuMemory or 0) for one in nvml.nvmlDeviceGetComputeRunningProcesses(device)}
    except nvml.NVMLError:
        return {}


def _devices(nvml: Any) -> list[Any]:
    """Return every device that can be held: a GPU, or each of its instances where MIG divides it."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        instances = _instances(nvml, device)
        found += instances or [device]
    return found


def _instances(nvml: Any, device: Any) -> list[Any]:
    try:
        if nvml.nvmlDeviceGetMigMode(device)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        number = nvml.nvmlDeviceGetMaxMigDeviceCount(device)
    except nvml.NVMLError:  # a GPU that knows no MIG
        return []
    found = []
    for index in range(number):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
        except nvml.NVMLError:
            continue
    return found


def _utilisation(nvml: Any, device: Any) -> dict[int, int]:
    """Return by process the percent of the last second in which its kernels ran; nothing where MIG hides it."""
    try:
        samples = nvml.nvmlDeviceGetProcessUtilization(device, 0)
    except nvml.NVMLError:
        return {}
    return {one.pid: int(one.smUtil) for one in sorted(samples, key=lambda one: one.timeStamp)}
