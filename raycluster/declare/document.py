"""The text of a YAML file becomes plain values that remember where they stood.

Every resource in `declare/` reads its file through here, so that all of them report several mistakes at once, each
with file, line, column and the nearest valid key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from raycluster.errors import InvalidFile, InvalidUse, NotFound, RayclusterError
from raycluster.units import show_bytes

API_VERSION = "raycluster/v1"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
At = tuple[str | int, ...]  # the path of keys and indices to a value: ("spec", "encode", 0, "use")
T = TypeVar("T")
# The largest file here has 12 kB and is 8 deep. Python's own stack ends at about 300 levels of YAML.
MOST_BYTES = 1_000_000
_MOST_DEPTH = 32
# Of a file that others read too. cluster.yaml takes one anchor, twice, and stands for 250 nodes.
_MOST_ALIASES = 100
_MOST_NODES = 100_000


@dataclass(kw_only=True)
class Document:
    """One YAML document: its plain `value`, where each part stands, and the problems found so far."""

    path: str
    value: Any
    marks: dict[At, tuple[int, int]]
    problems: list[RayclusterError] = field(default_factory=list)
    texts: dict[At, str] = field(default_factory=dict)  # plain values as written: of 25.10, `value` has only a float

    def where(self, at: At) -> str:
        """Return `file:line:column` of the value at a path, or of the nearest part that holds it."""
        while at and at not in self.marks:
            at = at[:-1]
        line, column = self.marks.get(at, (1, 1))
        return f"{self.path}:{line}:{column}"

    def report(self, message: str, at: At, fix: str = "") -> None:
        """Note a mistake; `finish` raises them all together."""
        self.problems.append(InvalidUse(message, where=self.where(at), fix=fix))

    def read(self, cls: type[T], value: Any, at: At) -> T | None:
        """Return `value` as a frozen `cls`, or None after reporting each of its mistakes.

        Checking enters through JSON, because pydantic in strict mode takes mappings for dataclasses only there.
        """
        adapter = TypeAdapter(cls)
        try:
            text = json.dumps({} if value is None else value)
            return adapter.validate_json(text, strict=True)
        except TypeError as error:
            self.report(f"{error}: quote the value", at)
        except ValidationError as error:
            places = [tuple(mistake["loc"]) for mistake in error.errors()]
            for mistake, place in zip(error.errors(), places, strict=True):
                # a whole that fails only because a part of it did is not a mistake of its own
                if not any(len(other) > len(place) and other[: len(place)] == place for other in places):
                    self._report_pydantic(dict(mistake), adapter.json_schema(), at)
        return None

    def choose(self, value: Any, known: list[str], at: At) -> str | None:
        """Return the one key of the mapping `value`, which must be one of `known`."""
        if not isinstance(value, dict) or len(value) != 1:
            self.report(f"expected exactly one of {', '.join(known)}", at)
            return None
        return str(next(iter(value)))

    def finish(self) -> None:
        """Raise InvalidFile if any mistake was reported, in the order of the file."""
        if self.problems:
            self.problems.sort(key=lambda problem: [int(part) for part in problem.where.split(":")[-2:]])
            raise InvalidFile(self.problems)

    def _report_pydantic(self, mistake: dict[str, Any], schema: dict[str, Any], at: At) -> None:
        inside: At = tuple(mistake["loc"])
        place = at + inside
        if mistake["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = keys_at(schema, inside[:-1])
            self.report(f"unknown key {str(inside[-1])!r}", place, fix=nearest(str(inside[-1]), known))
        elif mistake["type"] in ("missing", "missing_argument"):
            self.report(f"missing key {str(inside[-1])!r}", place)
        else:
            name = ".".join(str(part) for part in inside)
            message = str(mistake["msg"]).removeprefix("Value error, ")
            self.report(f"{name}: {message}" if name else message, place)


def nearest(name: str, known: list[str]) -> str:
    """Say which known name is nearest, or list them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"valid here: {', '.join(sorted(known)) or 'nothing'}"


def keys_at(schema: dict[str, Any], at: At) -> list[str]:
    """Return the valid keys of the object at a path of a JSON Schema."""
    node, definitions = schema, schema.get("$defs", {})
    for part in at:
        node = _resolve(node, definitions)
        others = node.get("additionalProperties")  # of a mapping by name: one schema for all its members
        members = others if isinstance(others, dict) else node.get("items") or {}
        node = node.get("properties", {}).get(part) or members
    return list(_resolve(node, definitions).get("properties", {}))


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", []):  # `X | None`: the object of the two
        if "$ref" in option or "properties" in option or "items" in option:
            node = option
    if "$ref" in node:
        return dict(definitions[node["$ref"].rpartition("/")[2]])
    return node


def load(path: str | Path) -> Document:
    """Read one YAML file.

    Raises:
        NotFound: no such file.
        InvalidFile: not YAML, a key twice, an alias, too large or too deep, or not a mapping.
    """
    return parse(_text(path), str(path))


