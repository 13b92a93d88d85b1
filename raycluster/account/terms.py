"""What a run may do and what it may cost: decided by whoever starts it, and handed down as one value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from raycluster.declare.budget import Budget, load_budgets
from raycluster.declare.prices import LOCAL, Prices, load_prices

# What a run does only when it is told to: "prune", remove the rows of objects that the source no longer lists; "redo",
# bring back what was rolled back though the workload declares the same as then; "over_budget", begin and go on though
# a budget says stop.
Allowance = Literal["prune", "redo", "over_budget"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Allowances, prices and budgets of a run."""

    allow: frozenset[Allowance] = frozenset()
    prices: Prices = LOCAL
    budgets: tuple[Budget, ...] = ()


def declared_prices(path: str | None = None) -> Prices:
    """Return the price list at `path`, else the one that RAYCLUSTER_PRICES names, else that of a local machine.

    Raises:
        InvalidUse: it cannot be read, or is wrong.
    """
    path = path or os.environ.get("RAYCLUSTER_PRICES")
    return load_prices(path) if path else LOCAL


def declared_budgets(path: str | None = None) -> tuple[Budget, ...]:
    """Return the budgets in the file or folder at `path`, else in RAYCLUSTER_BUDGETS, else none.

    Raises:
        InvalidUse: one cannot be read, or is wrong.
    """
    path = path or os.environ.get("RAYCLUSTER_BUDGETS")
    return load_budgets(path) if path else ()
