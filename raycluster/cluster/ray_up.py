"""A file of `ray up` becomes a shape: Ray's own schema and validation, told with their lines.

Nothing here asks a provider: what Ray itself looks up there (the cores of a machine, its image) stays unknown.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycluster.cluster.look import Finding
from raycluster.cluster.shape import NodeType, Shape, Start, by_schema, environment, labels_of, started
from raycluster.declare.document import At, Document, nearest

_LOCAL = "local"
# Where a node type of a provider says what machine it is, and in what a spot node differs.
_INSTANCE: dict[str, At] = {
    "aws": ("InstanceType",),
    "gcp": ("machineType",),
    "azure": ("azure_arm_parameters", "vmSize"),
}
_TEXT, _MAP = {"type": "string"}, {"type": "object"}
_NODES: dict[str, Any] = {
    "aws": {
        "type": "object",
        "required": ["InstanceType"],
        "properties": {
            "InstanceType": _TEXT,
            "InstanceMarketOptions": _MAP,
            "MetadataOptions": _MAP,
            "BlockDeviceMappings": {"type": "array", "items": {"type": "object", "properties": {"Ebs": _MAP}}},
        },
    },
    "gcp": {"type": "object", "properties": {"machineType": _TEXT}},
    "azure": {"type": "object", "properties": {"azure_arm_parameters": {**_MAP, "properties": {"vmSize": _TEXT}}}},
}
_RANGES = {"type": "array", "items": _MAP}
_RULES = {"type": "array", "items": {**_MAP, "properties": {"IpRanges": _RANGES, "Ipv6Ranges": _RANGES}}}
_MARKET: dict[str, At] = {
    "aws": ("InstanceMarketOptions", "MarketType"),
    "gcp": ("scheduling", "provisioningModel"),
    "azure": ("azure_arm_parameters", "priority"),
}


def read(document: Document) -> tuple[Shape | None, list[Finding]]:
    """Return the cluster that a file of `ray up` describes, or None and why Ray would not take it."""
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    wrong = by_schema(document, _with_nodes(schema, document.value)) or _provider(document)
    prepared, told = (None, []) if wrong else _prepared(document)
    if prepared is None:
        return None, [*wrong, *told]
    node_types = _machines(prepared) if _is_local(prepared) else _node_types(prepared)
    shape = Shape(
        document=document,
        at=(),
        kind="ray up",
        name=prepared["cluster_name"],
        provider=prepared["provider"]["type"],
        spec=prepared,
        node_types=tuple(node_types),
        most_workers=prepared["max_workers"],
    )
    return shape, told


def _with_nodes(schema: dict[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return Ray's schema with what it leaves open to providers, as far as it is looked at here."""
    properties, provider = schema["properties"], spec.get("provider")
    name = provider.get("type") if isinstance(provider, dict) else None
    if name == _LOCAL:
        properties["min_workers"] = {"type": "integer"}  # which Ray takes off before it validates
    if isinstance(name, str) and name in _NODES:
        properties["available_node_types"]["patternProperties"][".*"]["properties"]["node_config"] = _NODES[name]
    properties["provider"]["properties"]["security_group"]["properties"]["IpPermissions"] = _RULES
    for key in ("run_options", "head_run_options", "worker_run_options"):
        properties["docker"]["properties"][key] |= {"items": {"type": "string"}}
    return schema


def _is_local(spec: Mapping[str, Any]) -> bool:
    provider = spec.get("provider")
    return isinstance(provider, dict) and provider.get("type") == _LOCAL


def _provider(document: Document) -> list[Finding]:
    """Return what Ray's schema leaves to Ray's code, and Ray tells without a place."""
    from ray.autoscaler._private.providers import _DEFAULT_CONFIGS

    spec, found = document.value, []
    provider, known = spec["provider"], sorted({*_DEFAULT_CONFIGS, "external"})
    where = document.where(("provider", "type"))
    if provider["type"] not in known:
        message = f"unknown provider {provider['type']!r}"
        return [Finding("problem", message, where=where, fix=nearest(provider["type"], known))]
    if _is_local(spec):
        for key in ("available_node_types", "head_node", "worker_nodes"):
            if spec.get(key):
                message = f"{key}: the local provider knows no node types"
                fix = "say in the start commands what a machine is: `ray start ... --labels=raycluster/node-type=NAME`"
                found.append(Finding("problem", message, where=document.where((key,)), fix=fix))
        if "coordinator_address" not in provider and not {"head_ip", "worker_ips"} <= provider.keys():
            fix = "give `head_ip: ADDRESS` and `worker_ips: [ADDRESS, ...]`"
            found.append(Finding("problem", "provider: no machines", where=document.where(("provider",)), fix=fix))
        return found
    types, head = spec.get("available_node_types"), spec.get("head_node_type")
    if types is None:
        fix = "name the machines and how many of each; otherwise Ray takes its own"
        return [Finding("problem", "missing key 'available_node_types'", where=document.where(()), fix=fix)]
    if head not in types:
        at: At = ("head_node_type",) if head else ("available_node_types",)
        message = f"head_node_type {head!r} is no node type" if head else "missing key 'head_node_type'"
        return [Finding("problem", message, where=document.where(at), fix=nearest(str(head), list(types)))]
    return found


