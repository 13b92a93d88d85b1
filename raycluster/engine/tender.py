"""A cluster becomes accounted for from its start to its end, whoever works on it: the tender, one actor for one lake.

It does between runs what each run's `accounting.py` does during it: keeps an agent on every node, enters nodes that
died, and settles the ledger. `raycluster cluster account` leaves it behind on the head; Ray starts it again when it
dies, with what it was first told, and agents go on meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from raycluster.account import owners
from raycluster.account.settle import settle
from raycluster.declare.prices import Prices
from raycluster.engine.agents import LOOK_SECONDS, NAMESPACE, SETTLE_SECONDS, Agents
from raycluster.errors import RayclusterError
from raycluster.lake.lake import Lake

LEASE = "cluster"  # for what agents keep a lake that is no run
_HEAD = "node:__internal_head__"  # a resource that only the head has (ray_constants.HEAD_NODE_RESOURCE_NAME, 2.60)
_PRUNE_SECONDS = 600.0
_EXPLAIN_SECONDS = 3600.0
_START_SECONDS = 60.0  # until a worker has started and looked at all nodes

_log = logging.getLogger(__name__)


class NoTender(RayclusterError):
    """The cluster's accounting cannot be started."""

    code, status, retryable = "no_tender", 503, True


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a tender says of itself."""

    lake: str
    prices: Prices
    since: datetime
    nodes: int
    trouble: str = ""  # why the ledger is not settled


class Tender:
    """The actor. Its own work is part of the system: `account/scene.py` knows its name."""

    def __init__(self, lake: str, prices: Prices, since: datetime) -> None:
        self.lake, self.prices, self.since = Lake(lake), prices, since
        self.agents = Agents(self.lake, LEASE, since=since)
        self.trouble = ""
        self._try(self.agents.look)
        self._keep(self.agents.look, LOOK_SECONDS)
        self._keep(self._settle, SETTLE_SECONDS)
        self._keep(owners.prune, _PRUNE_SECONDS)
        self._keep(self._explain, _EXPLAIN_SECONDS)

    def tell(self) -> Told:
        """Say what it does."""
        nodes = len(self.agents.agents)
        return Told(lake=self.lake.uri, prices=self.prices, since=self.since, nodes=nodes, trouble=self.trouble)

    def _keep(self, duty: Callable[[], Any], pause: float) -> None:
        """Do something again and again, in its own time: a lake that is slow to settle keeps no node waiting."""

        def run() -> None:
            while True:
                time.sleep(pause)
                self._try(duty)

        threading.Thread(target=run, daemon=True).start()

    def _try(self, duty: Callable[[], Any]) -> None:
        try:
            duty()
        except Exception:  # noqa: BLE001 - the head or the lake may be away for a while: there is a next time
            _log.exception("the tender of %s could not do its duty", self.lake.uri)

    def _settle(self) -> None:
        try:
            settle(self.lake, self.prices)
            self.trouble = ""
        except RayclusterError as error:
            self.trouble = error.message
            _log.warning("%s", error)

    def _explain(self) -> None:
        self.agents.look_for_unexplained(datetime.now(UTC) - timedelta(seconds=_EXPLAIN_SECONDS))


def tend(lake: Lake, prices: Prices) -> Told:
    """See that the cluster has a tender for a lake, with these prices, and return what that says.

    Raises:
        NoTender: it does not start.
    """
    import ray

    since = datetime.now(UTC)
    try:
        if is_tended(lake):
            told = _told(_start(lake, prices, since))
            if told.prices == prices:
                return told
            since = told.since  # what died meanwhile is the successor's to enter
            _end(lake)
        return _told(_start(lake, prices, since))
    except ray.exceptions.RayError as error:
        fix = "look into the head's logs of Ray: it has to have this package, and access to the lake"
        raise NoTender(f"the accounting of the cluster did not start: {error}", fix=fix) from error


def is_tended(lake: Lake) -> bool:
    """Tell whether the cluster has a tender for a lake."""
    import ray

    try:
        ray.get_actor(_name(lake), NAMESPACE)
    except ValueError:
        return False
    return True


def _name(lake: Lake) -> str:
    return f"tender-{sha256(lake.uri.encode()).hexdigest()[:16]}"


def _told(tender: Any) -> Told:
    import ray

    told: Told = ray.get(tender.tell.remote(), timeout=_START_SECONDS)
    return told


def _start(lake: Lake, prices: Prices, since: datetime) -> Any:
    """Return the tender of a lake, started if there is none: on the head, as long as there is the same."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = (node["NodeID"] for node in ray.nodes() if _HEAD in node["Resources"])  # type: ignore[no-untyped-call]
    head = next(found, ray.get_runtime_context().get_node_id())
    there: Any = NodeAffinitySchedulingStrategy(head, soft=True)
    options: dict[str, Any] = {
        "name": _name(lake),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": there,
    }
    return ray.remote(Tender).options(**options).remote(lake.uri, prices, since)


def _end(lake: Lake) -> None:
    import ray

    ray.kill(ray.get_actor(_name(lake), NAMESPACE))
    until = time.monotonic() + _START_SECONDS
    while is_tended(lake) and time.monotonic() < until:
        time.sleep(0.1)
