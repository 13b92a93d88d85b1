"""Rows outside declared bounds become bad ones: a measured feature that is too small or too large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raycluster.check import Check
from raycluster.errors import BadMedia
from raycluster.row import features_type, with_errors
from raycluster.stage import unknown


@dataclass(frozen=True, kw_only=True)
class Bounds(Check):
    """Refuses rows (code `contract`) whose feature lies outside of bounds; a row without it passes.

    feature: what a decoder measured, such as `sharpness`, `loudness`, `language_confidence`, `gaps`.
    min, max: the bounds, both included; one of them at least.
    """

    feature: str
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        measured = [field.name for field in features_type() if pa.types.is_primitive(field.type)]
        if self.feature not in measured:
            raise ValueError(f"{unknown('feature', self.feature, measured)}".replace("\n  fix:", ";"))
        if self.min is None and self.max is None:
            raise ValueError("bounds need `min`, `max` or both")

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the column of features."""
        return ("features",)

    def open(self) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        """Return the check of a batch of rows."""
        return self._judge

    def _judge(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        found = pc.cast(pc.struct_field(rows.column("features"), self.feature), pa.float64()).to_pylist()
        good = rows.column("error").is_null().to_pylist()
        return with_errors(
            rows,
            {
                index: BadMedia("contract", f"{self.feature} is {value:g}, {self._wanted()}")
                for index, value in enumerate(found)
                if value is not None and good[index] and not self._holds(value)
            },
        )

    def _holds(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def _wanted(self) -> str:
        limits = [f"at least {self.min:g}"] if self.min is not None else []
        limits += [f"at most {self.max:g}"] if self.max is not None else []
        return "wanted " + " and ".join(limits)
