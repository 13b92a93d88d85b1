"""Lines of cost become a FOCUS 1.2 file: Parquet, one row a line, that a company's cost tools read like a cloud's bill.

After `price.py`, at the end of the flow. What FOCUS calls:

- billing account: the price list, whose versions are one agreement. Costs restated under another list therefore do not
  mix with those that they restate.
- sub account: the team. A line that nobody owns has none.
- SKU: the node type, by the hour. Lines divide the time of nodes, so the quantity of a line is its cost in node-hours
  at the list's price: its share of the time that was paid for. Nodes that the list prices by the unit count in
  core-hours, in which their memory and GPUs are expressed as well.
- tags: `team`, `project` and `environment` as the workload declares them, all else under `raycluster/`. A line's labels
  are fixed when its run is submitted, so tags are final as soon as there is a line. A key without value is left out.

There are no discounts, so billed, effective, list and contracted cost are the same; and no invoices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal, localcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycluster.account._focus_rules import FIELDS, MONEY, QUANTITY
from raycluster.declare.prices import DEFAULT, Prices
from raycluster.errors import InvalidUse
from raycluster.lake.ledger import COSTS
from raycluster.units import NanoUsd

# Columns of our own, after those of FOCUS: what a row is of, and what was measured beside cores.
_OWN = {
    "x_CostId": "id",
    "x_UsageId": "usage_id",
    "x_Calls": "calls",
    "x_GpuSeconds": "gpu_seconds",
    "x_MemoryByteSeconds": "memory_byte_seconds",
    "x_BytesRead": "bytes_read",
    "x_BytesWritten": "bytes_written",
    "x_RowsIn": "rows_in",
    "x_RowsOut": "rows_out",
}
SCHEMA = pa.schema([*FIELDS, *((name, COSTS.field(column).type) for name, column in _OWN.items())])

_SERVICE = "raycluster"  # provider, publisher and issuer are one: nobody else is paid
_GIVEN = ("team", "project", "environment")  # tags of the user's own scheme, which has no prefix
_ADDED = {  # ours have one
    "raycluster/workload": "workload",
    "raycluster/stage": "stage",
    "raycluster/modality": "modality",
    "raycluster/dataset": "dataset",
    "raycluster/version": "version",
    "raycluster/run": "run_id",
    "raycluster/outcome": "outcome",
    "raycluster/kind": "kind",
    "raycluster/cluster": "cluster",
    "raycluster/shared": "is_shared",
}
_TAGGED = (*_GIVEN, *_ADDED.values())
_KNOWN_TAGS = 8192  # sets of tags: lines repeat theirs in every window


class _Sku(NamedTuple):
    """What a line buys, and the price list's price of one unit of it."""

    id: str
    price_id: str
    meter: str
    unit: str
    details: str
    category: str
    price: NanoUsd


