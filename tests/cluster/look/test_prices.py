"""Price lists and budgets that a run would refuse."""

from pathlib import Path

import pytest

from raycluster.cluster.look import Site, prices

NAMES = ("RAYCLUSTER_PRICES", "RAYCLUSTER_BUDGETS")


@pytest.fixture(autouse=True)
def none_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_none_named_is_a_note_here_and_a_warning_for_a_cluster() -> None:
    assert [one.level for one in prices.look(Site(lake="x"))] == ["note", "note"]
    assert [one.level for one in prices.look(Site(lake="x", address="10.0.0.1:6379"))] == ["warning", "note"]


@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_in_a_file_has_its_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("apiVersion: raycluster/v1\nkind: Nothing\n")
    monkeypatch.setenv(name, str(file))
    wrong = [one for one in prices.look(Site(lake="x")) if one.level == "problem"]
    assert wrong
    assert all(one.what.startswith(f"{name}: ") and str(file) in one.where for one in wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/nowhere.yaml")
    assert [one.level for one in prices.look(Site(lake="x")) if name in one.what] == ["problem"]
