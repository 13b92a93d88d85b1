"""What every file of a cluster says, whoever reads it: its node types, how each is started, and what is wrong.

`ray_up.py` and `kuberay.py` make shapes of their files; `check.py` and `safety.py` look at them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from raycluster.cluster.look import Finding
from raycluster.declare.document import At, Document, nearest

# A variable that is set, anywhere in what a shell or `docker run` is told; not the `--option=value` of a command.
_SET = re.compile(r"""(?<![\w./$~-])([A-Za-z_]\w*)=(?!=)("[^"]*"|'[^']*'|[^\s;&|'"]*)""")
_START = re.compile(r"(?:^|[\s/;&|(])ray\s+start\b([^;&|]*)")


@dataclass(frozen=True, kw_only=True)
class Start:
    """How Ray is started on a node: the options of `ray start`, the environment, and all that is run there."""

    flags: Mapping[str, str] | None  # by name, without dashes; None: nothing starts Ray
    flags_at: At
    environment: Mapping[str, str]
    commands: tuple[str, ...]
    at: At


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """Nodes that are alike: how many, what each has, what it is, and how it is started."""

    name: str
    at: At
    is_head: bool
    least: int
    most: int
    cpus: float | None = None  # None: the file does not tell
    gpus: float | None = None
    memory: int | None = None  # bytes that Ray gives away, which is less than the machine has
    labels: Mapping[str, str] = field(default_factory=dict)
    instance: str | None = None  # what the provider calls the machine
    is_spot: bool | None = None
    image: str | None = None
    start: Start


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A cluster, as a file describes it."""

    document: Document
    at: At  # of the cluster in its document
    kind: str  # ray up | RayCluster | RayJob | RayService
    name: str
    provider: str
    spec: Mapping[str, Any]  # with Ray's own defaults filled in
    node_types: tuple[NodeType, ...]
    most_workers: int

    @property
    def head(self) -> NodeType:
        """Return the node type of the head."""
        return next(one for one in self.node_types if one.is_head)

    @property
    def starts(self) -> list[tuple[str, Start]]:
        """Return the ways in which nodes are started, each with the node types that it is the way of."""
        ways: list[tuple[list[str], Start]] = []
        for one in self.node_types:
            names = next((names for names, start in ways if start == one.start), None)
            if names is None:
                ways.append(([one.name], one.start))
            else:
                names.append(one.name)
        return [(", ".join(names), start) for names, start in ways]

    def where(self, at: At) -> str:
        """Return `file:line:column` of a path in the file."""
        return self.document.where(at)


def environment(texts: Iterable[str]) -> dict[str, str]:
    """Return the variables that commands or options set; of several values the last."""
    lines = (line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {name: value.strip("\"'") for line in lines for name, value in _SET.findall(line)}


def started(commands: Iterable[str]) -> dict[str, str] | None:
    """Return the options of the first `ray start` in commands, by name; None where there is none."""
    for command in commands:
        found = _START.search(command.replace("\\\n", " "))
        if found:
            return dict(_options(_words(found[1])))
    return None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that the shell closes behind a `;`
        return text.split()


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    for index, word in enumerate(words):
        if word.startswith("--"):
            name, is_joined, value = word[2:].partition("=")
            following = words[index + 1] if index + 1 < len(words) else ""
            yield name, value if is_joined or following.startswith("-") else following


def labels_of(flags: Mapping[str, str] | None) -> dict[str, str]:
    """Return what `--labels` of `ray start` says."""
    pairs = ((flags or {}).get("labels") or "").strip("\"'").split(",")
    return {name.strip(): value.strip() for name, is_pair, value in (pair.partition("=") for pair in pairs) if is_pair}


def by_schema(document: Document, schema: Mapping[str, Any], at: At = ()) -> list[Finding]:
    """Return where the part of a document at `at` breaks a JSON Schema."""
    value = document.value
    for part in at:
        value = value[part]
    return [one for error in Draft7Validator(schema).iter_errors(value) for one in _told(document, error, at)]


def _told(document: Document, error: Any, at: At) -> Iterator[Finding]:
    place: At = (*at, *error.absolute_path)
    name = ".".join(str(part) for part in place)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for key in error.instance.keys() - set(known):
            where = document.where((*place, str(key)))
            yield Finding("problem", f"unknown key {str(key)!r}", where=where, fix=nearest(str(key), known))
        return
    message = f"{name}: {error.message}"
    if error.validator == "required":
        message = f"missing key {error.message.split(chr(39))[1]!r}" + (f" in {name}" if name else "")
    elif error.validator == "type":
        message = f"{name}: expected {error.validator_value}, found {error.instance!r}"
    yield Finding("problem", message, where=document.where(place))
