"""The text of a budget file becomes a frozen `Budget`: whose costs count, over which period, and what is too much.

`account/budget.py` judges what was spent. Not to be confused with a workload's `check.budget`, which counts bad rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, WithJsonSchema

from raycluster.declare.document import API_VERSION, DIALECT, MOST_BYTES, Document, load, parse
from raycluster.declare.workload import Name
from raycluster.errors import InvalidFile, InvalidUse, NotFound, RayclusterError
from raycluster.units import NanoUsd, nano_usd

Period = Literal["day", "week", "month", "quarter", "year", "run"]

_STRICT = {"extra": "forbid"}


def _amount(value: Any) -> NanoUsd:
    if not isinstance(value, str):
        raise ValueError("expected an amount of US dollars, like 25.00")
    return nano_usd(value)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


Label = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]  # of the limit
_SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
Shares = Annotated[
    tuple[Share, ...],
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [_SHARE, {"type": "array", "items": _SHARE}], "examples": [[0.5, 0.8]]}),
]
Dollars = Annotated[
    NanoUsd, BeforeValidator(_amount), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "examples": [25.00]})
]


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The labels of those whose costs count; one that is left out may be anything."""

    __pydantic_config__ = _STRICT
    team: Label = ""
    project: Label = ""
    environment: Label = ""

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that are given."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much an owner may spend in a period, when to warn and when to stop."""

    name: str
    owner: Owner
    period: Period  # of the calendar, in UTC; weeks begin on Monday. `run`: each run by itself
    limit: NanoUsd
    warn: tuple[float, ...] = (0.8,)  # shares of the limit
    stop: float | None = 1.0  # share of the limit; None: only warn
    where: str = field(default="", compare=False)  # of the limit, "workloads/budgets/x.yaml:8:3"

    def __post_init__(self) -> None:
        for _, message, fix in _faults(self.owner, self.limit, self.warn, self.stop):
            raise InvalidUse(message, fix=fix)
        object.__setattr__(self, "warn", tuple(sorted(set(self.warn))))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the costs of a workload with these labels count."""
        return all(labels.get(name) == value for name, value in self.owner.labels.items())

    def window(self, at: datetime) -> tuple[datetime, datetime] | None:
        """Return when the period that holds this moment began, and when the next one does; None for single runs."""
        day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        months = {"month": 1, "quarter": 3, "year": 12}.get(self.period)
        if months:
            first = (day.month - 1) // months * months  # counted from 0
            year, month = divmod(day.year * 12 + first + months, 12)
            return day.replace(month=first + 1, day=1), day.replace(year=year, month=month + 1, day=1)
        if self.period == "run":
            return None
        since = day - timedelta(days=day.weekday()) if self.period == "week" else day
        return since, since + timedelta(days=7 if self.period == "week" else 1)

    def at(self, share: float) -> NanoUsd:
        """Return the amount that is this share of the limit, exactly, or the next whole nano-dollar."""
        return ceil(Decimal(str(share)) * self.limit)


def _faults(owner: Owner, limit: NanoUsd, warn: Sequence[float], stop: float | None) -> Iterator[tuple[str, str, str]]:
    """Yield key, message and fix of each way in which well-formed values make no budget."""
    if not owner.labels:
        yield "owner", "owner names nobody", "give one at least of team, project, environment"
    if limit <= 0:
        yield "limit", "limit: must be more than 0", ""
    if not warn and stop is None:
        yield "warn", "this budget would neither warn nor stop", "give `warn: [0.8]`, or `stop: 1.0`"
    late = [share for share in warn if stop is not None and share >= stop]
    if late:
        message = f"warn: {max(late):g} is not below stop ({stop:g}), so it would never be told"
        yield "warn", message, "give shares below it, or `warn: []`"


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    __pydantic_config__ = _STRICT
    name: Name


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """Whose costs are counted, over which period, and what is too much."""

    __pydantic_config__ = _STRICT
    owner: Owner
    period: Period
    limit: Dollars
    warn: Shares = (0.8,)
    stop: Share | None = 1.0


@dataclass(frozen=True, kw_only=True)
class _Envelope:
    __pydantic_config__ = _STRICT
    apiVersion: Literal["raycluster/v1"]  # noqa: N815 - the field's name in every such file
    kind: Literal["Budget"]
    metadata: _Metadata
    spec: _Spec


def load_budgets(path: str | Path) -> tuple[Budget, ...]:
    """Read a budget file, or every one below a folder; files of other kinds are passed over.

    Raises:
        NotFound: no such file, or no budget in the folder.
        InvalidFile: with every mistake in all of them; two budgets of one name are one.
    """
    problems: list[RayclusterError] = []
    found: dict[str, Budget] = {}
    for file in _files(Path(path)):
        try:
            document = load(file)
            if Path(path).is_dir() and document.value.get("kind") != "Budget":
                continue
            budget = build(document)
        except InvalidFile as error:
            problems += error.problems
            continue
        if (first := found.setdefault(budget.name, budget)) is not budget:
            message = f"there are two budgets {budget.name!r}"
            problems.append(InvalidUse(message, where=budget.where, fix=f"rename one; the other is at {first.where}"))
    if problems:
        raise InvalidFile(problems)
    if not found:
        raise NotFound(f"no budget below {path}", fix=f"such a file holds `apiVersion: {API_VERSION}`, `kind: Budget`")
    return tuple(found.values())


def _files(path: Path) -> list[Path]:
    """Return the file, or every one below the folder that may be a budget: most others are not read as YAML."""
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.rglob("*.y*ml")) if file.is_file() and _speaks_of_budgets(file)]


def _speaks_of_budgets(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES)
    except OSError:  # it may be one: told when it is read
        return True
    return b"raycluster/" in content and b"Budget" in content


def parse_budget(text: str, name: str = "<text>") -> Budget:
    """Read a budget from YAML text; see `load_budgets`."""
    return build(parse(text, name))


def build(document: Document) -> Budget:
    """Make a budget of a document that holds one.

    Raises:
        InvalidFile: with every mistake in it.
    """
    value = document.value
    if (written := document.texts.get(("spec", "limit"))) is not None:
        value = value | {"spec": value["spec"] | {"limit": written}}  # never through a float
    envelope = document.read(_Envelope, value, ())
    document.finish()
    assert envelope is not None  # finish() raised otherwise
    spec = envelope.spec
    for key, message, fix in _faults(spec.owner, spec.limit, spec.warn, spec.stop):
        document.report(message, ("spec", key), fix)
    document.finish()
    return Budget(
        name=envelope.metadata.name,
        owner=spec.owner,
        period=spec.period,
        limit=spec.limit,
        warn=spec.warn,
        stop=spec.stop,
        where=document.where(("spec", "limit")),
    )


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a budget file."""
    return {"$schema": DIALECT, **TypeAdapter(_Envelope).json_schema(), "title": "Budget"}
