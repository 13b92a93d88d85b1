"""The nodes of a cluster become findings: a task of no CPU on each says what is there, and how late it is."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raycluster import __version__
from raycluster.cluster.look import Finding, Level
from raycluster.cluster.look.clock import FIX, HARMFUL_SECONDS, NOTABLE_SECONDS

_ANSWER_SECONDS = 20.0  # a node that has just come starts its first worker
_VERSIONS = ("raycluster", "Python", "Ray", "pylance", "torch")
_SHOWN = 5  # nodes that are named one by one
_SAME = "install the same set on every node: `setup_commands` of the cluster's file, then ray up FILE"


def findings(nodes: Sequence[Mapping[str, Any]], lake: str) -> Iterator[Finding]:
    """Ask every node, and compare them with this machine and with each other."""
    facts = _ask(nodes, lake)
    clocks = _ask(nodes, "")  # again: workers are warm now, so that little time passes on the way
    silent = [node for node in nodes if node["NodeID"] not in facts]
    if silent:
        fix = "look at its raylet's log in /tmp/ray/session_latest/logs, and at `ray status`"
        yield Finding("problem", f"no task ran on it within {_ANSWER_SECONDS:.0f} s", named(silent), fix)
    entries = {node["NodeID"]: node for node in nodes}
    answered = [(entries[name], told) for name, told in facts.items()]
    found = [*_versions(answered), *_gpus(answered), *_lakes(answered, lake), *_unpriced(nodes)]
    yield from found
    yield from skews([(named([entries[name]]), one["before"], one["at"], one["after"]) for name, one in clocks.items()])
    if not found and not silent and nodes:
        cpus = sum(node["Resources"].get("CPU", 0) for node in nodes)
        gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
        what = f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs work, all with the versions of this machine"
        yield Finding("ok", what if len(nodes) > 1 else what.replace("nodes", "node").replace("work, all", "works"))


def _ask(nodes: Sequence[Mapping[str, Any]], lake: str) -> dict[str, dict[str, Any]]:
    """Return what each node says that answers in time, by its id; with the moments before and after."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(_probe())
    before = time.time()
    waiting = {}
    for node in nodes:
        there: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        waiting[task.options(scheduling_strategy=there).remote(lake)] = node["NodeID"]
    end = time.monotonic() + _ANSWER_SECONDS
    found = {}
    while waiting and time.monotonic() < end:
        done, _ = ray.wait(list(waiting), timeout=max(0.0, end - time.monotonic()))
        for one in done:
            name, after = waiting.pop(one), time.time()
            try:
                found[name] = ray.get(one) | {"before": before, "after": after}
            except Exception:  # noqa: BLE001 - it has not answered, whatever the reason
                continue
    return found


def _probe() -> Any:
    """Return the function that runs on a node. Made here, it is sent as it is: a node may have no raycluster."""

    def probe(lake: str) -> dict[str, Any]:
        import importlib.metadata
        import platform
        import socket
        import time

        told: dict[str, Any] = {"at": time.time(), "host": socket.gethostname(), "Python": platform.python_version()}
        if not lake:
            return told
        for name, package in (("raycluster", "raycluster"), ("Ray", "ray"), ("pylance", "pylance"), ("torch", "torch")):
            try:
                told[name] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                told[name] = ""
        try:
            import pynvml

            pynvml.nvmlInit()
            told["gpus"] = pynvml.nvmlDeviceGetCount()
        except Exception as error:  # noqa: BLE001 - no driver, no package
            told["gpus"], told["nvml"] = 0, str(error)
        if "://" in lake and told["raycluster"]:
            try:
                from raycluster.lake.trial import listed

                listed(lake)
            except Exception as error:  # noqa: BLE001 - whatever stands in the way
                told["lake"] = str(error)
        return told

    return probe


def _versions(answered: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[Finding]:
    """Tell nodes with other versions than this machine's."""
    import importlib.metadata

    here = {"raycluster": __version__, "Python": platform.python_version()}
    here |= {name: importlib.metadata.version(name.lower()) for name in ("Ray", "pylance", "torch")}
    others = defaultdict(list)
    for node, told in answered:
        for name in _VERSIONS:
            if told[name] != here[name]:
                others[name, told[name]].append(node)
    for (name, version), some in others.items():
        has = f"{name} {version} is installed" if version else f"{name} is not installed"
        yield Finding("problem", f"{has}, here {here[name]}", named(some), _SAME)


def _gpus(answered: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[Finding]:
    """Tell GPUs that Ray hands out and nobody can use."""
    for node, told in answered:
        declared = node["Resources"].get("GPU", 0)
        if told["gpus"] < declared:
            why = f" ({told['nvml']})" if told.get("nvml") else ""
            what = f"GPUs that Ray hands out: {declared:g}; NVIDIA's library sees {told['gpus']}{why}: tasks there fail"
            yield Finding(
                "problem",
                what,
                named([node]),
                "mend the driver there (raycluster doctor on the node), or ray start --num-gpus=N",
            )
        elif told["gpus"] and not declared:
            what = f"it has {told['gpus']} GPUs that Ray does not hand out"
            yield Finding("note", what, named([node]), "leave --num-gpus and `resources` out, so that Ray counts them")


def _lakes(answered: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], lake: str) -> Iterator[Finding]:
    """Tell nodes that do not see the lake."""
    for node, told in answered:
        if "lake" in told:
            words = told["lake"].splitlines()[0]
            fix = "give it the same credentials and endpoint as this machine, before `ray start`"
            yield Finding("problem", f"it cannot list the lake: {words[:300]}", named([node]), fix)
    if "://" not in lake and (others := [node for node, told in answered if told["host"] != socket.gethostname()]):
        what = "the lake is a folder: these nodes would write to folders of their own, unless it lies on a shared disk"
        yield Finding("warning", what, named(others), "keep the lake on an object store: --lake, RAYCLUSTER_LAKE")


def _unpriced(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Tell nodes whose type the price list does not name: they are billed by their CPUs, or not at all."""
    from raycluster.account.terms import declared_prices
    from raycluster.engine.agents import described
    from raycluster.errors import RayclusterError

    try:
        priced = declared_prices().nodes
    except RayclusterError:  # `prices` tells
        return
    others = defaultdict(list)
    for node in nodes:
        others[described(dict(node)).node_type].append(node)
    for name, some in others.items():
        if os.environ.get("RAYCLUSTER_PRICES") and name not in priced:
            fix = "name it in the price list; or label the node: ray start --labels raycluster/node-type=NAME"
            yield Finding("warning", f"the price list knows no node type {name!r}", named(some), fix)


def skews(clocks: Sequence[tuple[str, float, float, float]]) -> Iterator[Finding]:
    """Say how far nodes' clocks are off this machine's: each was read between two of our moments."""
    for where, before, at, after in clocks:
        off = max(before - at, at - after)
        if off >= NOTABLE_SECONDS:
            level: Level = "problem" if off >= HARMFUL_SECONDS else "warning"
            direction = "ahead of" if at > after else "behind"
            what = f"its clock is {off:.0f} s {direction} this machine's: tokens and windows of the bill depend on it"
            yield Finding(level, what, where, FIX)


def named(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Name nodes as Ray's own tools do."""
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return "node " + ", ".join(f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in nodes[:_SHOWN]) + more
