"""The actors that account for a cluster become findings: an agent on every node, and the tender that keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from raycluster.cluster.look import Finding
from raycluster.cluster.look._nodes import named

NAMESPACE = "raycluster"
_ANSWER_SECONDS = 10.0
_ACCOUNT = "raycluster cluster account --lake URI, on the head"


def findings(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Ask every agent, and the tenders, whether they live."""
    import ray

    known = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE]
    tenders = [name for name in known if name.startswith("tender-")]
    agents = {f"agent-{node['NodeID']}": node for node in nodes}
    there = _alive({name: "ping" for name in agents if name in known} | dict.fromkeys(tenders, "tell"))
    if not there:
        what = "nobody accounts for this cluster between runs: what others do on it, and its idle time, has no bill"
        yield Finding("warning", what, fix=_ACCOUNT)
        return
    missing = [node for name, node in agents.items() if name not in there]
    if missing:
        what = "no agent answers there: its time is missing from the bill until one does"
        yield Finding("warning", what, named(missing), _ACCOUNT)
    else:
        yield Finding("ok", "an agent on every node accounts for it")
    for name in tenders:
        yield from _of_tender(name, there)
    if not tenders:
        what = "no tender keeps agents here: nodes that come between runs are not accounted for"
        yield Finding("warning", what, fix=_ACCOUNT)


def _of_tender(name: str, there: Mapping[str, Any]) -> Iterator[Finding]:
    if name not in there:
        yield Finding("warning", "the tender does not answer: nobody keeps agents on new nodes", name, _ACCOUNT)
    elif trouble := getattr(there[name], "trouble", ""):
        fix = "raycluster costs tells whether it has been settled since; the tender tries again each minute"
        yield Finding("warning", f"the tender cannot settle the bill: {trouble}", name, fix)
    else:
        lake = getattr(there[name], "lake", "")
        yield Finding("ok", "a tender keeps agents on every node, into its lake", lake)


def _alive(methods: Mapping[str, str]) -> dict[str, Any]:
    """Return what actors answer to a method, by name, of those that answer in time."""
    import ray

    waiting = {}
    for name, method in methods.items():
        with suppress(ValueError):  # it has ended meanwhile
            waiting[getattr(ray.get_actor(name, namespace=NAMESPACE), method).remote()] = name
    done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_ANSWER_SECONDS) if waiting else ([], [])
    found = {}
    for one in done:
        with suppress(Exception):
            found[waiting[one]] = ray.get(one)
    return found
