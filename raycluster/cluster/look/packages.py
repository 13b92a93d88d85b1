"""Optional packages become findings: those that the named workloads' stages need, and what is there besides.

What a stage may need stands in its source, as calls of `stage.need`: in its own file, and in the files of its folder
that it imports. An encoder needs them all when it starts; a decoder is asked itself, since its options decide.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import raycluster
from raycluster.cluster.look import Finding, Level, Site

_PACKAGE = Path(raycluster.__file__).parent


def look(site: Site) -> Iterator[Finding]:
    """Tell what stages of the workloads lack; without workloads, which extras are not there."""
    if site.workloads:
        yield from _of_workloads(site)
    else:
        yield from _of_extras()


def _of_workloads(site: Site) -> Iterator[Finding]:
    users: dict[tuple[Level, str, str], dict[str, None]] = {}
    names: dict[str, None] = {}
    for workload, family, stage in site.stages():
        names[f"{family} {stage.name}"] = None
        for lacking in _lacking(family, stage):
            users.setdefault(lacking, {})[f"{family} {stage.name} of {workload}"] = None
    for (level, module, install), who in users.items():
        more = "" if level == "problem" else " for some objects, which would go to quarantine"
        yield Finding(
            level, f"{module} is not installed: {', '.join(who)} needs it{more}", fix=f"pip install {install}"
        )
    if not users:
        yield Finding("ok", f"the packages that these stages need are there: {', '.join(names)}")


def _lacking(family: str, stage: Any) -> Iterator[tuple[Level, str, str]]:
    """Yield what a stage needs and is not there: the module, and what to install."""
    from raycluster.errors import MissingPackage

    always = family == "encode"
    if family == "decode":
        try:
            stage.decoder()
        except MissingPackage as error:
            yield "problem", error.message.split()[0], error.fix.removeprefix("pip install ")
    file = _PACKAGE / family / f"{stage.name}.py"
    if file.is_file():  # of a private stage whoever wrote it knows
        for module, install, is_own in needs(file):
            if not _is_there(module) and (always or not is_own):
                yield "problem" if always else "warning", module, install


def _of_extras() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    lacking: dict[str, list[str]] = {}
    own = distribution("raycluster")
    for requirement in map(Requirement, own.requires or ()):
        for extra in own.metadata.get_all("Provides-Extra") or ():
            named = requirement.marker and not requirement.marker.evaluate({"extra": ""})
            if named and requirement.marker and requirement.marker.evaluate({"extra": extra}):
                lacking.setdefault(extra, [])
                if not _is_installed(requirement.name):
                    lacking[extra].append(requirement.name)
    for extra in ("dev", "bench", "all"):  # for who works on raycluster itself; and the sum of the others
        lacking.pop(extra, None)
    there = [extra for extra, names in lacking.items() if not names]
    if there:
        yield Finding("ok", f"extras that are installed: {', '.join(there)}")
    for extra, names in lacking.items():
        if names:
            what = f"the extra {extra} is not installed ({', '.join(names)}); stages that need it will say so"
            yield Finding("note", what, fix=f'pip install "raycluster[{extra}]"')


@cache
def needs(file: Path) -> list[tuple[str, str, bool]]:
    """Return the optional modules of a stage's file: what to install, and whether that file itself asks for it."""
    found: dict[tuple[str, str], bool] = {}
    waiting, seen = [file], {file}
    while waiting:
        source = waiting.pop(0)
        tree = ast.parse(source.read_text())
        constants = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "need":
                module, install = (_text(argument, constants) for argument in node.args)
                if module and install:
                    found.setdefault((module, install), source == file)
            elif isinstance(node, ast.ImportFrom):
                new = [path for path in _beside(file.parent, node) if path not in seen]
                seen.update(new)
                waiting += new
    return [(module, install, is_own) for (module, install), is_own in found.items()]


def _constants(tree: ast.Module) -> dict[str, object]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _text(node: ast.expr, constants: dict[str, object]) -> str:
    value = node.value if isinstance(node, ast.Constant) else constants.get(getattr(node, "id", ""))
    return value if isinstance(value, str) else ""


def _beside(folder: Path, node: ast.ImportFrom) -> Iterator[Path]:
    package = f"raycluster.{folder.name}"
    names = [alias.name for alias in node.names] if node.module == package else []
    if (node.module or "").startswith(f"{package}."):
        names = [str(node.module).rpartition(".")[2]]
    yield from (path for name in names if (path := folder / f"{name}.py").is_file())


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that contains it
        return False


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
