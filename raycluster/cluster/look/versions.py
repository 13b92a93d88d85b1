"""What is installed becomes findings: against the pins in this package's metadata, and those of what it depends on."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from raycluster.cluster.look import Finding, Level, Site

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_NAMED = ("ray", "pylance", "pyarrow", "numpy", "torch", "torchvision")
_WHY = {
    "ray": "; the meter knows this Ray only: with another one calls are not told apart on the bill",
    "torch": "; torch and torchvision come as one set",
    "torchvision": "; torch and torchvision come as one set",
    "pylance": "; commits rest on how exactly this Lance does them",
}
_BUILD = re.compile(r"^__version__ = '[^'+]+\+?([^']*)'", re.M)


def look(_: Site) -> Iterator[Finding]:
    """Compare what is installed with what is required, down to what the requirements require."""
    yield _python()
    found = list(_differences())
    yield from found
    yield from _builds()
    if not found:
        versions = ", ".join(f"{name} {installed.version}" for name in _NAMED if (installed := _installed(name)))
        yield Finding("ok", f"every package is at its pin: {versions}")


def _python() -> Finding:
    from packaging.specifiers import SpecifierSet

    own = distribution("raycluster")
    wanted, here = own.metadata["Requires-Python"] or "", platform.python_version()
    if not SpecifierSet(wanted).contains(here, prereleases=True):
        fix = "make the environment with another Python: uv venv --python 3.11"
        return Finding("problem", f"Python {here} is not {wanted}", fix=fix)
    return Finding("ok", f"raycluster {own.version} on Python {here}, {platform.system()} {platform.machine()}")


def _differences() -> Iterator[Finding]:
    """Yield what is missing or of another version: of our own requirements, and of theirs."""
    from packaging.requirements import Requirement

    waiting: list[tuple[str, frozenset[str]]] = [("raycluster", frozenset())]
    seen = set(waiting)
    while waiting:
        owner, extras = waiting.pop(0)
        for requirement in map(Requirement, distribution(owner).requires or ()):
            if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in extras | {""}):
                continue
            installed = _installed(requirement.name)
            if installed is None or not requirement.specifier.contains(installed.version, prereleases=True):
                yield _difference(owner, requirement, installed)
            key = (requirement.name, frozenset(requirement.extras))
            if installed and key not in seen:
                seen.add(key)
                waiting.append(key)


def _difference(owner: str, requirement: Requirement, installed: Distribution | None) -> Finding:
    requirement.marker = None
    name = requirement.name
    here = f"{name} {installed.version} is installed" if installed else f"{name} is not installed"
    why = _WHY.get(name, "")
    where = str(installed.locate_file("")) if installed else ""
    level: Level = "problem" if owner == "raycluster" or installed is None else "warning"
    return Finding(level, f"{here}, {owner} wants {requirement}{why}", where, f'pip install "{requirement}"')


def _builds() -> Iterator[Finding]:
    """Tell torch and torchvision of which one is built for a CPU and the other for CUDA: metadata do not show it."""
    builds = {}
    for name in ("torch", "torchvision"):
        installed = _installed(name)
        file = Path(str(installed.locate_file(f"{name}/version.py"))) if installed else None
        if file and file.is_file() and (said := _BUILD.search(file.read_text())):
            builds[name] = said[1]
    if len(set(builds.values())) > 1:
        told = ", ".join(f"{name} {build or 'without a build'}" for name, build in builds.items())
        fix = "install the two together, from one index: uv pip install -r requirements.txt"
        yield Finding("problem", f"the torches are built for different things: {told}", fix=fix)


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
