"""Memory that is nearly gone, by the machine's word or the container's; and a machine that is busy."""

import os
from pathlib import Path

import pytest

from raycluster.cluster.look import Site, machine

SITE = Site(lake="x")


@pytest.mark.parametrize(
    ("used", "cache", "level"),
    [(0.99, 0.0, "problem"), (0.99, 0.8, "warning"), (0.90, 0.0, "warning")],
)
def test_a_container_that_is_nearly_full(tmp_path: Path, monkeypatch, used: float, cache: float, level: str) -> None:
    limit = 4 * 10**9
    said = {"max": limit, "current": int(used * limit), "stat": f"anon 5\ninactive_file {int(cache * limit)}"}
    for name, value in said.items():
        (tmp_path / name).write_text(f"{value}\n")
    for name, file in (("_LIMITS", "max"), ("_USED", "current"), ("_STAT", "stat")):
        monkeypatch.setattr(machine, name, (str(tmp_path / file),))
    found = next(iter(machine.look(SITE)))
    assert (found.level, "4.0 GB of memory are free (the container's limit)" in found.what) == (level, True), found


def test_a_container_without_a_limit_has_the_machine_s(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "max").write_text("max\n")
    for name in ("_LIMITS", "_USED", "_STAT"):
        monkeypatch.setattr(machine, name, (str(tmp_path / "max"),))
    found = next(iter(machine.look(SITE)))
    assert "container" not in found.what


def test_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert [one.level for one in machine.look(SITE) if "load 1000.0" in one.what] == ["note"]
