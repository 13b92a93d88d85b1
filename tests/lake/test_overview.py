"""What a dataset is told to be: all of it to who sees everything, and what somebody sees to everybody else."""

import shutil
from typing import Any

import pytest

from raycluster.lake import overview as module
from raycluster.lake.access import Access
from raycluster.lake.lake import Lake
from raycluster.lake.overview import describe, overview


def test_rows_are_those_that_are_seen(lake: Lake, writer: Any) -> None:
    landed = writer.put(["a", "b", "c"])  # audio, text and image, by the first letter
    writer.table.set_live(landed.version)
    counts = describe(lake, "d")["modalities"]
    assert sorted(counts.items()) == [("audio", 2), ("image", 2), ("text", 2)]
    some = Access(filters=("modality <> 'image'", "position = 0"))
    assert overview(lake, "d", access=some) == {"name": "d", "live": 2, "version": 2, "rows": 2}
    assert describe(lake, "d", access=some)["modalities"] == {"audio": 1, "text": 1}
    assert describe(lake, "d")["modalities"] == counts


def test_modalities_are_counted_once_a_version(lake: Lake, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    facets = module.query.facets

    def watched(*told: Any, **asked: Any) -> Any:
        counted.append(asked["version"])
        return facets(*told, **asked)

    monkeypatch.setattr(module.query, "facets", watched)
    first = writer.put(["a", "b"])
    writer.table.set_live(first.version)
    assert [describe(lake, "d")["rows"] for _ in range(3)] == [4, 4, 4]
    second = writer.put(["c"])
    assert describe(lake, "d")["modalities"] == {"audio": 2, "text": 2}, "readers see the first"
    writer.table.set_live(second.version)
    assert sum(describe(lake, "d")["modalities"].values()) == 6
    assert counted == [first.version, second.version]


def test_a_dataset_that_is_made_anew_is_counted_anew(lake: Lake, writer: Any) -> None:
    writer.table.set_live(writer.put(["a"]).version)
    before = describe(lake, "d")["modalities"]
    shutil.rmtree(writer.table.uri)
    writer.table.set_live(writer.put(["b", "e"]).version)
    found = describe(lake, "d")
    assert found["version"] == 2
    assert sum(before.values()) == 2
    assert sum(found["modalities"].values()) == found["rows"] == 4
