"""Prices and budgets are those that are named, else those of the environment, else none but the local machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster.account.terms import Terms, declared_budgets, declared_prices
from raycluster.declare.budget import load_budgets
from raycluster.declare.prices import LOCAL
from raycluster.errors import InvalidUse

WORKLOADS = Path(__file__).parents[2] / "workloads"
PRICES, BUDGETS = WORKLOADS / "prices" / "aws.yaml", WORKLOADS / "budgets" / "discovery.yaml"
NAMES = [one.name for one in load_budgets(str(BUDGETS))]


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYCLUSTER_PRICES", raising=False)
    monkeypatch.delenv("RAYCLUSTER_BUDGETS", raising=False)


def test_nothing_is_declared() -> None:
    assert declared_prices() == LOCAL == Terms().prices
    assert declared_budgets() == () == Terms().budgets
    assert Terms().allow == frozenset()


def test_a_path_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_PRICES", "/no/such/file.yaml")
    monkeypatch.setenv("RAYCLUSTER_BUDGETS", "/no/such/folder")
    assert declared_prices(str(PRICES)).name == "aws-us-east-1"
    assert [one.name for one in declared_budgets(str(BUDGETS))] == NAMES
    with pytest.raises(InvalidUse, match=r"/no/such/file\.yaml"):
        declared_prices()
    with pytest.raises(InvalidUse, match="/no/such/folder"):
        declared_budgets()


def test_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_PRICES", str(PRICES))
    monkeypatch.setenv("RAYCLUSTER_BUDGETS", str(BUDGETS.parent))
    assert declared_prices().name == "aws-us-east-1"
    assert [one.name for one in declared_budgets()] == NAMES
    monkeypatch.setenv("RAYCLUSTER_PRICES", "")
    assert declared_prices() == LOCAL
