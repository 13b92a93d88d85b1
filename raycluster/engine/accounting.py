"""A run becomes an account: whose it is, an agent on every node that may work for it, and its bill.

The agents are actors of the cluster, not of the run: they survive the driver, and count on for whoever comes next.
While the run goes on, what it has cost so far is settled now and then, and its budgets are looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from raycluster.account import owners
from raycluster.account.agent import WINDOW_SECONDS, Agent
from raycluster.account.budget import Guard, Verdict, event, matching, require_within, spent
from raycluster.account.lost import lost
from raycluster.account.owners import Owner
from raycluster.account.settle import cost_of, settle, unexplained
from raycluster.account.terms import Terms
from raycluster.account.window import Node
from raycluster.errors import RayclusterError
from raycluster.lake.events import Event
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import line_id
from raycluster.units import NanoUsd

_NAMESPACE = "raycluster"
_LOOK_SECONDS = 5.0  # for nodes that have come or gone
_RENEW_SECONDS = 180.0  # of the ten minutes that an agent keeps a lake
_SETTLE_SECONDS = 60.0  # keeps the inbox small; every window where a budget must be watched
_FLUSH_SECONDS = 10.0  # a node that does not answer by then has died, or will write its window when it can
# Labels of Ray's nodes (`ray start --labels`): the instance type, as the price list names it, and Ray's of its market.
_TYPE, _MARKET = "raycluster/node-type", "ray.io/market-type"

_UNEXPLAINED_SHARE = 0.01  # of all CPU time

_log = logging.getLogger(__name__)


class Account:
    """The account of one run: opened when Ray is there, closed when its work is done."""

    def __init__(self, owner: Owner, lake: Lake, terms: Terms) -> None:
        self.owner, self.lake, self.terms = owner, lake, terms
        labels = {name: value for name in ("team", "project", "environment") if (value := getattr(owner, name))}
        self.agents: dict[str, Any] = {}
        self.nodes: dict[str, Node] = {}
        self.opened = datetime.now(UTC)
        self.over = threading.Event()
        self.stops: list[Verdict] = []  # budgets that are used up
        self.trouble = ""  # why there is no cost
        self.cost: NanoUsd | None = None  # so far, as it was settled last
        self.budgets = matching(terms.budgets, labels)
        self.guard = Guard(self.budgets, self._spent_by_others())
        self.pause = WINDOW_SECONDS if self.budgets else _SETTLE_SECONDS
        owners.begin(owner)
        self._look_at_nodes(renew=True)
        self.tender = threading.Thread(target=self._tend, daemon=True)
        self.tender.start()

    def require_within_budget(self) -> None:
        """Stop a run whose budget is used up.

        Raises:
            OverBudget: tells each budget that is.
        """
        if "over_budget" not in self.terms.allow:
            require_within(self.stops)

    def close(self) -> NanoUsd | None:
        """Let every node write what it has, and return what the run has cost; None where it cannot be told."""
        self.over.set()
        self.tender.join(timeout=_FLUSH_SECONDS)
        self._flush()
        owners.end(self.owner)
        cost = self._settle()
        if cost is not None:
            self._look_for_unexplained()
        return cost

    def _look_for_unexplained(self) -> None:
        """Raise an alarm where more time than is tolerable has no owner: something on the nodes escapes the meter."""
        clusters = {node.cluster for node in self.nodes.values()}
        share = unexplained(self.lake, clusters, since=self.opened)
        if share <= _UNEXPLAINED_SHARE:
            return
        told = f"{share:.1%} of the nodes' CPU time during run {self.owner.run_id} has no process that was seen"
        _log.warning("%s", told)
        self.lake.events().put(
            Event(
                event_id=line_id("unexplained", self.owner.run_id),
                at=datetime.now(UTC),
                kind="unexplained",
                subject=", ".join(sorted(clusters)),
                run_id=self.owner.run_id,
                message=told,
            )
        )

    def _tend(self) -> None:
        renewed = settled = time.monotonic()
        while not self.over.wait(_LOOK_SECONDS):
            now = time.monotonic()
            due = now - renewed > _RENEW_SECONDS
            renewed = now if due else renewed
            with suppress(Exception):  # Ray may be busy; there is a next time
                self._look_at_nodes(renew=due)
            if now - settled > self.pause:
                settled = now
                self._settle()

    def _look_at_nodes(self, *, renew: bool) -> None:
        """See that every node has an agent that writes to this lake; enter what died before it could write."""
        alive = {node["NodeID"]: node for node in nodes()}
        for name, node in alive.items():
            if name not in self.agents or renew:
                self.nodes[name] = described(node)
                self.agents[name] = agent_of(self.nodes[name])
                self.agents[name].account.remote(self.lake.uri, self.owner.run_id)
        for name in self.agents.keys() - alive:
            del self.agents[name]
            self._enter_lost(self.nodes[name])

    def _enter_lost(self, node: Node) -> None:
        try:
            lost(self.lake.ledger(), node, until=datetime.now(UTC))
        except RayclusterError as error:  # the run goes on, and so does the bill of the other nodes
            _log.warning("the lost time of node %s is not entered: %s", node.node, error)

    def _flush(self) -> None:
        import ray

        waiting = [agent.flush.remote(self.lake.uri, self.owner.run_id) for agent in self.agents.values()]
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=_FLUSH_SECONDS)

    def _settle(self) -> NanoUsd | None:
        """Bring the ledger up to date, look at the budgets, and return the cost so far."""
        try:
            settle(self.lake, self.terms.prices)
            cost = self.cost = cost_of(self.lake, str(self.owner.run_id))
            self.guard.recount(self._spent_by_others())
            self._tell(self.guard.look(cost))
        except RayclusterError as error:
            self.trouble = f"its cost is not known: {error.message}"
            _log.warning("%s", error)
            return None
        self.trouble = ""
        return cost

    def _tell(self, verdicts: Sequence[Verdict]) -> None:
        now = datetime.now(UTC)
        for verdict in verdicts:
            _log.warning("%s", verdict.message)
            self.lake.events().put(event(verdict, at=now, run_id=self.owner.run_id))
        self.stops += [verdict for verdict in verdicts if verdict.level == "stop"]

    def _spent_by_others(self) -> dict[str, NanoUsd]:
        now = datetime.now(UTC)
        return {one.name: spent(self.lake, one, now, besides=self.owner.run_id) for one in self.budgets}


def agent_of(node: Node) -> Any:
    """Return the agent of a node, started if there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there: Any = NodeAffinitySchedulingStrategy(node.node, soft=False)
    options: dict[str, Any] = {
        "name": f"agent-{node.node}",
        "namespace": _NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": 2,
        "scheduling_strategy": there,
    }
    return ray.remote(Agent).options(**options).remote(node)


def described(node: dict[str, Any]) -> Node:
    """Return what is accounted for of a node, from Ray's own entry of it."""
    import ray

    labels, resources = node.get("Labels") or {}, node["Resources"]
    return Node(
        cluster=ray.get_runtime_context().get_session_name(),
        node=node["NodeID"],
        node_type=labels.get(_TYPE, "local"),
        market=labels.get(_MARKET, "on-demand").replace("-", "_"),
        node_cpus=float(resources.get("CPU", 0.0)),
        node_gpus=float(resources.get("GPU", 0.0)),
        node_gpu_type=labels.get("ray.io/accelerator-type"),
        node_memory=int(resources.get("memory", 0) + resources.get("object_store_memory", 0)),
    )


def nodes() -> list[dict[str, Any]]:
    """Return Ray's entries of the nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
