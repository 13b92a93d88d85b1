"""Packages without byte code, or with that of an older source."""

import compileall
import os
from pathlib import Path

import pytest

from raycluster.cluster.look import Site, bytecode


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a compiled package that every start imports."""
    folder = tmp_path / "a_heavy_package"
    folder.mkdir()
    for name in ("__init__", "one", "two"):
        (folder / f"{name}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bytecode, "_HEAVY", (folder.name,))
    compileall.compile_dir(folder, quiet=2)
    return folder


def found() -> tuple[str, str, str]:
    (one,) = bytecode.look(Site(lake="x"))
    return one.level, one.what, one.fix


def test_byte_code_that_is_there(package: Path) -> None:
    assert found()[0] == "ok"


def test_byte_code_that_was_removed(package: Path) -> None:
    for file in package.rglob("*.pyc"):
        file.unlink()
    level, what, fix = found()
    assert (level, "3 of 3 files" in what) == ("warning", True)
    assert f"-m compileall -q -j 0 {package}" in fix


def test_byte_code_of_a_source_that_was_changed_since(package: Path) -> None:
    os.utime(package / "one.py", (1, 1))  # as a copy into an image does it
    assert (found()[0], "1 of 3" in found()[1]) == ("warning", True)
    compileall.compile_dir(
        package, quiet=2, invalidation_mode=compileall.py_compile.PycInvalidationMode.CHECKED_HASH, force=True
    )
    assert found()[0] == "ok"


def test_sources_without_byte_code_cost_every_start_where_python_may_not_write_it(package: Path, monkeypatch) -> None:
    for file in package.rglob("*.pyc"):
        file.unlink()
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert "each start" in found()[1]
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    assert "the next starts" in found()[1]
