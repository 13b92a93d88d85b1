"""Usage becomes costs: every nano-dollar that a node costs in a window goes to one of its lines, and to an owner.

Pure, from the ledger's USAGE to its COSTS. Three steps, each exact in whole numbers:

1. A node's window costs its rate times its time (`rate.py`), and that divides into cores, GPUs and memory.
2. Each part is divided among the window's lines by what they used of it. What nobody used is the idle line's. Lines
   that used more than there is share what there is.
3. Lines without owner are spread by the declared rule (`spread.py`), over all nodes of the cluster in that window.

The law: whatever the rounding, the lines of a node's window add up to its time x its price.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycluster.account.rate import Node, Rate, apportion, rate
from raycluster.account.spread import Line, Owner, Share, spread
from raycluster.declare.prices import Prices
from raycluster.errors import RayclusterError
from raycluster.lake.ledger import COSTS, QUANTITIES, line_id
from raycluster.units import NanoUsd

# What divides cores, GPUs and memory among lines, and the steps in which it is counted: nanoseconds, byte-seconds.
_MEASURES = (("cpu_seconds", 10**9), ("gpu_seconds", 10**9), ("memory_byte_seconds", 1))
_MOST = 2.0**63  # steps: what an int64 holds

# Lines of one window of a cluster lie together, those of one node in it side by side, and always in the same order.
_ORDER = ("cluster", "started_at", "ended_at", "node", "id")


class Window(NamedTuple):
    """A time in which a cluster's nodes are priced together."""

    cluster: str
    started_at: datetime
    ended_at: datetime


def price(usage: pa.Table, prices: Prices) -> pa.Table:
    """Return the costs of whole windows: every line of every node of a cluster, for each window that is in `usage`.

    Pricing the same usage again gives the same lines with the same ids, so they replace themselves in the ledger. A
    line that comes late (from a node that was slow to tell) changes who bears the shared ones, and an owner may cease
    to: then the window is read and priced as a whole, and of its old costs at these prices those that `gone` names are
    removed. `windows` says which windows a set of lines touches.

    Windows of one node must not overlap: each is paid for.

    Raises:
        InvalidUse: a node of which the price list knows no price.
        RayclusterError: lines that cannot be usage: no window, a quantity without end, an id twice.
    """
    lines = usage.take(pc.sort_indices(usage, sort_keys=[(name, "ascending") for name in _ORDER]))
    _check(lines)
    amounts = _amounts(lines, prices)
    owners = [_owner(labels) for labels in zip(*(lines[name].to_pylist() for name in Owner._fields), strict=True)]
    kinds = lines["kind"].to_pylist()
    shares: list[Share] = []
    for start, end in pairwise(_cuts(lines)):
        together = [Line(place, kinds[place], owners[place], amounts[place]) for place in range(start, end)]
        shares += spread(together, prices.shared)
    return _costs(lines, shares, prices)


def windows(lines: pa.Table) -> list[Window]:
    """Return the windows that lines of usage or cost are in, each as long as the windows of its nodes that overlap."""
    columns = ["cluster", "started_at", "ended_at"]
    ordered = lines.select(columns).sort_by([(name, "ascending") for name in columns])
    clusters, starts, ends = (ordered[name].to_pylist() for name in columns)
    spans = pairwise(_cuts(ordered))
    return [Window(clusters[start], starts[start], max(ends[start:end])) for start, end in spans]


def gone(before: pa.Table, after: pa.Table) -> list[str]:
    """Return the ids of cost lines that pricing their windows again did not bring back: they must be removed.

    Args:
        before: the lines of these windows as they stand in the ledger, at the same prices.
        after: the lines of the same windows, priced again.
    """
    return sorted(set(before["id"].to_pylist()) - set(after["id"].to_pylist()))


def _check(lines: pa.Table) -> None:
    for name in _ORDER:
        if lines[name].null_count:
            raise RayclusterError(f"{lines[name].null_count} lines of usage have no {name}")
    starts, ends = (_numbers(lines, name) for name in ("started_at", "ended_at"))
    if bool((starts > ends).any()):
        raise RayclusterError(f"usage {lines['id'][int((starts > ends).argmax())]} ends before it starts")
    ids = pc.value_counts(lines["id"])
    if len(ids) != lines.num_rows:
        twice = ids.filter(pc.greater(ids.field("counts"), 1))[0]["values"]
        raise RayclusterError(f"usage {twice} stands twice in what is to be priced")


def _numbers(lines: pa.Table, name: str) -> Any:
    return lines[name].cast(pa.int64()).to_numpy()


def _cuts(lines: pa.Table) -> list[int]:
    """Return where windows of clusters begin, and the end.

    Nodes come and go, so one may have been there for a part of a window only: windows that overlap are one.
    """
    clusters = lines["cluster"].to_pylist()
    starts, ends = (_numbers(lines, name).tolist() for name in ("started_at", "ended_at"))
    cuts: list[int] = []
    latest = 0
    for place, cluster in enumerate(clusters):
        if not cuts or cluster != clusters[place - 1] or starts[place] >= latest:
            cuts.append(place)
            latest = ends[place]
        latest = max(latest, ends[place])
    return [*cuts, lines.num_rows]


