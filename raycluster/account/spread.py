"""Lines that nobody owns become shares of those who do, by the declared rule of each kind.

Under `price.py`. A line is spread over the owners that worked in the same window of the same cluster, on whichever of
its nodes: an idle node was waiting for them all. What has no rule (a job that nobody labelled), what is kept, and what
nobody can bear stays a line without owner: shown, and never lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from raycluster.account.rate import apportion
from raycluster.declare.prices import Shared, To
from raycluster.units import NanoUsd


class Owner(NamedTuple):
    """Who bears a cost: the labels of a line that has a team."""

    team: str | None
    project: str | None
    environment: str | None
    run_id: str | None
    workload: str | None


class Line(NamedTuple):
    """A line of a window, its cost, and who owns it; None where nobody does."""

    place: int  # in the table that is priced
    kind: str | None
    owner: Owner | None
    amount: NanoUsd


class Share(NamedTuple):
    """A part of a line; `bearer` is None for a whole line that stays its own."""

    place: int
    bearer: Owner | None
    amount: NanoUsd


def spread(lines: Sequence[Line], shared: Shared) -> Iterator[Share]:
    """Yield the shares of one window of a cluster: as many nano-dollars as its lines have, line by line."""
    direct: dict[Owner, NanoUsd] = {}
    for line in lines:
        if line.owner is not None:
            direct[line.owner] = direct.get(line.owner, 0) + line.amount
    owners = sorted(direct, key=_order)
    evenly = [1] * len(owners)
    by_cost = [direct[owner] for owner in owners] if any(direct.values()) else evenly
    for line in lines:
        rule = None if line.owner is not None else getattr(shared, line.kind or "", None)
        if isinstance(rule, To):
            bearer = Owner(rule.to.team, rule.to.project, rule.to.environment, None, None)
            yield Share(line.place, bearer, line.amount)
        elif owners and line.amount and rule in ("proportional", "even"):
            parts = apportion(line.amount, by_cost if rule == "proportional" else evenly)
            yield from (Share(line.place, owner, part) for owner, part in zip(owners, parts, strict=True) if part)
        else:
            yield Share(line.place, None, line.amount)


def _order(owner: Owner) -> tuple[tuple[bool, str], ...]:
    """Return what sorts owners the same way however their lines came; labels that are missing go first."""
    return tuple((label is not None, label or "") for label in owner)
