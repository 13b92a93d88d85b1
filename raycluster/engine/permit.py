"""A plan and its terms become leave to begin, or a refusal that says what to do; nothing is written before it.

What no run does by itself: what cannot be placed, what was rolled back, what no budget covers, what would lose rows.
"""

from __future__ import annotations

from datetime import UTC, datetime

from raycluster.account.budget import event, require_within
from raycluster.account.outlook import Outlook, Work, outlook
from raycluster.account.terms import Terms
from raycluster.engine.pipeline import require_no_checkpoints
from raycluster.engine.prepare import declaration_digest
from raycluster.errors import InvalidUse
from raycluster.lake import rollback
from raycluster.lake.lake import Lake
from raycluster.plan import Plan


def require_permitted(plan: Plan, lake: Lake, terms: Terms) -> None:
    """Refuse a plan that must not be carried out, or not under these terms.

    Raises:
        Unplaceable, RolledBack, OverBudget, InvalidUse: as `engine/run.py:execute` tells.
    """
    plan.require_placeable()
    if plan.todo.num_rows or plan.fill:
        require_no_checkpoints()
        if "redo" not in terms.allow:
            require_not_undone(plan, lake)
        if terms.budgets and "over_budget" not in terms.allow:
            _require_within_budgets(plan, lake, terms)
    if "prune" in terms.allow and not plan.listed:
        raise InvalidUse(
            "the source lists nothing, so --prune would remove all that this workload ever brought",
            fix="check that the source is there (a mount, a bucket); to remove a dataset, delete its folder",
        )


def require_not_undone(plan: Plan, lake: Lake) -> None:
    """Refuse to do again what was rolled back.

    Raises:
        RolledBack: as `rollback.require_not_undone`.
    """
    workload = plan.workload
    declared = declaration_digest(workload)
    rollback.require_not_undone(lake, workload.sink.dataset, workload=workload.name, declaration=declared)


def look_ahead(plan: Plan, lake: Lake, terms: Terms) -> Outlook:
    """Say what a plan will cost, and how the budgets would stand."""
    work = Work(
        workload=plan.workload.name,
        labels=plan.workload.labels,
        objects=plan.todo.num_rows,
        size_bytes=plan.size_bytes,
        declaration=declaration_digest(plan.workload),
    )
    return outlook(lake, work, terms)


def _require_within_budgets(plan: Plan, lake: Lake, terms: Terms) -> None:
    """Refuse to begin what a budget would stop, and enter that."""
    verdicts = look_ahead(plan, lake, terms).verdicts
    now = datetime.now(UTC)
    lake.events().put(*(event(verdict, at=now) for verdict in verdicts if verdict.level != "ok"))
    require_within(verdicts)
