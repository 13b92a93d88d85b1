"""The columns that encoders write become those of one dataset, or the reasons why they cannot.

Names are told before anything is read: a column that two encoders understand differently would otherwise end a run
at its first batch, and one that the engine fills itself would be overwritten without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from raycluster.errors import InvalidUse, RayclusterError
from raycluster.row import PAYLOAD

# Several encoders may write these; the last one that has something to write wins.
SHARED = ("text", "vector", "label", "label_score")
# What every row of a dataset has, what rows carry within a run, and what a hit adds.
_DATASET = {"id", "object_id", "uri", "sha256", "modality", "media_type", "position", "start_seconds", "end_seconds"}
_DATASET |= {"thumbnail", "features", "provenance", "ingested_at"}
FIXED = frozenset({*_DATASET, *PAYLOAD.names, "pieces", "stage", "score"})
_TYPES = {"text": pa.string(), "label": pa.string(), "label_score": pa.float32()}


def clashes(encoders: Sequence[Any]) -> Iterator[tuple[int, InvalidUse]]:
    """Yield the index of every encoder that writes a column it must not, and why.

    An encoder that cannot say yet what it writes (its model's configuration is out of reach) is passed over; the
    plan asks it again.
    """
    first: dict[str, tuple[str, pa.DataType]] = {}
    for index, encoder in enumerate(encoders):
        for field in _written(encoder):
            problem = _problem(encoder.name, field, first.get(field.name))
            if problem is not None:
                yield index, problem
            first.setdefault(field.name, (encoder.name, field.type))


def _written(encoder: Any) -> list[pa.Field]:
    try:
        return list(encoder.writes)
    except RayclusterError:
        return []


def _problem(encoder: str, field: pa.Field, before: tuple[str, pa.DataType] | None) -> InvalidUse | None:
    name, rename = field.name, "give its column another name"
    if name in FIXED or name.startswith("_"):
        return InvalidUse(f"{encoder} writes column {name!r}, which raycluster fills itself", fix=rename)
    if not _fits(field):
        return InvalidUse(
            f"{encoder} writes column {name!r} as {_shown(field.type)}, not as {_wanted(name)}", fix=rename
        )
    if before is None:
        return None
    if name not in SHARED:
        fix = f"{rename}; only {', '.join(SHARED)} may be written by several"
        return InvalidUse(f"{encoder} writes column {name!r}, which {before[0]} writes already", fix=fix)
    if field.type != before[1]:
        message = f"{encoder} writes column {name!r} as {_shown(field.type)}, {before[0]} as {_shown(before[1])}"
        return InvalidUse(message, fix="write them to two datasets, or leave one of them out of the shared column")
    return None


def _fits(field: pa.Field) -> bool:
    if field.name == "vector":
        return bool(pa.types.is_fixed_size_list(field.type) and field.type.value_type == pa.float32())
    return bool(field.type == _TYPES.get(field.name, field.type))


def _wanted(name: str) -> str:
    return "a vector of float" if name == "vector" else str(_TYPES[name])


def _shown(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"a vector of {kind.list_size} {kind.value_type}"
    return str(kind)
