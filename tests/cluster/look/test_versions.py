"""Packages of other versions than the pins: a folder of metadata on the path is what Python believes first."""

from pathlib import Path

import pytest


def pretend(folder: Path, name: str, version: str, *requires: str) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (place / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that Python looks into first."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_what_is_installed_here_is_at_its_pins(look) -> None:
    found = look("versions")
    assert [one.level for one in found if one.level in ("problem", "ok")] == ["ok", "ok"]


def test_another_ray_is_a_problem_with_a_reason(look, path: Path) -> None:
    pretend(path, "ray", "2.40.0")
    (found,) = [one for one in look("versions") if one.level == "problem"]
    assert "ray 2.40.0 is installed, raycluster wants ray[data,serve,train]==2.60.0" in found.what
    assert "meter" in found.what
    assert (found.fix, found.where) == ('pip install "ray[data,serve,train]==2.60.0"', str(path))


def test_what_only_a_requirement_wants_is_a_warning(look, path: Path) -> None:
    pretend(path, "click", "8.9", "rich>=900")
    (found,) = [one for one in look("versions") if "click wants" in one.what]
    assert (found.level, "wants rich>=900" in found.what) == ("warning", True)


def test_a_requirement_that_is_not_there(look, path: Path) -> None:
    pretend(path, "click", "8.9", "a-package-that-nobody-has>=1")
    (found,) = [one for one in look("versions") if one.level == "problem"]
    assert "a-package-that-nobody-has is not installed" in found.what


def test_another_python_than_the_package_allows(look, path: Path) -> None:
    pretend(path, "raycluster", "0.0.9")
    metadata = path / "raycluster-0.0.9.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Python: <3\n")
    (found,) = [one for one in look("versions") if one.level == "problem"]
    assert "is not <3" in found.what


def test_torches_that_are_built_for_different_things(look, path: Path) -> None:
    pretend(path, "torch", "2.13.0")
    (path / "torch").mkdir()
    (path / "torch" / "version.py").write_text("__version__ = '2.13.0+cpu'\n")
    (found,) = [one for one in look("versions") if one.level == "problem"]
    assert "torch cpu" in found.what
    assert "together" in found.fix
