"""A dataset becomes what people want to know of it: counts, columns, indexes, versions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raycluster.lake.lake import Lake


def overview(lake: Lake, name: str) -> dict[str, Any]:
    """Return one line about a dataset; rows as readers see them, or of the latest version where none is live."""
    table = lake.existing(name)
    live = table.live()
    return {
        "name": name,
        "live": live,
        "version": table.version(),
        "rows": table.count_rows(version=live),
        "quarantined": sum(lake.quarantine(name).counts().values()),
    }


def describe(lake: Lake, name: str) -> dict[str, Any]:
    """Return all about a dataset: counts by modality and code, columns, indexes, versions with tags and runs."""
    table = lake.existing(name)
    dataset = table.open(table.live())
    modalities = Counter[str]()
    for batch in dataset.to_batches(columns=["modality"]):
        modalities.update(batch.column("modality").to_pylist())
    return {
        **overview(lake, name),
        "uri": table.uri,
        "modalities": dict(modalities.most_common()),
        "codes": lake.quarantine(name).counts(),
        "columns": [{"name": one.name, "type": str(one.type)} for one in table.schema(dataset.version)],
        "encoders": table.encoders(dataset.version),
        "indexes": _indexes(dataset),
        "versions": table.history(),
    }


def _indexes(dataset: Any) -> list[dict[str, Any]]:
    """Return each index with the rows that it covers; the others are searched exactly, beside it."""
    return [
        {"column": found.field_names[0], "kind": found.index_type.lower(), "rows": found.num_rows_indexed}
        for found in dataset.describe_indices()
    ]
