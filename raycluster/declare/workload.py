"""The text of a workload file becomes a frozen `Workload`, and back.

Comes before `plan.py`. The parts that name stages are read by the stages' own classes, found by their file names,
so a new stage needs no line here. The same classes build a workload in Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter

from raycluster import stage
from raycluster.declare.columns import clashes
from raycluster.declare.document import API_VERSION, DIALECT, At, Document, load, nearest, parse
from raycluster.errors import InvalidUse, NotFound

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")]
IndexKind = Literal["ivf_rq", "ivf_sq", "ivf_pq", "ivf_hnsw_sq", "ivf_flat", "fts", "btree", "bitmap"]
_STRICT = {"extra": "forbid"}
_LONGEST = 30 * 86_400.0  # seconds. The kernel's timer takes 0 for none, and has an end.


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Who this workload is, and who pays for it."""

    __pydantic_config__ = _STRICT
    name: Name
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much may be bad before a run fails and `live` stays where it is."""

    __pydantic_config__ = _STRICT
    rate: Annotated[float, Field(ge=0, le=1)] | None = None  # share of objects
    count: Annotated[int, Field(ge=0)] | None = None  # objects


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What happens to bad rows, how many are too many, and which rules say what is bad."""

    __pydantic_config__ = _STRICT
    on_bad: Literal["quarantine", "drop", "fail"] = "quarantine"
    budget: Budget = Budget()
    rules: tuple[Any, ...] = ()  # check stages, as `{use: name, ...}`


@dataclass(frozen=True, kw_only=True)
class Index:
    """One index of the dataset."""

    __pydantic_config__ = _STRICT
    column: str
    kind: IndexKind = "ivf_rq"


@dataclass(frozen=True, kw_only=True)
class Sink:
    """Where rows go, and how they are found there."""

    __pydantic_config__ = _STRICT
    dataset: Name
    index: tuple[Index, ...] = (Index(column="vector"), Index(column="text", kind="fts"))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A declared job: source -> decode -> encode -> check -> dataset."""

    name: str
    labels: dict[str, str]
    source: Any  # read.Source
    decode: tuple[Any, ...]  # decode.Decode, one a modality
    # encode.Encode, in order; a later one wins in the columns they share. Those that a decoder relies on are added.
    encode: tuple[Any, ...] = ()
    check: Checks = Checks()
    sink: Sink

    def __post_init__(self) -> None:
        if not self.labels.get("team"):
            raise InvalidUse("metadata.labels.team is missing", fix="name the team that pays, as `team: NAME`")
        # first: others read what they write
        object.__setattr__(self, "encode", (*_implied(self.decode, self.encode), *self.encode))
        for _, problem in clashes(self.encode):
            raise problem


def _implied(decode: Sequence[Any], encode: Sequence[Any]) -> tuple[Any, ...]:
    """Return the encoders that the decoders rely on and that are not declared."""
    wanted = dict.fromkeys(name for decoder in decode for name in decoder.relies_on)
    present = {encoder.name for encoder in encode}
    return tuple(stage.find("encode", name)() for name in wanted if name not in present)


@dataclass(frozen=True, kw_only=True)
class _Envelope:
    __pydantic_config__ = _STRICT
    apiVersion: Literal["raycluster/v1"]  # noqa: N815 - the field's name in every such file
    kind: Literal["Workload"]
    metadata: Metadata
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Spec:
    __pydantic_config__ = _STRICT
    source: dict[str, Any]
    decode: dict[str, Any]
    encode: tuple[dict[str, Any], ...] = ()
    check: Checks = Checks()
    sink: Sink


def load_workload(path: str | Path) -> Workload:
    """Read a workload file.

    Raises:
        NotFound: no such file.
        InvalidFile: with every mistake in it.
    """
    return build(load(path))


def parse_workload(text: str, name: str = "<text>") -> Workload:
    """Read a workload from YAML text; see `load_workload`."""
    return build(parse(text, name))


def build(document: Document) -> Workload:
    """Make a workload of a document that holds one.

    Raises:
        InvalidFile: with every mistake in it.
    """
    envelope = document.read(_Envelope, document.value, ())
    raw = document.value.get("spec")
    if not isinstance(raw, dict):
        document.finish()
        raise InvalidUse("spec must be a mapping", where=document.where(("spec",)))
    spec = document.read(_Spec, raw, ("spec",))
    labels = envelope.metadata.labels if envelope else {}
    if envelope and not labels.get("team"):
        fix = "name the team that pays, as `labels: {team: NAME}`"
        document.report("metadata.labels.team is missing", ("metadata", "labels"), fix)
    source = _one(document, "read", raw.get("source"), ("spec", "source"))
    decode = _mapping(document, raw.get("decode"), ("spec", "decode"))
    encode = _uses(document, "encode", raw.get("encode"), ("spec", "encode"))
    _report_clashes(document, decode, encode)
    checks = raw.get("check")
    at: At = ("spec", "check", "rules")
    rules = _uses(document, "check", checks.get("rules") if isinstance(checks, dict) else None, at)
    if not decode and isinstance(raw.get("decode"), dict):
        document.report(f"decode names no modality (known: {', '.join(stage.names('decode'))})", ("spec", "decode"))
    document.finish()
    assert envelope is not None and spec is not None  # noqa: PT018 - finish() raised otherwise
    return Workload(
        name=envelope.metadata.name,
        labels=labels,
        source=source,
        decode=tuple(decode),
        encode=tuple(encode),
        check=replace(spec.check, rules=tuple(rules)),
        sink=spec.sink,
    )


def _one(document: Document, family: str, value: Any, at: At) -> Any:
    name = document.choose(value, stage.names(family), at)
    return None if name is None else _stage(document, family, name, (value[name], (*at, name)))


def _mapping(document: Document, value: Any, at: At) -> list[Any]:
    entries = value.items() if isinstance(value, dict) else []
    return [_stage(document, "decode", str(name), (options, (*at, name))) for name, options in entries]


def _uses(document: Document, family: str, value: Any, at: At) -> list[Any]:
    stages: list[Any] = []
    for index, entry in enumerate(value if isinstance(value, list | tuple) else []):
        place = (*at, index)
        if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
            document.report("expected a mapping with `use: NAME`", place, nearest("", stage.names(family)))
            stages.append(None)
            continue
        options = {key: option for key, option in entry.items() if key != "use"}
        stages.append(_stage(document, family, entry["use"], (options, place)))
    return stages


def _report_clashes(document: Document, decode: list[Any], encode: list[Any]) -> None:
    if None in (*decode, *encode):  # told already
        return
    implied = _implied(decode, encode)
    for index, problem in clashes((*implied, *encode)):
        document.report(problem.message, ("spec", "encode", index - len(implied)), problem.fix)


def _stage(document: Document, family: str, name: str, declared: tuple[Any, At]) -> Any:
    options, at = declared
    try:
        cls = stage.find(family, name)
    except (NotFound, InvalidUse) as error:
        document.report(error.message, (*at, "use") if (*at, "use") in document.marks else at, error.fix)
        return None
    if options is not None and not isinstance(options, dict):
        document.report(f"{name}: expected a mapping of options, found {options!r}", at)
        return None
    made = document.read(cls, options, at)
    if not 0 < getattr(made, "timeout", 1.0) <= _LONGEST:  # of any stage, a private one too
        document.report("timeout: must be more than 0 and at most 30d", (*at, "timeout"))
    return made


def stage_name(family: str, member: Any) -> str:
    """Return what YAML calls a stage: its file's name, or `package.module:Class` for a private one."""
    module = type(member).__module__
    package, _, name = module.rpartition(".")
    return name if package == f"raycluster.{family}" else f"{module}:{type(member).__qualname__}"