def _node_cuts(lines: pa.Table) -> list[int]:
    """Return where windows of nodes begin, and the end."""
    names = [lines[name].to_pylist() for name in ("cluster", "node")]
    keys = list(zip(*names, *(_numbers(lines, name).tolist() for name in ("started_at", "ended_at")), strict=True))
    return [*(place for place, key in enumerate(keys) if not place or key != keys[place - 1]), len(keys)]


def _amounts(lines: pa.Table, prices: Prices) -> list[NanoUsd]:
    """Return what each line costs, before any is spread."""
    bounds = _node_cuts(lines)
    starts, ends = ((_numbers(lines, name) * 1000).tolist() for name in ("started_at", "ended_at"))  # nanoseconds
    measures = [_steps(lines, name, steps) for name, steps in _MEASURES]
    rate_of = _rates(lines, bounds[:-1], prices)
    bearers = _bearers(lines)
    amounts: list[NanoUsd] = []
    for start, end in pairwise(bounds):
        node = rate_of(start)
        total = node.between(starts[start], ends[start])
        shares = [0] * (end - start)
        for part, steps in zip(apportion(total, node.parts), measures, strict=True):
            used = steps[start:end]
            weights = used if any(used) else bearers(start, end)
            shares = [share + more for share, more in zip(shares, apportion(part, weights), strict=True)]
        amounts += shares
    return amounts


def _steps(lines: pa.Table, name: str, steps: int) -> list[int]:
    """Return a quantity in whole steps; none where it was not measured, or was corrected to below zero."""
    exact = pc.fill_null(lines[name], 0.0).to_numpy() * float(steps)
    wrong = ~(exact < _MOST)
    if bool(wrong.any()):
        place = int(wrong.argmax())
        raise RayclusterError(f"usage {lines['id'][place]}: {name} is {lines[name][place]}")
    whole: list[int] = np.rint(np.maximum(exact, 0.0)).astype(np.int64).tolist()
    return whole


def _bearers(lines: pa.Table) -> Callable[[int, int], list[int]]:
    """Return what weighs lines that used nothing: the idle one; else those without owner; else all are equal."""
    is_idle = [int(kind == "idle") for kind in lines["kind"].to_pylist()]
    is_free = [int(team is None) for team in lines["team"].to_pylist()]

    def weigh(start: int, end: int) -> list[int]:
        found = (weights[start:end] for weights in (is_idle, is_free))
        return next((weights for weights in found if any(weights)), [1] * (end - start))

    return weigh


def _rates(lines: pa.Table, places: Sequence[int], prices: Prices) -> Callable[[int], Rate]:
    """Return the rates of the nodes whose windows begin at these places; each kind of node is looked up once."""
    columns = ("node_type", "market", "node_cpus", "node_gpus", "node_gpu_type", "node_memory")
    facts = lines.select(columns).take(pa.array(places, pa.int64()))
    known: dict[tuple[Any, ...], Rate] = {}
    at: dict[int, Rate] = {}
    for place, row in zip(places, zip(*(facts[name].to_pylist() for name in columns), strict=True), strict=True):
        if row not in known:
            known[row] = rate(Node(**dict(zip(Node.__dataclass_fields__, row, strict=True))), prices)
        at[place] = known[row]
    return at.__getitem__


def _owner(labels: tuple[str | None, ...]) -> Owner | None:
    return None if labels[0] is None else Owner(*labels)


def _costs(lines: pa.Table, shares: list[Share], prices: Prices) -> pa.Table:
    """Return the shares as lines of cost, with all that the lines of usage say about them."""
    rows = lines.take(pa.array([share.place for share in shares], pa.int64()))
    is_shared = pa.array([share.bearer is not None for share in shares], pa.bool_())
    columns = {
        "id": pa.array(_ids(rows["id"].to_pylist(), shares, prices.ref), pa.string()),
        "usage_id": rows["id"],
        "prices": pa.array([prices.ref] * len(shares), pa.string()),
        "is_shared": is_shared,
        "nanousd": pa.array([share.amount for share in shares], pa.int64()),
    }
    for label, name in enumerate(Owner._fields):
        borne = pa.array([share.bearer and share.bearer[label] for share in shares], pa.string())
        columns[name] = pc.if_else(is_shared, borne, rows[name])
    for name in QUANTITIES:  # of a shared line nobody consumed a part
        columns[name] = pc.if_else(is_shared, pa.scalar(0, rows[name].type), rows[name])
    whole = {name: columns[name] if name in columns else rows[name] for name in COSTS.names}
    return pa.table(whole, COSTS)


def _ids(usage_ids: list[str], shares: list[Share], ref: str) -> Iterator[str]:
    """Yield the ids of shares: a whole line's is of the line, a part's is of its bearer too."""
    written: dict[Owner, str] = {}
    for usage_id, share in zip(usage_ids, shares, strict=True):
        if share.bearer is None:
            yield line_id(usage_id, ref)
            continue
        if share.bearer not in written:  # as JSON: a label that is empty is not one that is missing
            written[share.bearer] = json.dumps(share.bearer)
        yield line_id(usage_id, ref, written[share.bearer])
