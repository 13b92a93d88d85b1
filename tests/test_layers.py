"""Imports go one way: DESIGN's ranks, read from the source text of every file, imports inside functions included."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "raycluster"
RANKS = [
    {"errors", "units"},
    {"stage", "client"},
    {"row", "resample"},
    {"declare"},
    {"place", "lake", "fetch", "compare"},
    {"plan"},
    {"read", "decode", "encode", "check", "account", "govern", "corpus"},
    {"engine", "search"},
    {"serve", "train", "terminal", "cluster"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

# One folder knows each of these.
OWNERS = {
    "lance": {"lake"},
    "lancedb": {"lake"},
    "ray.data": {"engine"},
    "ray.serve": {"serve"},
    "ray.train": {"train"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, with `from package import module` resolved to the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES or whole in OWNERS else node.module)
    return found


def top(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_ranks_above(path: Path) -> None:
    own = top(module_of(path))
    assert own in RANK, f"{own} has no rank"
    for imported in imports(path):
        if imported.startswith("raycluster.") and top(imported) != own:
            assert RANK[top(imported)] < RANK[own], f"{path} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_engines_have_one_owner(path: Path) -> None:
    own = top(module_of(path))
    for imported in imports(path):
        for engine, owners in OWNERS.items():
            if imported == engine or imported.startswith(engine + "."):
                assert own in owners, f"{path} imports {imported}"


def test_no_cycles() -> None:
    graph = {module_of(path): {name for name in imports(path) if name in MODULES} for path in FILES}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) >= MODULES


def test_every_top_level_name_has_a_rank() -> None:
    names = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert names - {"py"} <= set(RANK), names - set(RANK)
