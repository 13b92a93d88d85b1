"""What layers of a GPU's software say becomes one verdict. No machine of CI has one: `Seen` is what one would say."""

import pytest

from raycluster.cluster.look.gpu import Seen, verdicts

GOOD = {
    "cards": 1,
    "driver": "580.65",
    "names": ("NVIDIA L4",),
    "memory": ((23 * 10**9, 24 * 10**9),),
    "cuda": (13, 0),
    "build": "13.0",
    "usable": 1,
}


@pytest.mark.parametrize(
    ("seen", "level", "words"),
    [
        ({}, "note", "no NVIDIA GPU"),
        (GOOD, "ok", "computes on 1 of 1"),
        ({"cards": 2}, "problem", "no driver"),
        ({"cards": 1, "driver": "580.65", "nvml": "Driver/library version mismatch"}, "problem", "does not answer"),
        ({"cards": 1, "driver": "580.65"}, "problem", "finds no GPU"),
        (GOOD | {"build": "", "usable": 0}, "problem", "built for a CPU"),
        (GOOD | {"cuda": (12, 4), "usable": 0}, "problem", "CUDA 12.4 at most"),
        (GOOD | {"usable": 0, "trouble": "unknown error"}, "problem", "unknown error"),
        (GOOD | {"usable": 0, "hidden": {"CUDA_VISIBLE_DEVICES": ""}}, "warning", "hides the others"),
        (GOOD | {"memory": ((10**9, 24 * 10**9),)}, "warning", "somebody else computes"),
    ],
)
def test_the_lowest_layer_that_fails_explains_the_rest(seen: dict, level: str, words: str) -> None:
    found = [one for one in verdicts(Seen(**seen)) if words in one.what]
    assert [one.level for one in found] == [level]
    assert level in ("ok", "note") or found[0].fix


def test_a_driver_that_was_updated_under_a_running_kernel_wants_a_restart() -> None:
    (found,) = verdicts(Seen(driver="580.65", nvml="Driver/library version mismatch"))
    assert found.fix.startswith("restart")
    (other,) = verdicts(Seen(driver="580.65", nvml="Unknown Error"))
    assert "container" in other.fix


def test_this_machine_is_asked(look) -> None:
    found = look("gpu")
    assert found
    assert "could not be looked at" not in str(found)
