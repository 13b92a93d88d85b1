"""The text of a price file becomes frozen `Prices`: what nodes, resources, storage and traffic cost, in nano-dollars.

Comes before `account/price.py`. Amounts are read from what the file says, digit by digit, and are integers from then
on: a price of 0.10 dollars is 100,000,000 nano-dollars, and no float ever stands between.

A node costs what its type costs. Unit prices (a core, a GiB of memory, a GPU) price the types that the file doesn't
name, and say how the price of a node divides into its cores, GPUs and memory: in proportion to what these would cost
by the unit. Where a file has no unit prices, those of `LOCAL` divide; a ratio is all that is taken from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, WithJsonSchema
from pydantic_core import core_schema

from raycluster.declare.document import DIALECT, At, Document, load, nearest, parse
from raycluster.declare.workload import Name
from raycluster.errors import InvalidUse
from raycluster.units import Bytes, NanoUsd, nano_usd

_STRICT = {"extra": "forbid"}
_QUANTITIES = ("cpus", "gpus", "memory")  # the numbers of a price file that are no money
DEFAULT = "default"  # the accelerator of `gpu_hour` that stands for those it doesn't name

Word = Literal["proportional", "even", "keep"]
WORDS = get_args(Word)


def _amount(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not an amount of US dollars: write it like 0.0316")
    return nano_usd(str(value))


Usd = Annotated[
    NanoUsd,
    BeforeValidator(_amount),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"}],
            "description": "US dollars, to nine decimals",
            "examples": [0.4032],
        }
    ),
]


@dataclass(frozen=True, kw_only=True)
class NodePrice:
    """What a node of one type costs an hour, and, where a node tells wrongly or not at all, what it has."""

    __pydantic_config__ = _STRICT
    on_demand: Usd
    spot: Usd | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What keeping data costs: a GiB for a month of 730 hours (a twelfth of a year)."""

    __pydantic_config__ = _STRICT
    gib_month: Usd


