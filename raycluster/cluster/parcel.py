"""A workload file and the folder it lies in become the package that goes to a cluster, and what is wrong with it.

Before `job.py`. What would be lost, or be readable by everybody, is refused here, before anything is sent.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

from raycluster.account.terms import Allowance
from raycluster.declare.budget import load_budgets
from raycluster.declare.document import At, Document, load
from raycluster.declare.prices import load_prices
from raycluster.declare.resource import files
from raycluster.declare.workload import Workload, build
from raycluster.errors import InvalidFile, InvalidUse, RayclusterError, TooLarge
from raycluster.units import show_bytes

# Never sent: histories, environments, lakes, what else is made anew, and where secrets usually lie.
_LEFT_OUT = (
    ".git",
    ".venv",
    "venv",
    "node_modules",
    ".raycluster",
    "__pycache__",
    ".*_cache",
    ".env",
    ".env.*",
    ".ssh",
)
_SHARED = "a place in an object store (s3://BUCKET/FOLDER), or an absolute path that every node mounts"
_SENT = "_sent"  # the package's folder for files that lie elsewhere: prices, budgets
# Nodes whose Ray was started as ~/venv/bin/ray have another `python` in their PATH, or none, and Ray tells a job's
# shell nothing of its own. What its parent, a worker of Ray, has mapped says where that is. Delete when Ray tells.
_FIND_PYTHON = (
    r"export PATH=$(sed -n '/_raylet[.]so$/{s|.* \(/.*\)/lib[^/]*/python3[^/]*/[^/]*/ray/_raylet[.]so$|\1/bin|p;q;}' "
    "/proc/$PPID/maps):$PATH"
)
_SECRET = re.compile(
    r"secret|token|passw|credential|private|signature|(^|_)(api|access)?keys?(_|$)|apikey", re.IGNORECASE
)
_REFERENCE = re.compile(r"_(file|path|dir)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
_PASSWORD_INSIDE = re.compile(r"^\w[\w+.-]*://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for: a workload, and how a cluster is to run it."""

    file: Path
    folder: Path  # which is sent, and where the run stands
    lake: str | None = None  # None: as RAYCLUSTER_LAKE of the cluster's nodes says
    prices: str | None = None
    budgets: str | None = None
    allow: frozenset[Allowance] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Return the workload file's path below the folder."""
        return self.file.resolve().relative_to(self.folder.resolve()).as_posix()

    def entrypoint(self, run_id: str) -> str:
        """Return the shell command that runs it on the cluster, in the environment that Ray itself runs in there."""
        words = ["python", "-m", "raycluster", "run", self.path, "--run-id", run_id, "--json", "--progress"]
        words += [f"--{allowed.replace('_', '-')}" for allowed in sorted(self.allow)]
        words += [word for name, _ in self.extras() for word in (f"--{name}", f"{_SENT}/{name}")]
        lake = shlex.quote(self.lake) if self.lake else '"${RAYCLUSTER_LAKE:?its nodes name no lake: give --lake}"'
        return f"{_FIND_PYTHON}; exec {shlex.join(words)} --lake {lake}"

    def extras(self) -> Iterator[tuple[str, Path]]:
        """Yield what goes along: under which name, and from where."""
        yield from ((name, Path(path)) for name, path in (("prices", self.prices), ("budgets", self.budgets)) if path)


def check(order: Order) -> tuple[Workload, list[str]]:
    """Return the workload, and what its sender should know.

    Raises:
        InvalidUse: it is wrong, or would not do on a cluster what it says; with file and line.
    """
    sys.path.insert(0, str(order.folder.absolute()))  # private stages are found here as they are there
    document = load(order.file)
    workload = build(document)
    if order.prices:
        load_prices(order.prices)
    if order.budgets:
        load_budgets(order.budgets)
    if not order.folder.is_dir() or not order.file.resolve().is_relative_to(order.folder.resolve()):
        fix = "give a folder that it lies in"
        raise InvalidUse(f"{order.file} does not lie in a folder {order.folder}", where="--working-dir", fix=fix)
    warnings = [f"{place} is of this disk: every node has to have it at this path" for place in _places(document)]
    if order.lake and "://" not in (place := order.lake.removeprefix("file://")):
        if not Path(place).is_absolute():
            message = f"{order.lake} would lie in the job's own folder, which Ray deletes"
            raise InvalidUse(message, where="--lake", fix=f"name {_SHARED}")
        warnings.append(f"{order.lake} is a folder: every node has to have it at this path")
    if order.lake and _PASSWORD_INSIDE.match(order.lake):
        raise InvalidUse("it holds a password, which the job would show to everybody", where="--lake", fix=_KEEP)
    return workload, warnings


