"""A plan becomes what it will cost, by what earlier runs did, and whether the budgets allow that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from raycluster.account.budget import Verdict, judge, matching, spent
from raycluster.account.forecast import Prediction, history, predict, why_not
from raycluster.account.terms import Terms
from raycluster.lake.lake import Lake


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, as far as its cost depends on it."""

    workload: str
    labels: Mapping[str, str]
    objects: int
    size_bytes: int
    declaration: str  # digest


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What lies ahead: a prediction, or why there is none, and how each budget would stand."""

    prediction: Prediction | None
    why: str
    verdicts: tuple[Verdict, ...]


def outlook(lake: Lake, work: Work, terms: Terms) -> Outlook:
    """Look ahead. Where nothing can be predicted, budgets are judged by what is spent already."""
    past = history(lake, work.workload)
    prediction = predict(past, work.objects, work.size_bytes, declaration=work.declaration)
    now = datetime.now(UTC)
    gone = {one.name: spent(lake, one, now) for one in matching(terms.budgets, work.labels)}
    expected = prediction.nanousd if prediction else 0
    verdicts = judge(terms.budgets, work.labels, spent=gone, at=now, expected=expected)
    return Outlook(prediction=prediction, why=why_not(past), verdicts=tuple(verdicts))
