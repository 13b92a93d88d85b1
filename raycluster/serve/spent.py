"""The ledger becomes figures for Prometheus: what the last hour has cost and whom, and how budgets stand.

What nodes have told lies in the lake's inbox until somebody settles it: that is done here, beside the requests, at most
once a minute, so that a bill is up to date though no run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pyarrow as pa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from raycluster.account.budget import spent
from raycluster.account.settle import settle
from raycluster.account.terms import declared_budgets, declared_prices
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import Ledger
from raycluster.lake.sql import instant
from raycluster.serve.seldom import Seldom

SETTLE_SECONDS = 60.0
_BACK = timedelta(hours=1)  # so that a sum is a rate, in dollars an hour
_NOBODY = "(nobody)"  # a label without a value would be no label


@cache
def settler(lake: Lake) -> Seldom:
    """Return what settles a lake, seldom."""
    return Seldom(lambda: settle(lake, declared_prices(None)), every=SETTLE_SECONDS)


def figures(lake: Lake) -> list[Metric]:
    """Return what the last hour has cost, as far as it is settled, and the budgets that RAYCLUSTER_BUDGETS names."""
    now = datetime.now(UTC)
    return [*_hour(lake.ledger(), f"ended_at > {instant(now - _BACK)}"), *_budgets(lake, now)]


def _hour(ledger: Ledger, lately: str) -> list[Metric]:
    cost = gauge("hour_cost_usd", "What the last hour has cost.", "team", "kind")
    for team, kind, nanousd in _sums(ledger.costs, lately, ["team", "kind"], "nanousd"):
        cost.add_metric([team or _NOBODY, kind], nanousd / 1e9)
    cpu = gauge("hour_cpu_seconds", "CPU time of the last hour, by what it went to.", "kind")
    for kind, seconds in _sums(ledger.usage, lately, ["kind"], "cpu_seconds"):
        cpu.add_metric([kind], seconds)
    return [cost, cpu]


def _sums(lines: Callable[..., Iterable[pa.RecordBatch]], where: str, keys: list[str], column: str) -> Iterator[Any]:
    """Yield keys and the sum of a column for each combination of them: an hour may be a million lines."""
    batches = lines(where, columns=[*keys, column])
    parts = [pa.Table.from_batches([batch]).group_by(keys).aggregate([(column, "sum")]) for batch in batches]
    if parts:
        whole = pa.concat_tables(parts).group_by(keys).aggregate([(f"{column}_sum", "sum")])
        yield from ((*(row[key] for key in keys), row[f"{column}_sum_sum"] or 0) for row in whole.to_pylist())


def _budgets(lake: Lake, now: datetime) -> list[Metric]:
    limit = gauge("budget_limit_usd", "What may be spent in a budget's period.", "budget", "period")
    used = gauge("budget_spent_usd", "What its owner has spent in the present one.", "budget", "period")
    for one in declared_budgets():
        if one.window(now) is None:  # of single runs, which tell themselves
            continue
        limit.add_metric([one.name, one.period], one.limit / 1e9)
        used.add_metric([one.name, one.period], spent(lake, one, now) / 1e9)
    return [limit, used]


def gauge(name: str, says: str, *labels: str) -> Any:
    """Return a family of figures, by its name without the prefix that all have."""
    return GaugeMetricFamily(f"raycluster_{name}", says, labels=labels)
