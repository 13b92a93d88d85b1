"""Rows are judged: one file a kind of check, each a stage that sets `error` and changes nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from raycluster.row import ERROR
from raycluster.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Check(Stage):
    """Says no to rows, with a code and a reason a person understands."""

    @property
    def writes(self) -> pa.Schema:
        """Return the one column that a check may write."""
        return pa.schema([("error", ERROR)])
