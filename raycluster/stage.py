"""The shape of a stage, and how one is found by its file name.

A stage is a value that *describes* on the driver (its fields are its YAML keys, its docstring its manual) and
*builds* on the worker: everything heavy happens inside `open()`. Families are open folders: a file in `decode/`,
`encode/`, `check/` or `read/` is a member (unless it starts with `_`), its name is its YAML name, and listing a
folder imports nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from raycluster.errors import InvalidUse, MissingPackage, NotFound
from raycluster.units import Resources, Seconds


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One step that turns a batch of rows into a batch of rows."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    needs: Resources = Resources()
    timeout: Seconds = 60.0

    @property
    def name(self) -> str:
        """Return the YAML name: the file's own."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def revision(self) -> str:
        """Return the model's name and revision, as `name@revision`; empty where no model is involved."""
        return ""

    @property
    def digest(self) -> str:
        """Return 16 hex digits that change when class, fields or model revision do; part of every row's provenance.

        `needs` and `timeout` are left out: where and how long a stage runs does not change what it makes.
        """
        fields = dataclasses.asdict(self)
        for operational in ("needs", "timeout", "actors", "batch"):
            fields.pop(operational, None)
        whole = [type(self).__module__, type(self).__qualname__, fields, self.revision]
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Return name and digest, as a row's provenance says what made it."""
        return f"{self.name}@{self.digest}"

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Return the columns that it needs."""

    @property
    @abstractmethod
    def writes(self) -> pa.Schema:
        """Return the columns that it adds or fills."""

    @abstractmethod
    def open(self) -> Callable[[pa.RecordBatch], Any]:
        """Load what is heavy and return the work itself: pure per batch, safe to retry.

        For one bad row it sets that row's `error` and goes on; it never raises for a row and never drops one.
        """


# The class that every member of a family derives from, which its folder's own file defines.
_BASES = {"read": "Source", "decode": "Decode", "encode": "Encode", "check": "Check"}


def names(family: str) -> list[str]:
    """Return the members of a family, by file name, without importing them."""
    spec = importlib.util.find_spec(f"raycluster.{family}")
    if spec is None or not spec.submodule_search_locations:
        return []
    found = pkgutil.iter_modules(list(spec.submodule_search_locations))
    return sorted(member.name for member in found if not member.name.startswith("_"))


def find(family: str, name: str) -> Any:
    """Return the stage class called `name` in `family`, or the private one named `package.module:Class`.

    Raises:
        NotFound: no such file; says the nearest name.
        InvalidUse: a private name that names no stage of this family.
    """
    if is_private(name):
        return _private(family, name)
    if name not in names(family):
        raise unknown(family, name, names(family))
    module = importlib.import_module(f"raycluster.{family}.{name}")
    members = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and getattr(member, "__pydantic_config__", None)
        and not inspect.isabstract(member)
    ]
    if len(members) != 1:
        raise TypeError(f"raycluster/{family}/{name}.py must define exactly one member, found {members}")
    return members[0]


def is_private(name: str) -> bool:
    """Say whether a stage's name is that of a class outside of raycluster, whose module is imported to find it."""
    return ":" in name


# Names the modules whose private stages run on the word of a dataset, which whoever made it wrote; commas between.
TRUSTED = "RAYCLUSTER_PRIVATE_STAGES"


def is_trusted(name: str) -> bool:
    """Say whether a stage that a dataset names may be imported here: one of raycluster's own, or of a named module."""
    return not is_private(name) or name.partition(":")[0] in os.environ.get(TRUSTED, "").split(",")


def _private(family: str, name: str) -> Any:
    """Import a private stage. Only a class of the family is returned: a caller fills what it gets with options.

    Raises:
        InvalidUse: no such module or class, or it is something else.
    """
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise InvalidUse(f"{name!r} names no class", fix="write it as `package.module:Class`")
    base = getattr(importlib.import_module(f"raycluster.{family}"), _BASES[family])
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # the module is the user's, and may fail in any way
        message = f"{name!r} cannot be imported: {type(error).__name__}: {error}"
        raise InvalidUse(message, fix="check the module path and PYTHONPATH") from error
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        wanted = f"a class that derives from raycluster.{family}.{base.__name__} and defines what that leaves open"
        raise InvalidUse(f"{name!r} is no stage of the family {family!r}", fix=f"name {wanted}")
    return found


def unknown(kind: str, name: str, known: list[str]) -> NotFound:
    """Say that `name` is unknown and which known name is nearest."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return NotFound(f"unknown {kind} {name!r}", fix=hint)


def need(module: str, install: str) -> Any:
    """Import an optional package inside `open()`, or say in one line how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(f"{module} is not installed ({error})", fix=f"pip install {install}") from error


class _Watch:
    armed = False


def arm_watch() -> None:
    """Let `watch` end this process; for workers and sandboxes, which do one thing at a time and may be replaced."""
    _Watch.armed = True


@contextmanager
def watch(seconds: float) -> Iterator[None]:
    """End this process, if it is an armed one, when the block takes longer than `seconds`.

    C code cannot be interrupted from Python, and may hold the interpreter's lock, so a hang is ended by the kernel:
    SIGALRM, whose default is to terminate. The engine then works through the same objects again one by one, each in
    a process of its own, and only the guilty one is lost.
    """
    if not _Watch.armed:
        yield
        return
    outer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