def declaration(family: str, member: Any) -> dict[str, Any]:
    """Return a stage's options as YAML would write them: only those that differ from the default."""
    adapter = TypeAdapter(type(member))
    options = adapter.dump_python(member, mode="json", exclude_defaults=True)
    return {"use": stage_name(family, member), **options}


def dump(workload: Workload) -> str:
    """Write a workload as the YAML that `parse_workload` reads back into an equal one."""
    source = declaration("read", workload.source)
    decoders = [declaration("decode", member) for member in workload.decode]
    check: dict[str, Any] = TypeAdapter(Checks).dump_python(replace(workload.check, rules=()), mode="json")
    check["budget"] = {key: limit for key, limit in check["budget"].items() if limit is not None}
    check["rules"] = [declaration("check", rule) for rule in workload.check.rules]
    spec = {
        "source": {source.pop("use"): source},
        "decode": {options.pop("use"): options for options in decoders},
        "encode": [declaration("encode", member) for member in workload.encode],
        "check": check,
        "sink": TypeAdapter(Sink).dump_python(workload.sink, mode="json"),
    }
    metadata = {"name": workload.name, "labels": workload.labels}
    whole = {"apiVersion": API_VERSION, "kind": "Workload", "metadata": metadata, "spec": spec}
    return yaml.safe_dump(json.loads(json.dumps(whole)), sort_keys=False)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a workload file, with every member of every family in it."""
    definitions: dict[str, Any] = {}

    def member(family: str, name: str, use: bool) -> dict[str, Any]:
        key = f"{family}.{name}"
        own = TypeAdapter(stage.find(family, name)).json_schema(ref_template=f"#/$defs/{key}.{{model}}")
        for inner, definition in own.pop("$defs", {}).items():
            definitions[f"{key}.{inner}"] = definition
        if use:
            own["properties"] = {"use": {"const": name}, **own.get("properties", {})}
            own["required"] = ["use", *own.get("required", [])]
        definitions[key] = own | {"title": name}
        return {"$ref": f"#/$defs/{key}"}

    def uses(family: str) -> dict[str, Any]:
        private = {"type": "object", "properties": {"use": {"type": "string", "pattern": ":"}}, "required": ["use"]}
        return {"type": "array", "items": {"anyOf": [*(member(family, n, True) for n in stage.names(family)), private]}}

    whole = TypeAdapter(_Envelope).json_schema()
    spec = TypeAdapter(_Spec).json_schema()
    definitions |= whole.pop("$defs", {}) | spec.pop("$defs", {})
    sources = {name: member("read", name, False) for name in stage.names("read")}
    decoders = {name: _nullable(member("decode", name, False)) for name in stage.names("decode")}
    spec["properties"]["source"] = _closed(sources) | {"minProperties": 1, "maxProperties": 1}
    spec["properties"]["decode"] = _closed(decoders) | {"minProperties": 1, "patternProperties": {":": {}}}
    spec["properties"]["encode"] = uses("encode")
    definitions["Checks"]["properties"]["rules"] = uses("check")
    whole["properties"]["spec"] = spec
    title = {"$schema": DIALECT, "title": "Workload"}
    return {**title, **{key: value for key, value in whole.items() if key != "title"}, "$defs": definitions}


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [node, {"type": "null"}]}
