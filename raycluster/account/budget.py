"""What an owner has spent, and what a run will cost or has cost so far, become a verdict: ok, warn or stop.

`declare/budget.py` says what is too much, `forecast.py` what a run will cost. `engine/run.py` asks before a run, and by
a `Guard` while it goes on. Nothing here settles the ledger: what waits in its inbox is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow.compute as pc

from raycluster.declare.budget import Budget
from raycluster.errors import OverBudget
from raycluster.lake.events import Event
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import line_id
from raycluster.lake.sql import instant, quoted
from raycluster.units import NanoUsd, show_usd

Level = Literal["ok", "warn", "stop"]
Window = tuple[datetime, datetime]

_WHEN = {
    "day": "today",
    "week": "this week",
    "month": "this month",
    "quarter": "this quarter",
    "year": "this year",
    "run": "by this run",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one budget stands: the highest of its thresholds that spent and expected costs reach together."""

    budget: Budget
    spent: NanoUsd
    expected: NanoUsd  # on top of that
    window: Window | None  # in which it counts; None: a single run
    level: Level
    threshold: float | None  # the share that was reached; None: none was

    @property
    def share(self) -> float:
        """Return what is spent and expected as a share of the limit."""
        return (self.spent + self.expected) / self.budget.limit

    @property
    def message(self) -> str:
        """Say it to people: `budget 'x': $21.30 of $25.00 spent this month (85 %), warns at 80 %`."""
        budget = self.budget
        parts = [f"budget {budget.name!r}: {show_usd(self.spent)} of {show_usd(budget.limit)} spent"]
        parts[0] += f" {_WHEN[budget.period]} ({_percent(self.spent, budget)})"
        if self.expected:
            whole = _percent(self.spent + self.expected, budget)
            parts.append(f"{show_usd(self.expected)} more expected (together {whole})")
        if self.threshold is not None:
            parts.append(f"{self.level}s at {self.threshold * 100:g} %")
        return ", ".join(parts)


def _percent(amount: NanoUsd, budget: Budget) -> str:
    return f"{amount * 100 // budget.limit} %"  # rounded down: 100 % is the whole limit


def spent(lake: Lake, budget: Budget, at: datetime, *, besides: str | None = None) -> NanoUsd:
    """Return what the budget's owner has spent in the period that holds `at`, their share of shared lines included.

    Args:
        besides: a run whose costs are left out, because a `Guard` is told them.
    """
    window = budget.window(at)
    if window is None:
        return 0
    wanted = [f"{name} = {quoted(value)}" for name, value in budget.owner.labels.items()]
    since, until = map(instant, window)
    wanted += [f"started_at >= {since}", f"started_at < {until}"]
    if besides is not None:
        wanted.append(f"(run_id IS NULL OR run_id <> {quoted(besides)})")
    found = lake.ledger().costs(" AND ".join(wanted), columns=["nanousd"])
    return sum(pc.sum(batch["nanousd"]).as_py() or 0 for batch in found)


def matching(budgets: Iterable[Budget], labels: Mapping[str, str]) -> tuple[Budget, ...]:
    """Return the budgets in which the costs of a workload with these labels count."""
    return tuple(budget for budget in budgets if budget.matches(labels))


def judge(
    budgets: Iterable[Budget],
    labels: Mapping[str, str],
    *,
    spent: Mapping[str, NanoUsd],
    at: datetime,
    expected: NanoUsd = 0,
) -> list[Verdict]:
    """Say how each budget that these labels fall under stands.

    Args:
        budgets: all that are declared.
        labels: of the workload.
        spent: by the budget's name.
        at: the moment in whose period that was spent.
        expected: what a run is going to cost, on top.
    """
    return [_verdict(one, spent.get(one.name, 0), expected, one.window(at)) for one in matching(budgets, labels)]


def _verdict(budget: Budget, spent: NanoUsd, expected: NanoUsd, window: Window | None) -> Verdict:
    level: Level = "ok"
    threshold: float | None = None
    for amount, share, is_level in _thresholds(budget):
        if spent + expected >= amount:
            level, threshold = is_level, share
    return Verdict(budget=budget, spent=spent, expected=expected, window=window, level=level, threshold=threshold)