def export(costs: Iterator[pa.RecordBatch], path: Path, prices: Prices) -> int:
    """Write costs, in batches of the ledger's COSTS, as a FOCUS 1.2 file; return how many rows it has.

    The file appears when it is whole: one that was there before stays until then, or if this fails.

    Raises:
        InvalidUse: a line that was priced by another list than `prices`, or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    rows = 0
    try:
        with _explained(path):
            writer = pq.ParquetWriter(part, SCHEMA, compression="zstd")
        with writer:
            for batch in costs:
                lines = _focus(batch, prices)
                with _explained(path):
                    writer.write_table(lines)
                rows += batch.num_rows
            with _explained(path):
                writer.close()
        with _explained(path):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return rows


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidUse(f"cannot write {path}: {error}", fix="name a file in a folder that can be written") from error


def _focus(batch: pa.RecordBatch, prices: Prices) -> pa.Table:
    """Return a batch of costs as rows of FOCUS; columns that are not made here hold null."""
    _check(batch, prices)
    rows = batch.num_rows
    made = {
        **{name: pa.array([value] * rows, pa.string()) for name, value in _constants(prices).items()},
        **_money(batch),
        **_periods(batch),
        **_bought(batch, prices),
        **_owned(batch),
        **{name: batch[column] for name, column in _OWN.items()},
    }
    return pa.table([made.get(field.name, pa.nulls(rows, field.type)) for field in SCHEMA], SCHEMA)


def _check(batch: pa.RecordBatch, prices: Prices) -> None:
    for found in pc.unique(batch["prices"]).to_pylist():
        if found != prices.ref:
            message = f"costs were priced by {found}, not by {prices.ref}"
            raise InvalidUse(message, fix="export costs of one price list with that list, or restate them")


def _constants(prices: Prices) -> dict[str, str]:
    return {
        "BillingAccountId": f"prices/{prices.name}",
        "BillingAccountName": prices.name,
        "BillingAccountType": "Price List",
        "BillingCurrency": prices.currency,
        "ChargeCategory": "Usage",  # a negative line gives usage back, which FOCUS counts as usage too
        "ChargeFrequency": "Usage-Based",
        "ConsumedUnit": "Core-Seconds",
        "InvoiceIssuerName": _SERVICE,
        "PricingCurrency": prices.currency,
        "ProviderName": _SERVICE,
        "PublisherName": _SERVICE,
        "ServiceCategory": "Compute",
        "ServiceName": "Ray",
        "ServiceSubcategory": "Other (Compute)",  # a node may be a virtual machine or one under a desk
    }


def _money(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the cost, which is the same by every name, and what was consumed."""
    nano = pa.scalar(Decimal("1E-9"), pa.decimal128(10, 9))
    cost = pc.multiply(batch["nanousd"].cast(pa.decimal128(19, 0)), nano).cast(MONEY)
    names = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "PricingCurrencyEffectiveCost")
    consumed = pc.fill_null(batch["cpu_seconds"], 0.0).cast(pa.decimal128(38, 9)).cast(QUANTITY)
    return {**dict.fromkeys(names, cost), "ConsumedQuantity": consumed}


