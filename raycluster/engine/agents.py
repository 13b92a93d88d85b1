"""A cluster becomes an agent on each of its nodes, all of which lay windows into one lake for as long as somebody asks.

A run asks while it goes on (`accounting.py`), a cluster's tender from its start to its end (`tender.py`): each node
has one agent, whoever asks, and a lake gets each window once. Agents survive who has started them.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from raycluster.account.agent import Agent
from raycluster.account.lost import lost
from raycluster.account.settle import unexplained
from raycluster.account.window import Node
from raycluster.errors import RayclusterError
from raycluster.lake.events import Event
from raycluster.lake.lake import Lake
from raycluster.lake.ledger import line_id

NAMESPACE = "raycluster"
LOOK_SECONDS = 5.0  # for nodes that have come or gone
SETTLE_SECONDS = 60.0  # keeps the inbox small
FLUSH_SECONDS = 10.0  # a node that does not answer by then has died, or will write its window when it can
_RENEW_SECONDS = 180.0  # of the ten minutes that an agent keeps a lake
# Labels of Ray's nodes (`ray start --labels`): the instance type, as the price list names it, and Ray's of its market.
_TYPE, _MARKET = "raycluster/node-type", "ray.io/market-type"
_UNEXPLAINED_SHARE = 0.01  # of all CPU time

_log = logging.getLogger(__name__)


class Agents:
    """The agents of a cluster, as one asks them on behalf of a lake."""

    def __init__(self, lake: Lake, lease: str, *, since: datetime | None = None) -> None:
        """Ask nobody yet.

        Args:
            lake: where windows go.
            lease: who asks: a run, or the cluster itself.
            since: when this asker's predecessors began: it enters the nodes that have died since then, too.
        """
        self.lake, self.lease, self.since = lake, lease, since
        self.agents: dict[str, Any] = {}
        self.nodes: dict[str, Node] = {}
        self.asked: dict[str, datetime] = {}  # when each node was asked for windows first
        self.renewed = time.monotonic()
        self.gone: set[str] = set()  # dead, and not entered yet

    def look(self) -> None:
        """See that every node has an agent that writes to this lake; enter what died before it could write."""
        import ray

        entries = {node["NodeID"]: node for node in ray.nodes()}  # type: ignore[no-untyped-call]
        alive = {name: node for name, node in entries.items() if node["Alive"]}
        is_due = time.monotonic() - self.renewed > _RENEW_SECONDS
        self.renewed = time.monotonic() if is_due else self.renewed
        for name, node in alive.items():
            if name not in self.agents or is_due:
                self.nodes[name] = described(node)
                self.agents[name] = agent_of(self.nodes[name])
                self.agents[name].account.remote(self.lake.uri, self.lease)
                self.asked.setdefault(name, datetime.now(UTC))
        self.gone |= self.agents.keys() - alive
        if self.since is not None:
            self.gone |= self._of_predecessors(entries.keys() - alive, self.since)
            self.nodes |= {name: described(entries[name]) for name in self.gone - self.nodes.keys()}
            self.since = None
        self.agents = {name: agent for name, agent in self.agents.items() if name in alive}
        if self.gone:
            self._enter_lost()

    def _of_predecessors(self, dead: set[str], since: datetime) -> set[str]:
        ended = _ended() if dead else {}
        return {name for name in dead if name in ended and ended[name] >= since}

    def _enter_lost(self) -> None:
        ended = _ended()
        for name in sorted(self.gone):
            try:
                until = ended.get(name, datetime.now(UTC))
                lost(self.lake.ledger(), self.nodes[name], until=until, since=self.asked.get(name))
                self.gone.remove(name)
            except RayclusterError as error:  # the run goes on, and so does the bill of the other nodes: next time
                _log.warning("the lost time of node %s is not entered: %s", name, error)

    def flush(self) -> None:
        """Let every node write what it has, and forget this asker."""
        import ray

        waiting = [agent.flush.remote(self.lake.uri, self.lease) for agent in self.agents.values()]
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=FLUSH_SECONDS)

    def look_for_unexplained(self, since: datetime, *, run_id: str | None = None) -> None:
        """Raise an alarm where more time than is tolerable has no owner: something on the nodes escapes the meter."""
        clusters = {node.cluster for node in self.nodes.values()}
        share = unexplained(self.lake, clusters, since=since)
        if share <= _UNEXPLAINED_SHARE:
            return
        about = f"during run {run_id}" if run_id else f"since {since:%Y-%m-%d %H:%M} UTC"
        told = f"{share:.1%} of the nodes' CPU time {about} has no process that was seen"
        _log.warning("%s", told)
        self.lake.events().put(
            Event(
                event_id=line_id("unexplained", run_id or [*sorted(clusters), since.isoformat()]),
                at=datetime.now(UTC),
                kind="unexplained",
                subject=", ".join(sorted(clusters)),
                run_id=run_id,
                message=told,
            )
        )


def agent_of(node: Node) -> Any:
    """Return the agent of a node, started if there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there: Any = NodeAffinitySchedulingStrategy(node.node, soft=False)
    options: dict[str, Any] = {
        "name": f"agent-{node.node}",
        "namespace": NAMESPACE,
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


def _ended() -> dict[str, datetime]:
    """Return when the nodes that are dead died, as the head saw it: whoever asks gets the same moment."""
    from ray._private import worker

    head: Any = worker.global_worker.gcs_client  # type: ignore[attr-defined]
    found = {node_id.hex(): node.end_time_ms for node_id, node in head.get_all_node_info().items()}
    return {name: datetime.fromtimestamp(ms / 1000, UTC) for name, ms in found.items() if ms}
