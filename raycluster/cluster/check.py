"""A cluster file, workloads and prices become what an hour costs, and what is wrong: before money is spent.

Pure. What a machine has that the file does not tell, the price list may; what neither tells is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal

from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION

from raycluster.account.rate import Node, rate
from raycluster.cluster.file import ClusterFile
from raycluster.cluster.fit import UNTOLD, Job, misfits
from raycluster.cluster.look import Finding, Level
from raycluster.cluster.running import troubles
from raycluster.cluster.safety import exposures, threats
from raycluster.cluster.shape import NodeType, Shape
from raycluster.declare.prices import LOCAL, NodePrice, Prices
from raycluster.errors import InvalidUse
from raycluster.units import NanoUsd, Resources

TYPE, MARKET = "raycluster/node-type", "ray.io/market-type"  # as `engine/accounting.py` reads them
Market = Literal["on_demand", "spot"]
_LEVELS = ("problem", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A node type and its price an hour; None where none is known."""

    node_type: NodeType
    priced_as: str  # its name in the price list
    market: str
    has: Resources | None  # None: nobody tells
    hour: NanoUsd | None
    on_demand: NanoUsd | None
    most: int  # nodes of it when the cluster is at its most expensive


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a cluster costs an hour: at its smallest, at its most expensive, and then without spot prices."""

    shape: Shape
    offers: tuple[Offer, ...]
    least: NanoUsd | None
    most: NanoUsd | None
    most_on_demand: NanoUsd | None


def check(file: ClusterFile, jobs: Sequence[Job], prices: Prices) -> tuple[list[Estimate], list[Finding]]:
    """Return what the clusters of a file cost an hour, and all that is wrong: the worst first, then by line."""
    found = [*file.findings, *exposures(file.documents)]
    estimates = []
    for shape in file.shapes:
        estimate = _estimate(shape, prices)
        estimates.append(estimate)
        found += [*_sizes(shape), *_regions(shape, prices), *_spot(estimate), *troubles(shape), *threats(shape)]
        for offer in estimate.offers:
            found += _labels(shape, offer.node_type, prices)
            found += _price(shape, offer, prices)
        sizes = [(one.node_type, one.has) for one in estimate.offers]
        for job in jobs:
            found += misfits(shape, sizes, job)
    unique = dict.fromkeys(found)  # head and workers share commands, and so what is wrong with them
    return estimates, sorted(unique, key=lambda one: (_LEVELS.index(one.level), _line(one)))


def document(file: ClusterFile, jobs: Sequence[Job], prices: Prices) -> dict[str, Any]:
    """Check, and return what was found as one document of plain values, with amounts in US dollars."""
    estimates, findings = check(file, jobs, prices)
    return {
        "file": file.path,
        "workloads": [job.workload.name for job in jobs],
        "prices": prices.ref,
        "valid": all(one.level != "problem" for one in findings),
        "clusters": [_cluster(one) for one in estimates],
        "findings": [asdict(one) for one in findings],
    }


def _cluster(estimate: Estimate) -> dict[str, Any]:
    shape = estimate.shape
    return {
        "name": shape.name,
        "kind": shape.kind,
        "provider": shape.provider,
        "region": _region(shape),
        "node_types": [_node_type(one) for one in estimate.offers],
        "hour": {
            "least_nodes": sum(one.node_type.least for one in estimate.offers),
            "least_usd": _usd(estimate.least),
            "most_nodes": sum(one.most for one in estimate.offers),
            "most_usd": _usd(estimate.most),
            "most_on_demand_usd": _usd(estimate.most_on_demand),
        },
    }


def _node_type(offer: Offer) -> dict[str, Any]:
    one, has = offer.node_type, offer.has
    return {
        "name": one.name,
        "is_head": one.is_head,
        "priced_as": offer.priced_as,
        "market": offer.market.replace("_", "-"),
        "cpu": has and has.cpu,
        "gpu": has and has.gpu,
        "memory_bytes": has and (None if has.memory == UNTOLD else has.memory),
        "least": one.least,
        "most": one.most,
        "hour_usd": _usd(offer.hour),
        "on_demand_hour_usd": _usd(offer.on_demand),
        "most_nodes": offer.most,
        "most_hour_usd": None if offer.hour is None else _usd(offer.most * offer.hour),
    }


def _usd(amount: NanoUsd | None) -> float | None:
    return None if amount is None else amount / 1e9


def _region(shape: Shape) -> str | None:
    provider = shape.spec.get("provider") or {}
    return provider.get("region") or provider.get("location")


def _line(finding: Finding) -> tuple[str, int]:
    path, line, _ = finding.where.rsplit(":", 2)
    return path, int(line)


def _estimate(shape: Shape, prices: Prices) -> Estimate:
    priced = [(one, *_hours(one, prices)) for one in shape.node_types]
    free = shape.most_workers - sum(one.least - one.is_head for one in shape.node_types)
    counts: dict[str, int] = {}
    for one, *_ in sorted(priced, key=lambda each: -(each[1] or 0)):  # the most that an hour may come to
        more = min(one.most - one.least, max(free, 0))
        counts[one.name], free = one.least + more, free - more
    offers = tuple(
        Offer(
            node_type=one,
            priced_as=one.labels.get(TYPE, LOCAL.name),
            market=_market(one),
            has=_has(one, prices),
            hour=hour,
            on_demand=on_demand,
            most=counts[one.name],
        )
        for one, hour, on_demand in priced
    )
    return Estimate(
        shape=shape,
        offers=offers,
        least=_sum((one.node_type.least, one.hour) for one in offers),
        most=_sum((one.most, one.hour) for one in offers),
        most_on_demand=_sum((one.most, one.on_demand) for one in offers),
    )


def _sum(parts: Iterator[tuple[int, NanoUsd | None]]) -> NanoUsd | None:
    """Return what so many nodes cost at such prices; None where a price is missing that counts."""
    total = 0
    for count, hour in parts:
        if count and hour is None:
            return None
        total += count * (hour or 0)
    return total


def _hours(node_type: NodeType, prices: Prices) -> tuple[NanoUsd | None, NanoUsd | None]:
    """Return what a node costs an hour, in its market and on demand."""
    found: list[NanoUsd | None] = []
    for market in (_market(node_type), "on_demand"):
        try:
            found.append(_hour(node_type, market, prices))
        except InvalidUse:  # `_price` tells why
            found.append(None)
    return found[0], found[1]


def _hour(node_type: NodeType, market: str, prices: Prices) -> NanoUsd | None:
    """Return what the bill will take for an hour; None where unit prices want sizes that nobody tells.

    Raises:
        InvalidUse: the price list has no price for it.
    """
    name = node_type.labels.get(TYPE, LOCAL.name)
    cpus, gpus, memory = node_type.cpus, node_type.gpus, node_type.memory
    node = Node(type=name, market=market, cpus=cpus or 0, gpus=gpus or 0, memory=memory or 0)
    hour = round(rate(node, prices).hour)
    return None if name not in prices.nodes and (cpus is None or memory is None) else hour


def _market(node_type: NodeType) -> str:
    return node_type.labels.get(MARKET, "on-demand").replace("-", "_")


def _has(node_type: NodeType, prices: Prices) -> Resources | None:
    """Return what Ray has to give on a node: by the file, else by the price list; None where neither tells."""
    listed = prices.nodes.get(node_type.labels.get(TYPE, LOCAL.name)) or NodePrice(on_demand=0)
    cpus = node_type.cpus if node_type.cpus is not None else listed.cpus
    gpus = node_type.gpus if node_type.gpus is not None else listed.gpus
    if cpus is None:
        return None
    memory = node_type.memory
    if memory is None and listed.memory:
        memory = int(listed.memory * (1 - DEFAULT_OBJECT_STORE_MEMORY_PROPORTION))
    return Resources(cpu=cpus, gpu=gpus or 0, memory=UNTOLD if memory is None else memory)


def _labels(shape: Shape, one: NodeType, prices: Prices) -> Iterator[Finding]:
    """Say where the labels that the bill goes by are missing, or are not what the machine is."""
    said = "`ray start --labels=" + f"{TYPE}=NAME`" if shape.provider == "local" else f"`{TYPE}: NAME` to its labels"
    told, market = one.labels.get(TYPE), one.labels.get(MARKET)
    if told is None:
        level: Level = "problem" if one.instance or prices.cpu_hour is None else "warning"  # there, sizes are priced
        fix = f"add {said}, by its name in the price list".replace("NAME", one.instance or "NAME")
        what = f"{one.name} has no label {TYPE}: the bill would take it for {LOCAL.name!r}"
        yield Finding(level, what, shape.where((*one.at, "labels")), fix)
    elif one.instance and told != one.instance:
        what = f"{one.name} is {one.instance}, and its label says {told}: the bill would take the price of that"
        yield Finding("problem", what, shape.where((*one.at, "labels", TYPE)), f"{TYPE}: {one.instance}")
    if market not in (None, "spot", "on-demand"):
        where = shape.where((*one.at, "labels", MARKET))
        yield Finding("problem", f"{one.name}: {MARKET} is {market!r}", where, "`spot` or `on-demand`")
    elif one.is_spot is not None and one.is_spot != (market == "spot"):
        real = "spot" if one.is_spot else "on-demand"
        what = f"{one.name} is {real}, and the bill would take it for {market or 'on-demand'}"
        yield Finding("problem", what, shape.where((*one.at, "labels", MARKET)), f"`{MARKET}: {real}` in its labels")


def _price(shape: Shape, offer: Offer, prices: Prices) -> Iterator[Finding]:
    one = offer.node_type
    where = shape.where((*one.at, "labels", TYPE))
    if TYPE not in one.labels or offer.market not in ("spot", "on_demand"):
        return  # told by `_labels`
    try:
        hour = _hour(one, offer.market, prices)
    except InvalidUse as error:
        near = "".join(f"did you mean {name!r}? " for name in get_close_matches(offer.priced_as, prices.nodes, n=1))
        yield Finding("problem", error.message, where, near + error.fix)
        return
    if hour is None:
        what = f"what {one.name} costs is not known: {prices.ref} has no {offer.priced_as}, and the file not its size"
        fix = f"add `{offer.priced_as}: {{on_demand: PRICE}}` to spec.nodes of the price list"
        yield Finding("warning", what, where, fix)


def _sizes(shape: Shape) -> Iterator[Finding]:
    for one in shape.node_types:
        if one.least > one.most:
            what = f"{one.name}: at least {one.least - one.is_head}, at most {one.most - one.is_head}"
            yield Finding("problem", what, shape.where((*one.at, "min_workers")), "raise the one or lower the other")
    together = sum(one.most - one.is_head for one in shape.node_types)
    if together > shape.most_workers:
        what = f"the node types may have {together} workers together, max_workers is {shape.most_workers}"
        yield Finding("note", what, shape.where(("max_workers",)), "the first to be asked for take what there is")


def _regions(shape: Shape, prices: Prices) -> Iterator[Finding]:
    """Say where prices are those of another place, as far as names tell."""
    region = _region(shape)
    if prices is LOCAL and shape.provider not in ("local", "kuberay"):
        what = f"priced by {LOCAL.ref}, which knows no machine of {shape.provider}"
        yield Finding("warning", what, shape.where(("provider",)), f"--prices workloads/prices/{shape.provider}.yaml")
    elif prices.name.startswith(f"{shape.provider}-") and region and region not in prices.name:
        what = f"the prices are {prices.name}'s, the cluster is in {region}"
        yield Finding("warning", what, shape.where(("provider", "region")), "give the price list of that region")


def _spot(estimate: Estimate) -> Iterator[Finding]:
    shape = estimate.shape
    if shape.head.is_spot or _market(shape.head) == "spot":
        what = f"the head ({shape.head.name}) is spot: when it is taken away, the whole cluster ends"
        yield Finding("problem", what, shape.where(shape.head.at), "make it on demand")
    gpus = [one for one in estimate.offers if one.node_type.most and one.has and one.has.gpu]
    if gpus and all(one.node_type.is_spot or one.market == "spot" for one in gpus):
        what = "every node type with a GPU is spot: while none can be had, work that needs one waits"
        yield Finding("warning", what, shape.where(gpus[0].node_type.at), "add one on demand, as cluster.yaml does")