def _periods(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the window, and the calendar month in which it begins; both without their ends, in UTC."""
    months = [_month(moment) for moment in batch["started_at"].to_pylist()]
    return {
        "ChargePeriodStart": batch["started_at"],
        "ChargePeriodEnd": batch["ended_at"],
        "BillingPeriodStart": pa.array([first for first, _ in months], SCHEMA.field("BillingPeriodStart").type),
        "BillingPeriodEnd": pa.array([after for _, after in months], SCHEMA.field("BillingPeriodEnd").type),
    }


def _month(moment: datetime) -> tuple[datetime, datetime]:
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first, first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)


def _bought(batch: pa.RecordBatch, prices: Prices) -> dict[str, pa.Array]:
    """Return the SKU of each line, its price, and the quantity that makes the line's cost."""
    nodes = list(zip(batch["node_type"].to_pylist(), batch["market"].to_pylist(), strict=True))
    known = {node: _sku(*node, prices) for node in set(nodes)}
    skus = [known[node] for node in nodes]
    amounts = [_quantity(nanousd, sku) for nanousd, sku in zip(batch["nanousd"].to_pylist(), skus, strict=True)]
    price = pa.array([Decimal(sku.price).scaleb(-9) for sku in skus], MONEY)
    names = ("ListUnitPrice", "ContractedUnitPrice")
    texts = {
        "SkuId": [sku.id for sku in skus],
        "SkuPriceId": [sku.price_id for sku in skus],
        "SkuMeter": [sku.meter for sku in skus],
        "SkuPriceDetails": [sku.details for sku in skus],
        "PricingUnit": [sku.unit for sku in skus],
        "PricingCategory": [sku.category for sku in skus],
    }
    return {
        **{name: pa.array(values, pa.string()) for name, values in texts.items()},
        **dict.fromkeys((*names, *(f"PricingCurrency{name}" for name in names)), price),
        "PricingQuantity": pa.array(amounts, QUANTITY),
    }


def _sku(node_type: str | None, market: str | None, prices: Prices) -> _Sku:
    listed = prices.nodes.get(node_type) if node_type is not None else None
    category = "Dynamic" if market == "spot" else "Standard"  # who has spot nodes takes what they cost that day
    if listed is None:
        return _by_unit(category, prices)
    details: dict[str, Any] = {"InstanceType": node_type, "CoreCount": listed.cpus, "GpuCount": listed.gpus}
    details["MemorySize"] = None if listed.memory is None else listed.memory / 2**30
    return _Sku(
        id=f"node/{node_type}",
        price_id=f"{prices.ref}/node/{node_type}/{market or 'on_demand'}",
        meter="Node Hours",
        unit="Node-Hours",
        details=_json(details),
        category=category,
        price=(listed.spot if market == "spot" else listed.on_demand) or 0,
    )


def _by_unit(category: str, prices: Prices) -> _Sku:
    """Return the unit in which nodes are counted that the list does not name: the first of its units that costs."""
    units = (
        ("cpu_hour", "Core-Hours", prices.cpu_hour, {"CoreCount": 1}),
        ("gib_hour", "GiB-Hours", prices.gib_hour, {"MemorySize": 1}),
        ("gpu_hour", "Accelerator-Hours", prices.gpu_hour.get(DEFAULT), {"GpuCount": 1}),
    )
    name, unit, price, details = next((found for found in units if found[2]), units[0])
    return _Sku(
        id=f"unit/{name}",
        price_id=f"{prices.ref}/unit/{name}",
        meter=unit.replace("-", " "),
        unit=unit,
        details=_json(details),
        category=category,
        price=price or 0,
    )


def _quantity(nanousd: NanoUsd, sku: _Sku) -> Decimal:
    """Return how many units cost so much; none where they are free.

    Raises:
        InvalidUse: the list prices nothing that such a cost could be of.
    """
    if nanousd and not sku.price:
        message = f"a line costs {nanousd} nano-dollars, but {sku.price_id} is free or not in the list"
        raise InvalidUse(message, fix="export costs with the price list that they were priced by")
    with localcontext(prec=60):
        return (Decimal(nanousd) / (sku.price or 1)).quantize(Decimal(1).scaleb(-QUANTITY.scale))


def _owned(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return who bears each line, on which node, and what it is about."""
    columns = {
        name: [value if value != "" else None for value in batch[name].to_pylist()] for name in (*_TAGGED, "node")
    }
    teams, nodes = columns["team"], columns["node"]
    rows = list(zip(*(columns[name] for name in _TAGGED), strict=True))
    texts = {
        "SubAccountId": [None if team is None else f"team/{quote(team, safe='')}" for team in teams],
        "SubAccountName": teams,
        "SubAccountType": [None if team is None else "Team" for team in teams],
        "ResourceId": [None if node is None else f"node/{node}" for node in nodes],  # has no name of its own
        "ResourceType": [None if node is None else "Node" for node in nodes],
        "ChargeDescription": [_described(*row) for row in rows],
        "Tags": [_tags(*row) for row in rows],
    }
    return {name: pa.array(values, pa.string()) for name, values in texts.items()}


@lru_cache(_KNOWN_TAGS)
def _tags(*values: Any) -> str:
    found = dict(zip(_TAGGED, values, strict=True))
    found["is_shared"] = found["is_shared"] or None
    given = {name: found[name] for name in _GIVEN}
    return _json({**given, **{name: found[column] for name, column in _ADDED.items()}})


@lru_cache(_KNOWN_TAGS)
def _described(*values: Any) -> str:
    found = dict(zip(_TAGGED, values, strict=True))
    what = "Share of " if found["is_shared"] else ""
    what += found["kind"] or "usage"
    what += f" of stage {found['stage']}" if found["stage"] else ""
    what += f" in workload {found['workload']}" if found["workload"] else ""
    return what + (f", {found['outcome']}" if found["outcome"] else "")


def _json(pairs: dict[str, Any]) -> str:
    """Return one flat JSON object, in ASCII, of what has a value."""
    return json.dumps({name: value for name, value in pairs.items() if value is not None})
