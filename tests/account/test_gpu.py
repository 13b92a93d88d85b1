"""Who holds which GPU, by what a stand-in for NVIDIA's driver says: the real one is asked where there is one."""

# ruff: noqa: N802 - the names are NVML's
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raycluster.account import gpu
from raycluster.account.gpu import Gpus, gpus


class Refused(Exception):
    """What NVML raises."""


class Nvml:
    """GPUs as a test declares them: per device, what each process holds, and how busy it is."""

    NVMLError = Refused
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *devices: dict[str, Any]) -> None:
        self.devices = devices

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.devices[index]

    def nvmlDeviceGetName(self, device: dict[str, Any]) -> str:
        return str(device.get("name", "NVIDIA H100"))

    def nvmlDeviceGetComputeRunningProcesses(self, device: dict[str, Any]) -> list[Any]:
        if device.get("fails"):
            raise Refused("GPU is lost")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.get("memory", {}).items()]

    def nvmlDeviceGetProcessUtilization(self, device: dict[str, Any], _: int) -> list[Any]:
        if "busy" not in device:
            raise Refused("Not Found")
        return [SimpleNamespace(pid=pid, timeStamp=at, smUtil=percent) for pid, at, percent in device["busy"]]

    def nvmlDeviceGetMigMode(self, device: dict[str, Any]) -> tuple[int, int]:
        if "instances" not in device:
            raise Refused("Not Supported")
        return (int(bool(device["instances"])),) * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, _: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(device["instances"]):
            raise Refused("Not Found")
        found: dict[str, Any] = device["instances"][index]
        return found


def look(monkeypatch: pytest.MonkeyPatch, *devices: dict[str, Any]) -> Gpus:
    monkeypatch.setattr(gpu, "_nvml", lambda: Nvml(*devices))
    return gpus()


def test_a_node_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_nvml", lambda: None)
    assert gpus() == Gpus(0, None, {})
    assert look(monkeypatch) == Gpus(0, None, {})


def test_a_gpu_of_one_process_is_its_own_however_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, {"memory": {7: 1000}}, {}) == Gpus(2, "NVIDIA H100", {7: (1.0, 1000)})


def test_a_gpu_is_shared_by_how_busy_processes_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = [(7, 2, 30), (7, 1, 90), (8, 1, 10), (9, 1, 50)]  # 9 is gone; of 7 the newest sample counts
    found = look(monkeypatch, {"memory": {7: 100, 8: None}, "busy": busy})
    assert found.held == {7: (0.75, 100), 8: (0.25, 0)}


def test_a_gpu_that_all_leave_idle_is_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, {"memory": {7: 1, 8: 2}}).held == {7: (0.5, 1), 8: (0.5, 2)}
    assert look(monkeypatch, {"memory": {7: 1, 8: 2}, "busy": [(7, 1, 0), (8, 1, 0)]}).held == {
        7: (0.5, 1),
        8: (0.5, 2),
    }


def test_a_process_on_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, {"memory": {7: 10}}, {"memory": {7: 20, 8: 5}})
    assert found.held == {7: (1.5, 30), 8: (0.5, 5)}


def test_whatever_they_do_the_shares_of_a_gpu_add_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = [(1, 1, 33), (2, 1, 0), (3, 1, 100)]
    found = look(monkeypatch, {"memory": {1: 1, 2: 1, 3: 1, 4: 1}, "busy": busy})
    assert sum(share for share, _ in found.held.values()) == pytest.approx(1.0)


def test_instances_are_devices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    divided = {"instances": [{"memory": {7: 10}, "name": "MIG 1g.10gb"}, {}]}
    found = look(monkeypatch, divided, {"instances": [], "memory": {8: 1}})
    assert found == Gpus(3, "MIG 1g.10gb", {7: (1.0, 10), 8: (1.0, 1)})


def test_a_gpu_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, {"fails": True}, {"memory": {7: 10}}) == Gpus(2, "NVIDIA H100", {7: (1.0, 10)})


def test_a_driver_that_fails_is_said_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Nvml) -> int:
        raise Refused("Unknown Error")

    monkeypatch.setattr(Nvml, "nvmlDeviceGetCount", refuse)
    assert look(monkeypatch, {"memory": {7: 10}}) == Gpus()
    assert "Unknown Error" in caplog.text


def test_a_machine_without_driver_or_package_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")

    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    gpu._nvml.cache_clear()
    assert gpu._nvml() is None
    gpu._nvml.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert gpus() == Gpus()
    gpu._nvml.cache_clear()
