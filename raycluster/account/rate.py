"""A price list and what a node has become the node's rate: nano-dollars an hour, and how they divide into resources.

Before `price.py`, which applies rates to windows of time. Rates are fractions of integers and times are integers, in
nanoseconds since the epoch, so a window costs the difference of two whole numbers: what the node has cost up to its
end, less what it has cost up to its start. Windows that follow each other therefore add up to the whole, whatever
their lengths. Storage and traffic are priced here too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from raycluster.declare.prices import DEFAULT, LOCAL, NodePrice, Prices
from raycluster.errors import InvalidUse
from raycluster.units import NanoUsd

_GIB = 2**30
_HOUR = 3600 * 10**9  # nanoseconds
_MONTH = 730 * 3600  # seconds: a twelfth of a year, as AWS, GCP and Azure count it


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node is and has, as its usage tells; the price list's word counts for more."""

    type: str | None
    market: str | None = None  # on_demand | spot
    cpus: float = 0.0
    gpus: float = 0.0
    gpu_type: str | None = None
    memory: int = 0  # bytes


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What a node costs an hour, in nano-dollars, and its parts: cores, GPUs, memory."""

    hour: Fraction
    parts: tuple[int, int, int]

    def between(self, start: int, end: int) -> NanoUsd:
        """Return the cost from `start` to `end`, in nanoseconds since the epoch."""
        return self._until(end) - self._until(start)

    def _until(self, moment: int) -> NanoUsd:
        return self.hour.numerator * moment // (self.hour.denominator * _HOUR)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to whole weights, of which one at least is not 0, by largest remainder.

    The parts add up to the total, and none is off its exact share by 1 or more. Of equal remainders the first wins.
    """
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    if left:
        by_remainder = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
        for place in by_remainder[:left]:
            parts[place] += 1
    return parts


def rate(node: Node, prices: Prices) -> Rate:
    """Return the rate of a node.

    Raises:
        InvalidUse: the price list has no price for it.
    """
    listed = prices.nodes.get(node.type) if node.type is not None else None
    units = _units(node, listed, prices)
    hour = sum(units, Fraction(0)) if listed is None else Fraction(_listed(listed, node, prices))
    common = units[0].denominator * units[1].denominator * units[2].denominator
    cpu, gpu, memory = (int(part * common) for part in units)
    # a node of nothing, or of parts that are free, is all cores
    return Rate(hour=hour, parts=(cpu, gpu, memory) if any(units) else (1, 0, 0))


def _listed(listed: NodePrice, node: Node, prices: Prices) -> NanoUsd:
    """Return the hour's price of a node whose type is in the list."""
    if node.market in (None, "on_demand"):
        return listed.on_demand
    if node.market != "spot":
        raise InvalidUse(f"unknown market {node.market!r} of a node of type {node.type!r}", fix="on_demand or spot")
    if listed.spot is None:
        message = f"{prices.ref} has no spot price for nodes of type {node.type!r}"
        raise InvalidUse(message, fix=f"add `spot: PRICE` to spec.nodes.{node.type}")
    return listed.spot


def _units(node: Node, listed: NodePrice | None, prices: Prices) -> tuple[Fraction, Fraction, Fraction]:
    """Return what the node's cores, GPUs and memory cost an hour by the unit, whatever the market."""
    cpus, gpus, memory = (Fraction(count or 0) for count in (node.cpus, node.gpus, node.memory))
    if listed is not None:
        cpus, gpus, memory = (
            found if told is None else Fraction(told)
            for told, found in ((listed.cpus, cpus), (listed.gpus, gpus), (listed.memory, memory))
        )
    units = prices if prices.cpu_hour is not None and prices.gib_hour is not None else LOCAL
    by_gpu = prices.gpu_hour if listed is None else prices.gpu_hour or LOCAL.gpu_hour
    if listed is None and (units is not prices or (gpus and not by_gpu)):
        raise _unpriced(node, prices)
    gpu_hour = by_gpu[_accelerator(node.gpu_type, by_gpu)] if by_gpu else 0
    return cpus * (units.cpu_hour or 0), gpus * gpu_hour, memory * (units.gib_hour or 0) / _GIB


def _unpriced(node: Node, prices: Prices) -> InvalidUse:
    what = "nodes of unknown type" if node.type is None else f"nodes of type {node.type!r}"
    units = "gpu_hour" if prices.cpu_hour is not None else "cpu_hour, gib_hour and gpu_hour"
    entry = "" if node.type is None else f"`{node.type}: {{on_demand: PRICE}}` to spec.nodes, or "
    return InvalidUse(f"{prices.ref} has no price for {what}", fix=f"add {entry}{units} to spec")


def _accelerator(name: str | None, listed: dict[str, NanoUsd]) -> str:
    """Return the entry of `gpu_hour` for an accelerator, by words: `H100` is that of `NVIDIA H100 80GB HBM3`.

    The entry with most words wins, so `A100 80GB` goes before `A100`.
    """
    words = _words(name or "")
    fitting = [entry for entry in sorted(listed) if entry != DEFAULT and _words(entry) <= words]
    return max(fitting, key=lambda entry: len(_words(entry)), default=DEFAULT)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def storage_cost(size_bytes: int, seconds: float, prices: Prices) -> NanoUsd:
    """Return what keeping so many bytes for so long costs, to the nearest nano-dollar.

    Raises:
        InvalidUse: the price list has no price for storage.
    """
    if prices.storage is None:
        raise InvalidUse(f"{prices.ref} has no price for storage", fix="add `storage: {gib_month: PRICE}` to spec")
    return round(Fraction(size_bytes, _GIB) * Fraction(seconds) / _MONTH * prices.storage.gib_month)


def egress_cost(size_bytes: int, prices: Prices) -> NanoUsd:
    """Return what sending so many bytes costs, to the nearest nano-dollar.

    Raises:
        InvalidUse: the price list has no price for egress.
    """
    if prices.egress is None:
        raise InvalidUse(f"{prices.ref} has no price for egress", fix="add `egress: {gib: PRICE}` to spec")
    return round(Fraction(size_bytes, _GIB) * prices.egress.gib)
