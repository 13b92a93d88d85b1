"""Who pays is known to every node: by a run's entry in the head's store, by a job's metadata, by an environment."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import worker

from raycluster.account import owners
from raycluster.account.owners import PAYER, Job, Jobs, Owner, payer_here

ANNA, BERT = Owner(run_id="a", team="anna"), Owner(run_id="b", team="bert")


class Store:
    """What Ray's head keeps, and how often it was asked."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.asked: list[str] = []

    def internal_kv_keys(self, prefix: bytes, _: bytes) -> list[bytes]:
        self.asked.append("names")
        return [key for key in self.kept if key.startswith(prefix)]

    def internal_kv_multi_get(self, keys: list[bytes], _: bytes) -> dict[bytes, bytes]:
        self.asked.append(f"{len(keys)} entries")
        return {key: self.kept[key] for key in keys if key in self.kept}

    def internal_kv_put(self, key: bytes, value: bytes, _: bool, __: bytes) -> None:
        self.kept[key] = value

    def internal_kv_del(self, key: bytes, _: bool, __: bytes) -> None:
        self.kept.pop(key, None)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(owners, "_store", lambda: made)
    return made


def put(name: str, *runs: tuple[float, float | None, Owner]) -> None:
    owners._put(f"job:{name}", Job(pid=1, node="n", runs=runs))


def test_a_second_look_asks_for_names_and_for_what_is_new(store: Store) -> None:
    put("01/0", (0.0, None, ANNA))
    put("02/0", (0.0, None, BERT))
    jobs = Jobs()
    assert {job.owner(1.0) for job in jobs.look().values()} == {ANNA, BERT}
    store.asked.clear()
    assert jobs.look().keys() == {"01", "02"}
    assert store.asked == ["names"]
    put("02/1", (0.0, 2.0, BERT))
    store.asked.clear()
    assert jobs.look()["02"].owner(3.0) == Owner()
    assert store.asked == ["names", "1 entries"]
    assert sorted(store.kept) == [b"job:01/0", b"job:02/1"]


def test_of_two_entries_of_one_job_the_later_holds(store: Store) -> None:
    """For a moment, while it is changed, there are two."""
    put("01/9", (0.0, None, ANNA))
    before = dict(store.kept)
    put("01/10", (0.0, None, BERT))
    store.kept |= before
    assert len(store.kept) == 2
    assert Jobs().look()["01"].owner(1.0) == BERT


def test_a_job_that_is_forgotten_is_forgotten_here(store: Store) -> None:
    put("01/0", (0.0, None, ANNA))
    jobs = Jobs()
    jobs.look()
    store.kept.clear()
    assert jobs.look() == jobs.known == {}


@pytest.mark.parametrize(
    ("metadata", "variable", "wanted"),
    [
        ({"team": "red", "job_name": "x"}, None, {"team": "red"}),
        ({}, None, None),
        ({"project": "p"}, None, None),
        ({}, '{"team": "blue", "project": "p"}', {"team": "blue", "project": "p"}),
        ({"team": "red"}, '{"team": "blue"}', {"team": "blue"}),
        ({"team": "red"}, "no JSON", {"team": "red"}),
        ({"team": "red"}, "[1]", {"team": "red"}),
    ],
)
def test_who_pays_for_a_worker(
    metadata: dict[str, str],
    variable: str | None,
    wanted: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = SimpleNamespace(get_job_config=lambda: SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(worker, "global_worker", SimpleNamespace(core_worker=core))
    monkeypatch.setenv(PAYER, variable) if variable else monkeypatch.delenv(PAYER, raising=False)
    with caplog.at_level(logging.WARNING):
        assert payer_here() == wanted
    assert (PAYER in caplog.text) == (variable in ("no JSON", "[1]"))
