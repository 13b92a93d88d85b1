"""A cluster with an agent becomes a page of what was consumed: what tests of accounting share."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycluster.account import owners
from raycluster.account.owners import Owner
from raycluster.engine.agents import agent_of, described
from raycluster.engine.cluster import nodes
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import USAGE


@dataclass
class Page:
    """What one owner's job consumes, as the node's agent writes it."""

    lake: Lake
    owner: Owner
    agents: list[Any] = field(default_factory=list)

    def open(self) -> None:
        import ray

        owners.begin(self.owner)
        self.agents = [agent_of(described(node)) for node in nodes()]
        ray.get([agent.account.remote(self.lake.uri, self.owner.run_id) for agent in self.agents], timeout=60)
        self.usage()  # what is there by now is not this page's

    def usage(self) -> pa.Table:
        """Return all lines up to now."""
        import ray

        assert ray.get([agent.flush.remote() for agent in self.agents], timeout=60) == [0] * len(self.agents)
        ledger = self.lake.ledger()
        ledger.put_usage(ledger.inbox_lines(names := ledger.inbox_names()))
        ledger.clear(names)
        return pa.Table.from_batches(ledger.usage(), USAGE)

    def cpu(self, **wanted: Any) -> float:
        """Return the CPU-seconds of this owner's lines that have these values."""
        lines = self.usage().to_pylist()
        mine = [line for line in lines if line["run_id"] == self.owner.run_id]
        return sum(line["cpu_seconds"] for line in mine if all(line[name] == value for name, value in wanted.items()))

    def calls(self, **wanted: Any) -> int:
        lines = [line for line in self.usage().to_pylist() if line["run_id"] == self.owner.run_id]
        return sum(line["calls"] for line in lines if all(line[name] == value for name, value in wanted.items()))

    def close(self) -> None:
        owners.end(self.owner)
        for agent in self.agents:
            agent.flush.remote(self.lake.uri, self.owner.run_id)


@pytest.fixture
def page(cluster: object, tmp_path: Path) -> Iterator[Page]:
    """Open a page for an owner of its own, on the session's cluster."""
    owner = Owner(run_id=f"run-{uuid.uuid4().hex[:8]}", workload="w", team="t", dataset="d")
    opened = Page(lake=Lake(str(tmp_path / "lake")), owner=owner)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Name tasks so that no other test's are counted with them."""
    mark = uuid.uuid4().hex[:6]
    return lambda name: f"{name}-{mark}"
