"""Installed sources become one finding: whether their byte code is there; without it each start compiles them anew."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from raycluster.cluster.look import Finding, Site

# What every start imports. Without their byte code `ray.init` takes 13.7 s instead of 4.7 (2 cores, Ray 2.60).
_HEAVY = ("ray", "torch", "pyarrow", "numpy", "lance", "pydantic")
_TOLERABLE_SHARE = 0.1  # files that no start imports are compiled by nobody


def look(_: Site) -> Iterator[Finding]:
    """Count the sources that have no byte code, or that of another version of them."""
    missing: dict[str, tuple[int, int]] = {}
    folders: dict[str, str] = {}
    for name in _HEAVY:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue  # `versions` tells
        folder = next(iter(spec.submodule_search_locations))
        sources = [str(path) for path in Path(folder).rglob("*.py")]
        lacking = sum(not _is_compiled(source) for source in sources)
        if lacking > len(sources) * _TOLERABLE_SHARE:
            missing[name], folders[name] = (lacking, len(sources)), folder
    if not missing:
        yield Finding("ok", f"byte code is compiled: {', '.join(_HEAVY)}")
        return
    told = ", ".join(f"{name} {lacking} of {total} files" for name, (lacking, total) in missing.items())
    cost = "each start of a process compiles them again, 9 to 12 s of it"
    if "PYTHONDONTWRITEBYTECODE" not in os.environ and all(os.access(folder, os.W_OK) for folder in folders.values()):
        cost = "the next starts compile them, 9 to 12 s of it on each node"
    fix = f"{sys.executable} -m compileall -q -j 0 {' '.join(folders.values())}"
    yield Finding("warning", f"byte code is missing: {told}; {cost}", fix=fix)


def _is_compiled(source: str) -> bool:
    """Tell whether Python would take the byte code that lies beside a source. Its format: PEP 552."""
    try:
        with open(cache_from_source(source), "rb", buffering=0) as file:
            head = file.read(16)
        if int.from_bytes(head[4:8], "little"):  # told apart by a hash of the source
            return True
        found = os.stat(source)
    except OSError:
        return False
    when, size = (int.from_bytes(head[at : at + 4], "little") for at in (8, 12))
    return (when, size) == (int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
