from __future__ import annotations

import threading
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from raycluster.errors import LakeError
from raycluster.lake import decisions as module
from raycluster.lake import store
from raycluster.lake.decisions import SCHEMA, Decided, Decisions

START = datetime(2026, 1, 1, tzinfo=UTC)


def decided(number: int, **other) -> Decided:
    one = Decided(
        decision_id=f"d{number}",
        at=START + timedelta(seconds=number),
        subject="ada",
        team=None,
        roles=["reader", "ü"],
        method="GET",
        path=["data", "photos"],
        input_digest="0" * 64,
        allowed=True,
        filters=1,
        masks=0,
        reason=None,
        revision="abc",
        engine="rego",
        latency_us=12,
    )
    return replace(one, **other)


def rows(decisions: Decisions, where: str | None = None) -> list[dict]:
    table = pa.Table.from_batches(decisions.scan(where), SCHEMA)
    return table.sort_by("at").to_pylist()


def test_decisions_come_back_as_they_were(place):
    decisions = place.decisions()
    assert rows(decisions) == []
    decisions.add([])
    assert not store.exists(decisions.uri)
    told = [decided(1), decided(2, allowed=False, reason="no answer", team="t", roles=[], path=["runs"], revision=None)]
    decisions.add(told[:1])
    decisions.add(told[1:])
    assert rows(decisions) == [asdict(one) for one in told]
    assert [row["decision_id"] for row in rows(decisions, "NOT allowed")] == ["d2"]


def test_it_is_no_dataset_of_the_lake(lake):
    lake.decisions().add([decided(1)])
    assert lake.datasets() == []


def test_many_small_pieces_are_joined_and_old_versions_go(lake, monkeypatch):
    monkeypatch.setattr(module, "_MANY", 8)
    monkeypatch.setattr(module, "_KEEP_AGE", timedelta(microseconds=1))
    decisions = lake.decisions()
    for number in range(20):
        decisions.add([decided(number)])
    dataset = store.open_dataset(decisions.uri)
    assert len(dataset.get_fragments()) < 8
    assert len(dataset.versions()) < 15
    assert [row["decision_id"] for row in rows(decisions)] == [f"d{number}" for number in range(20)]


def test_several_that_append_and_join_at_once_lose_nothing(lake, monkeypatch):
    monkeypatch.setattr(module, "_MANY", 4)
    start, errors = threading.Barrier(4), []

    def tell(number: int) -> None:
        try:
            start.wait()
            for turn in range(6):
                lake.decisions().add([decided(number * 100 + turn)])
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []
    assert len({row["decision_id"] for row in rows(lake.decisions())}) == len(rows(lake.decisions())) == 24


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(LakeError, match="_decisions"):
        Decisions(str(tmp_path / "lake" / "_decisions.lance")).add([decided(1)])