def _places(document: Document) -> Iterator[str]:
    """Yield the absolute local paths that a source names.

    Raises:
        InvalidFile: a relative one. A copy in the job's folder has another uri in every job and on every node, and the
            uri is half of an object's identity: running again would do everything again.
    """
    kind, options = next(iter(document.value["spec"]["source"].items()))
    named: list[tuple[At, str]] = [(("paths", index), path) for index, path in enumerate(options.get("paths") or ())]
    named += [((key,), options[key]) for key in ("uri", "list") if isinstance(options.get(key), str)]
    problems: list[RayclusterError] = []
    for at, place in named:
        path = place.removeprefix("file://")
        if os.path.isabs(path):
            yield place
        elif "://" not in path and at != ("list",):  # a list of uris goes along
            message = f"{place} lies on this machine: the cluster's nodes do not have it"
            where = document.where(("spec", "source", kind, *at))
            problems.append(InvalidUse(message, where=where, fix=f"name {_SHARED}"))
    if problems:
        raise InvalidFile(problems)


_KEEP = (
    "keep secrets where the nodes have them: in the environment that `ray start` is given, a file there, their role; "
    "a name that ends in _FILE or _PATH may say which file"
)


def variables(words: Sequence[str]) -> dict[str, str]:
    """Return the variables of `NAME=VALUE`, and of `NAME` with the value that it has here.

    Raises:
        InvalidUse: one is not set, or is a secret by its name or value: Ray shows a job's environment to everybody
            who reaches the job API, and writes it into its logs.
    """
    found = {}
    for word in words:
        name, given, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InvalidUse(f"{name!r} is no name of a variable", where="--env", fix="--env NAME or --env NAME=VALUE")
        if not given and name not in os.environ:
            raise InvalidUse(f"{name} is not set here", where="--env", fix=f"export {name}, or --env {name}=VALUE")
        found[name] = value if given else os.environ[name]
        if (_SECRET.search(name) and not _REFERENCE.search(name)) or _PASSWORD_INSIDE.match(found[name]):
            raise InvalidUse(f"{name} is a secret, which the job would show to everybody", where="--env", fix=_KEEP)
    return found


def pack(order: Order, target: Path) -> tuple[int, int]:
    """Write the package; return how many files and bytes it holds.

    `.gitignore` and `.rayignore` of the folder say what else stays here.

    Raises:
        TooLarge: Ray takes no more than that.
        InvalidUse: the workload itself is left out.
    """
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import create_package

    quiet = logging.getLogger("raycluster.ray")
    create_package(str(order.folder), target, include_gitignore=True, excludes=list(_LEFT_OUT), logger=quiet)
    with ZipFile(target, "a") as package:
        if order.path not in package.namelist():
            fix = "see .gitignore and .rayignore there"
            raise InvalidUse(f"{order.path} is not sent", where="--working-dir", fix=fix)
        for name, path in order.extras():
            for file in files(path):
                package.write(file, f"{_SENT}/{name}/{file.relative_to(path)}" if path.is_dir() else f"{_SENT}/{name}")
        entries = package.infolist()
    size = target.stat().st_size
    if size > DASHBOARD_CLIENT_MAX_SIZE:
        largest = sorted(entries, key=lambda entry: entry.file_size, reverse=True)[:3]
        named = ", ".join(f"{entry.filename} {show_bytes(entry.file_size)}" for entry in largest)
        raise TooLarge(
            f"{order.folder} holds {len(entries)} files, {show_bytes(size)}: Ray takes no more than "
            f"{show_bytes(DASHBOARD_CLIENT_MAX_SIZE)} (largest: {named})",
            where="--working-dir",
            fix="list in .rayignore what the job does not need, or send a smaller folder; media belong in a store",
        )
    return len(entries), size