def _prepared(document: Document) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Return what `ray up` makes of the file, and what it says to that."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            prepared: dict[str, Any] = prepare_config(copy.deepcopy(document.value))
            validate_config(prepared)
    except Exception as error:  # noqa: BLE001 - asserts, ValueErrors and click's: each says what Ray does not take
        return None, [Finding("problem", f"Ray refuses it: {error}", where=document.where(()))]
    warned = re.findall(r"WARN \S+ -- (?:\x1b\[\d+m)?(.+?)(?:\x1b|\n|$)", said.getvalue())
    in_docker = any(key.endswith("image") for key in prepared.get("docker") or {})
    meant = [one for one in warned if in_docker or not one.startswith("File Mount")]  # said of files in containers
    return prepared, [Finding("warning", f"Ray says: {one}", where=document.where(())) for one in meant]


def _node_types(spec: Mapping[str, Any]) -> list[NodeType]:
    found = []
    for name, told in spec["available_node_types"].items():
        is_head = name == spec["head_node_type"]
        resources, provider = told["resources"], spec["provider"]["type"]
        start = _start(spec, "head" if is_head else "worker", told)
        market = _part(told["node_config"], _MARKET.get(provider, ()))
        found.append(
            NodeType(
                name=name,
                at=("available_node_types", name),
                is_head=is_head,
                least=told["min_workers"] + is_head,  # a head is one, beside workers of its type
                most=told["max_workers"] + is_head,
                cpus=resources.get("CPU"),
                gpus=resources.get("GPU"),
                memory=resources.get("memory"),
                labels={**labels_of(start.flags), **told.get("labels", {})},
                instance=_part(told["node_config"], _INSTANCE.get(provider, ())),
                is_spot=str(market).lower() == "spot" or _is_preemptible(told["node_config"])
                if provider in _MARKET
                else None,
                image=_image(spec, told, is_head),
                start=start,
            )
        )
    return found


def _machines(spec: Mapping[str, Any]) -> list[NodeType]:
    """Return the node types of machines of one's own: what they are, their start commands say."""
    workers = next(iter(spec["available_node_types"].values()))
    head = _machine(spec, "head")
    worker = replace(_machine(spec, "worker"), least=workers["min_workers"], most=workers["max_workers"])
    return [head, worker]


def _machine(spec: Mapping[str, Any], role: str) -> NodeType:
    start = _start(spec, role, {})
    flags = start.flags or {}
    cpus, gpus, memory = (_number(flags.get(name)) for name in ("num-cpus", "num-gpus", "memory"))
    return NodeType(
        name=role,
        at=start.at,
        is_head=role == "head",
        least=1,
        most=1,
        cpus=cpus,
        gpus=gpus,
        memory=None if memory is None else int(memory),
        labels=labels_of(flags),
        image=_image(spec, {}, role == "head"),
        start=start,
    )


def _start(spec: Mapping[str, Any], role: str, told: Mapping[str, Any]) -> Start:
    """Return how nodes of a role are started; what a node type sets up itself replaces what all do."""
    key = f"{role}_start_ray_commands"
    docker, own = spec.get("docker") or {}, told.get("docker") or {}
    options = [*docker.get("run_options", []), *docker.get(f"{role}_run_options", [])]
    options += own.get("worker_run_options", [])
    setup = told.get(f"{role}_setup_commands") or spec[f"{role}_setup_commands"]
    before = told.get("initialization_commands") or spec["initialization_commands"]
    commands = (*before, *setup, *spec[key])
    index = next((index for index, one in enumerate(spec[key]) if started([one]) is not None), 0)
    variables = environment([" ".join(str(one) for one in options), *commands])
    at = (key, index)
    return Start(flags=started(spec[key]), flags_at=at, environment=variables, commands=commands, at=at)


def _image(spec: Mapping[str, Any], told: Mapping[str, Any], is_head: bool) -> str | None:
    docker, own = spec.get("docker") or {}, told.get("docker") or {}
    special = docker.get("head_image") if is_head else own.get("worker_image") or docker.get("worker_image")
    return special or docker.get("image")


def _part(value: Any, at: At) -> Any:
    """Return what stands at a path, or None."""
    for part in at:
        value = value.get(part) if isinstance(value, dict) else None
    return value if at else None


def _is_preemptible(node_config: Mapping[str, Any]) -> bool:
    """Tell whether GCP may take the node away: its older word for spot, in a list in Ray's own examples."""
    scheduling = node_config.get("scheduling")
    parts = scheduling if isinstance(scheduling, list) else [scheduling]
    return any(
        isinstance(part, dict) and (part.get("preemptible") is True or part.get("provisioningModel") == "SPOT")
        for part in parts
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # a variable of the shell
        return None