def load_all(path: str | Path) -> list[Document]:
    """Read a YAML file that others read too (`ray up`, Kubernetes): several documents, with anchors and merge keys.

    A value that a merge key brings stands where its anchor does.

    Raises:
        NotFound: no such file.
        InvalidFile: not YAML, a key twice, a tag, too large or too deep, or a document that is no mapping.
    """
    text, whole = _text(path), Document(path=str(path), value=None, marks={})
    found: list[Document] = []
    with _reporting(whole):
        if _is_simple(whole, text, plain=False):
            nodes = yaml.compose_all(text, Loader=yaml.SafeLoader)
            found = [_borrowed(whole.path, node) for node in nodes if not node.tag.endswith(":null")]
    told = {str(problem): problem for document in found for problem in document.problems}  # once, however many aliases
    whole.problems += told.values()
    if not found and not whole.problems:
        whole.report("expected a mapping, found nothing", ())
    whole.finish()
    return found


def _text(path: str | Path) -> str:
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return content.decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"no such file: {name}", fix="give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        if len(content) <= MOST_BYTES:  # a larger one may be cut within a letter, and is refused as too large
            raise InvalidUse(f"{name} cannot be read: {error}") from error
        return content.decode("utf-8", "replace")
    except OSError as error:
        raise InvalidUse(f"{name} cannot be read: {error}") from error


def parse(text: str, name: str = "<text>") -> Document:
    """Turn YAML text into a document; `name` is what its mistakes are reported under."""
    document = Document(path=name, value=None, marks={})
    node = None
    with _reporting(document):
        if _is_simple(document, text):
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            document.value = None if node is None else yaml.SafeLoader("").construct_document(node)
    document.finish()
    _mark(document, node, ())
    if not isinstance(document.value, dict):
        document.report("expected a mapping with apiVersion, kind, metadata and spec", ())
    document.finish()
    return document


@contextmanager
def _reporting(document: Document) -> Iterator[None]:
    """Report what is no YAML."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            document.marks[()] = (mark.line + 1, mark.column + 1)
        document.report(f"not YAML: {error.problem or error.context}", ())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        document.report(f"not YAML: {error}", ())


def _borrowed(name: str, node: Any) -> Document:
    """Turn one document of a file that others read too into values that remember where they stood."""
    document = Document(path=name, value=None, marks={})
    if _expanded(node, {}) > _MOST_NODES:
        document.report("aliases make it endless, or nearly", (), "write out what they stand for")
        return document
    _mark(document, node, ())
    document.value = yaml.SafeLoader("").construct_document(node)  # replaces merge keys in `node` by what they bring
    _mark(document, node, (), merged=True)
    if not isinstance(document.value, dict):
        document.report("expected a mapping", ())
    return document


def _expanded(node: Any, sizes: dict[int, int]) -> int:
    """Return how many nodes one stands for, its aliases written out; one within itself stands for too many."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_NODES + 1  # while it is being counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        members = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        sizes[id(node)] = 1 + sum(_expanded(member, sizes) for member in members)
    return sizes[id(node)]


def _is_simple(document: Document, text: str, *, plain: bool = True) -> bool:
    """Report what a few lines could make endless: aliases of aliases, depth, sheer size.

    Events are counted before anything is built from them; the scanner itself uses no recursion. A text that is not to
    be `plain` may have anchors, and some aliases.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        document.report(f"the file is larger than {show_bytes(MOST_BYTES)}", (), "split it into several files")
        return False
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        problem = _excess(event, plain or aliases > _MOST_ALIASES)
        problem = problem or (f"nested more than {_MOST_DEPTH} deep" if depth > _MOST_DEPTH else "")
        if problem:
            mark: Any = event.start_mark
            document.marks[()] = (mark.line + 1, mark.column + 1)
            document.report(problem, (), "write plain mappings, lists and values")
            return False
    return True


def _excess(event: Any, plain: bool) -> str:
    """Name what a declaration does without: tags, and where it is `plain`, anchors and aliases."""
    if isinstance(event, yaml.AliasEvent):
        return f"aliases (*{event.anchor}) are not taken" if plain else ""
    if plain and isinstance(event, yaml.NodeEvent) and event.anchor is not None:
        return f"anchors (&{event.anchor}) are not taken"
    tag = getattr(event, "tag", None)
    return "" if tag is None else f"tags ({str(tag).replace('tag:yaml.org,2002:', '!!')}) are not taken"


def _mark(document: Document, node: Any, at: At, *, merged: bool = False) -> None:
    """Note where every key and list member stands, and keys that stand twice.

    Once merge keys are `merged`, a key may: that of the mapping itself, noted before, holds.
    """
    document.marks.setdefault(at, (node.start_mark.line + 1, node.start_mark.column + 1) if node else (1, 1))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*at, key.value)
            mark = (key.start_mark.line + 1, key.start_mark.column + 1)
            if merged:
                mark = document.marks.get(place, mark)
            elif place in document.marks:
                document.problems.append(
                    InvalidUse(
                        f"key {key.value!r} stands twice",
                        where=f"{document.path}:{mark[0]}:{mark[1]}",
                        fix=f"the first is at {document.where(place)}",
                    )
                )
            document.marks[place] = mark
            _mark(document, value, place, merged=merged)
    elif isinstance(node, yaml.SequenceNode):
        for index, member in enumerate(node.value):
            _mark(document, member, (*at, index), merged=merged)
    elif isinstance(node, yaml.ScalarNode):
        document.texts[at] = node.value