def _thresholds(budget: Budget) -> list[tuple[NanoUsd, float, Level]]:
    """Return amount, share and level of each, lowest first; to stop comes last."""
    found: list[tuple[NanoUsd, float, Level]] = [(budget.at(share), share, "warn") for share in budget.warn]
    return found if budget.stop is None else [*found, (budget.at(budget.stop), budget.stop, "stop")]


def require_within(verdicts: Sequence[Verdict]) -> None:
    """Refuse to begin, or to go on.

    Raises:
        OverBudget: a verdict says stop; tells each that does.
    """
    over = [one for one in verdicts if one.level == "stop"]
    if not over:
        return
    places = ", ".join(dict.fromkeys(one.budget.where or f"budget {one.budget.name!r}" for one in over))
    ways = [f"raise `limit` ({places})"]
    ends = [one.window[1] for one in over if one.window]
    if len(ends) == len(over):  # what a single run may cost does not change with time
        ways.append(f"wait until {max(ends):%Y-%m-%d} (UTC), when the period ends")
    raise OverBudget("\n".join(one.message for one in over), fix=", ".join([*ways, "or allow it: --over-budget"]))


def event(verdict: Verdict, *, at: datetime, run_id: str | None = None) -> Event:
    """Return what to enter in the lake's events: the same threshold, reached in the same period, is one event.

    Raises:
        ValueError: the verdict is ok; nothing happened.
    """
    budget = verdict.budget
    if verdict.level == "ok" or verdict.threshold is None:
        raise ValueError(f"{verdict.message}: no threshold was reached")
    since = verdict.window[0] if verdict.window else None
    kind: Literal["budget_warn", "budget_stop"] = "budget_stop" if verdict.level == "stop" else "budget_warn"
    # What was only expected is one thing, what came to be another; a limit that was raised is reached anew.
    parts = (since or run_id or at, budget.at(verdict.threshold), bool(verdict.expected))
    return Event(
        event_id=line_id(kind, budget.name, *parts),
        at=at,
        kind=kind,
        subject=budget.name,
        run_id=run_id,
        message=verdict.message,
        detail={
            "owner": budget.owner.labels,
            "period": budget.period,
            "since": since and since.isoformat(),
            "limit_nanousd": budget.limit,
            "spent_nanousd": verdict.spent,
            "expected_nanousd": verdict.expected,
            "threshold": verdict.threshold,
        },
    )


class Guard:
    """The budgets of a run that goes on: told what it has cost so far, it says what is new, each threshold once.

    Where a period ends while the run goes on, the next one begins with nothing spent. What other runs spend meanwhile
    is seen when somebody counts again (`recount`).
    """

    def __init__(self, budgets: Iterable[Budget], spent: Mapping[str, NanoUsd], *, at: datetime | None = None) -> None:
        """Watch budgets that match the run's labels; `spent` before it, by name, in the period of `at` (now)."""
        at = at or datetime.now(UTC)
        self._watches = [_Watch(budget, spent.get(budget.name, 0), budget.window(at)) for budget in budgets]

    def look(self, run_cost: NanoUsd, *, at: datetime | None = None) -> list[Verdict]:
        """Return a verdict for each budget of which a higher threshold is reached than at any look before."""
        at = at or datetime.now(UTC)
        return [verdict for watch in self._watches if (verdict := watch.look(run_cost, at))]

    def recount(self, spent: Mapping[str, NanoUsd]) -> None:
        """Take note of what others have spent by now: `spent(..., besides=run_id)`, by the budget's name."""
        for watch in self._watches:
            watch.spent = spent.get(watch.budget.name, watch.spent)


class _Watch:
    """One budget of a running run."""

    def __init__(self, budget: Budget, spent: NanoUsd, window: Window | None) -> None:
        self.budget, self.spent, self.window = budget, spent, window
        self.before: NanoUsd = 0  # what the run had cost when the period began
        self.left = _thresholds(budget)  # not reached yet, lowest first

    def look(self, run_cost: NanoUsd, at: datetime) -> Verdict | None:
        if self.window and at >= self.window[1]:
            self.window, self.spent, self.before = self.budget.window(at), 0, run_cost
            self.left = _thresholds(self.budget)
        whole = self.spent + run_cost - self.before
        if not self.left or whole < self.left[0][0]:
            return None
        self.left = [one for one in self.left if whole < one[0]]
        return _verdict(self.budget, whole, 0, self.window)