@dataclass(frozen=True, kw_only=True)
class Egress:
    """What sending data out of the region or to the internet costs: a GiB."""

    __pydantic_config__ = _STRICT
    gib: Usd


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who bears a shared line."""

    __pydantic_config__ = _STRICT
    team: Annotated[str, Field(min_length=1)]
    project: str | None = None
    environment: str | None = None


@dataclass(frozen=True, kw_only=True)
class To:
    """A shared line is borne by one named owner."""

    __pydantic_config__ = _STRICT
    to: Owner


class _WordOrOwner:
    """Reads a rule, with one message for a wrong word instead of one for each form that a rule can take."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def read(value: Any, owner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, dict | To):
                return owner(value)
            if value in WORDS:
                return value
            fix = nearest(str(value), [*WORDS, "to"])
            raise ValueError(f"{value!r} is no rule: write {', '.join(WORDS)}, or {{to: {{team: NAME}}}} ({fix})")

        return core_schema.no_info_wrap_validator_function(read, handler.generate_schema(To))

    def __get_pydantic_json_schema__(self, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return {"anyOf": [{"type": "string", "enum": list(WORDS)}, handler(core)]}


Rule = Annotated[Word | To, _WordOrOwner()]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Who bears the lines that have no owner of their own, by their kind.

    `proportional`: those who used the cluster in the same window, by what they cost themselves. `even`: the same, in
    equal parts. `{to: {team: ...}}`: one named owner. `keep`: nobody; the line is shown as it is. By default the
    cluster is borne by those for whom it stood there, and what is not its own or not known stays visible.
    """

    __pydantic_config__ = _STRICT
    idle: Rule = "proportional"
    system: Rule = "proportional"
    startup: Rule = "proportional"
    background: Rule = "proportional"
    other: Rule = "keep"
    unexplained: Rule = "keep"
    unattributed: Rule = "keep"


@dataclass(frozen=True, kw_only=True)
class _Spec:
    __pydantic_config__ = _STRICT
    currency: Literal["USD"]
    nodes: dict[str, NodePrice] = field(default_factory=dict)  # by node type
    cpu_hour: Usd | None = None
    gib_hour: Usd | None = None
    gpu_hour: dict[str, Usd] = field(default_factory=dict)  # by accelerator, and `default`
    storage: Storage | None = None
    egress: Egress | None = None
    shared: Shared = Shared()


@dataclass(frozen=True, kw_only=True)
class Prices(_Spec):
    """A version of a price list. Amounts are integers, in nano-dollars."""

    currency: Literal["USD"] = "USD"
    name: str
    version: str

    def __post_init__(self) -> None:
        for message, _, fix in _mistakes(self):
            raise InvalidUse(message, fix=fix)

    @property
    def ref(self) -> str:
        """Return what costs name their prices by: name@version."""
        return f"{self.name}@{self.version}"


def _mistakes(spec: _Spec) -> Iterator[tuple[str, At, str]]:
    """Yield what keys say only together: a message, the key below `spec`, what to do."""
    if (spec.cpu_hour is None) != (spec.gib_hour is None):
        given, lacking = ("cpu_hour", "gib_hour") if spec.gib_hour is None else ("gib_hour", "cpu_hour")
        yield f"{given} without {lacking} prices half a node", (given,), f"add {lacking}"
    if spec.gpu_hour and DEFAULT not in spec.gpu_hour:
        yield f"gpu_hour has no {DEFAULT!r}", ("gpu_hour",), "add `default: PRICE`, for accelerators it doesn't name"
    if spec.gpu_hour and spec.cpu_hour is None and spec.gib_hour is None:
        yield "gpu_hour without cpu_hour and gib_hour prices half a node", ("gpu_hour",), "add cpu_hour and gib_hour"
    if not spec.nodes and spec.cpu_hour is None and spec.gib_hour is None:
        fix = "add `nodes: {TYPE: {on_demand: PRICE}}`, or cpu_hour, gib_hour and gpu_hour"
        yield "prices no node", (), fix


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    __pydantic_config__ = _STRICT
    name: Name
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


@dataclass(frozen=True, kw_only=True)
class _Envelope:
    __pydantic_config__ = _STRICT
    apiVersion: Literal["raycluster/v1"]  # noqa: N815 - the field's name in every such file
    kind: Literal["Prices"]
    metadata: _Metadata
    spec: _Spec


# Opencost's figures for clusters without a price list, which are those of GCP us-central1: a machine at home costs
# what it would have cost to rent one. The disk is theirs of 0.00005479452 USD a GiB-hour, which is 0.04 a month.
# Idle time of the machine is nobody's: it was not bought for this. The same as workloads/prices/local.yaml.
# Source: opencost.io/docs/configuration/on-prem
LOCAL = Prices(
    name="local",
    version="2026-11-01",
    cpu_hour=nano_usd("0.031611"),
    gib_hour=nano_usd("0.004237"),
    gpu_hour={DEFAULT: nano_usd("0.95")},
    storage=Storage(gib_month=nano_usd("0.04")),
    egress=Egress(gib=nano_usd("0.12")),
    shared=Shared(idle="keep"),
)


def load_prices(path: str | Path) -> Prices:
    """Read a price file.

    Raises:
        NotFound: no such file.
        InvalidFile: with every mistake in it.
    """
    return build(load(path))


def parse_prices(text: str, name: str = "<text>") -> Prices:
    """Read prices from YAML text; see `load_prices`."""
    return build(parse(text, name))


def build(document: Document) -> Prices:
    """Make prices of a document that holds them.

    Raises:
        InvalidFile: with every mistake in it.
    """
    envelope = document.read(_Envelope, _as_written(document, document.value, ()), ())
    for message, at, fix in _mistakes(envelope.spec) if envelope else ():
        document.report(message, ("spec", *at), fix)
    document.finish()
    assert envelope is not None  # finish() raised otherwise
    return Prices(name=envelope.metadata.name, version=envelope.metadata.version, **vars(envelope.spec))


def _as_written(document: Document, value: Any, at: At) -> Any:
    """Return a value with its amounts as the text that the file has, and a version that YAML takes for a date too."""
    if isinstance(value, dict):
        return {key: _as_written(document, member, (*at, str(key))) for key, member in value.items()}
    is_amount = isinstance(value, int | float) and not isinstance(value, bool) and at[-1] not in _QUANTITIES
    is_version = at == ("metadata", "version") and isinstance(value, date) and not isinstance(value, datetime)
    in_spec = at[:1] == ("spec",)
    return document.texts.get(at, value) if is_version or (is_amount and in_spec) else value


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a price file."""
    return {"$schema": DIALECT, **TypeAdapter(_Envelope).json_schema(), "title": "Prices"}
