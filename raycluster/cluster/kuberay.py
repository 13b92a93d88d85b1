"""Kubernetes manifests become shapes: one for every RayCluster, RayJob and RayService that makes a cluster.

What a pod gives Ray is worked out by Ray's own code for KubeRay. The schema here holds the structure that this needs;
pods are Kubernetes' business.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from raycluster.cluster.look import Finding
from raycluster.cluster.shape import NodeType, Shape, Start, by_schema, environment, labels_of
from raycluster.declare.document import At, Document

# Where each kind keeps its cluster.
KINDS: dict[str, tuple[str, ...]] = {
    "RayCluster": ("spec",),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
}


def _closed(*names: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    known = {**dict.fromkeys(names, True), **properties}
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": known}


def _open(*, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
# What pods choose spot nodes by: Karpenter's, EKS's own, GKE's.
_SPOT = ("karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType", "cloud.google.com/gke-spot")
_QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_RESOURCES = _open(limits=_QUANTITIES, requests=_QUANTITIES)
_VARIABLE = _open(required=("name",), name={"type": "string"}, value={"type": "string"})
_CONTAINER = _open(
    required=("name", "image"),
    name={"type": "string"},
    image={"type": "string"},
    env={"type": "array", "items": _VARIABLE},
    resources=_RESOURCES,
)
_CONTAINERS = {"type": "array", "minItems": 1, "items": _CONTAINER}
_PARTS = {"containers": _CONTAINERS, "initContainers": {"type": "array", "items": _CONTAINER}}
_POD = _open(required=("spec",), spec=_open(required=("containers",), nodeSelector=_TEXTS, **_PARTS))
_GROUP = {"rayStartParams": _TEXTS, "labels": _TEXTS, "resources": _QUANTITIES, "template": _POD}
_HEAD = _closed(
    "enableIngress", "serviceType", required=("template",), headService=_open(spec={"type": "object"}), **_GROUP
)
_WORKERS = _closed(
    "idleTimeoutSeconds",
    "priority",
    "scaleStrategy",
    "suspend",
    required=("groupName", "minReplicas", "maxReplicas", "template"),
    groupName={"type": "string"},
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    numOfHosts=_COUNT,
    **_GROUP,
)
_OPTIONS = _closed(
    *("env", "envFrom", "image", "imagePullPolicy", "resources", "securityContext", "volumeMounts"),
    version={"enum": ["v1", "v2"]},
    idleTimeoutSeconds=_COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
)
# The fields that KubeRay's reference of its API lists (1.6), and `priority`, which Ray 2.60 reads.
_CLUSTER = _closed(
    *("gcsFaultToleranceOptions", "headServiceAnnotations", "managedBy", "suspend", "upgradeStrategy"),
    required=("headGroupSpec",),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    autoscalerOptions=_OPTIONS,
    authOptions={"type": "object", "properties": {"mode": {"enum": ["token", "disabled"]}}},
    enableInTreeAutoscaling={"type": "boolean"},
    rayVersion={"type": "string"},
)
_JOB = _closed(
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "jobId"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "managedBy", "metadata", "runtimeEnvYAML"),
    *("shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend"),
    "ttlSecondsAfterFinished",
    rayClusterSpec=_CLUSTER,
)
_SERVICE = _closed(
    *("deploymentUnhealthySecondThreshold", "excludeHeadPodFromServeSvc", "rayClusterDeletionDelaySeconds"),
    *("serveConfigV2", "serveService", "serviceUnhealthySecondThreshold", "upgradeStrategy"),
    required=("rayClusterConfig",),
    rayClusterConfig=_CLUSTER,
)
_SCHEMAS = {"RayCluster": _CLUSTER, "RayJob": _JOB, "RayService": _SERVICE}


def read(document: Document) -> tuple[Shape | None, list[Finding]]:
    """Return the cluster of a manifest, or None: because it is wrong, or because it makes none."""
    kind = str(document.value.get("kind"))
    at = KINDS.get(kind) if str(document.value.get("apiVersion")).startswith("ray.io/") else None
    if at is None:
        return None, []
    spec = document.value.get("spec")
    owned = _owner(document) if kind == "RayJob" else []
    named = _open(required=("name",), name={"type": "string"})
    wrong = by_schema(document, _open(required=("metadata", "spec"), metadata=named, spec=_SCHEMAS[kind]))
    if wrong:
        return None, [*wrong, *owned]
    if kind == "RayJob" and "clusterSelector" in spec:  # goes to a cluster that is there
        return None, owned
    if at[-1] not in ("spec", *spec):
        where = document.where(("spec",))
        return None, [Finding("problem", f"missing key {at[-1]!r} in spec", where), *owned]
    cluster = spec if len(at) == 1 else spec[at[1]]
    groups = [("headGroupSpec",), *(("workerGroupSpecs", i) for i in range(len(cluster.get("workerGroupSpecs", []))))]
    found, told = [], []
    for place in groups:
        node_type, problem = _node_type(document, cluster, (*at, *place))
        found += [node_type] if node_type else []
        told += [problem] if problem else []
    shape = Shape(
        document=document,
        at=at,
        kind=kind,
        name=document.value["metadata"]["name"],
        provider="kuberay",
        spec=cluster,
        node_types=tuple(found),
        most_workers=sum(one.most for one in found if not one.is_head),
    )
    return (None if told else shape), [*told, *owned]


def _owner(document: Document) -> list[Finding]:
    """Say of a job without a team that it will be refused: nobody would pay for it."""
    spec = document.value.get("spec")
    metadata = spec.get("metadata") if isinstance(spec, dict) else None
    if isinstance(metadata, dict) and metadata.get("team"):
        return []
    where = document.where(("spec", "metadata"))
    return [
        Finding("problem", "a job without a team is refused", where=where, fix="metadata: {team: NAME} in its spec")
    ]


def _node_type(document: Document, cluster: Mapping[str, Any], at: At) -> tuple[NodeType | None, Finding | None]:
    from ray.autoscaler._private.kuberay.autoscaling_config import _node_type_from_group_spec

    group: Any = document.value
    for part in at:
        group = group[part]
    is_head = at[-1] == "headGroupSpec"
    name = "head" if is_head else group["groupName"]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it warns of labels below `rayStartParams`, which do hold
            told = _node_type_from_group_spec(group, is_head=is_head)
    except ValueError as error:
        where = document.where((*at, "template", "spec", "containers", 0))
        fix = "give the Ray container `resources: {limits: {cpu: N, memory: NGi}}`"
        return None, Finding("problem", f"{name}: {str(error).partition(chr(10))[0]}", where=where, fix=fix)
    replicas = group.get("replicas", group.get("minReplicas", 0)) * group.get("numOfHosts", 1)
    scales = cluster.get("enableInTreeAutoscaling") is True
    pod, params = group["template"]["spec"], group.get("rayStartParams", {})
    chosen = pod.get("nodeSelector", {})
    markets = [chosen[name] for name in _SPOT if name in chosen]
    return NodeType(
        name=name,
        at=at,
        is_head=is_head,
        least=1 if is_head else told["min_workers"] if scales else replicas,
        most=1 if is_head else told["max_workers"] if scales else replicas,
        cpus=told["resources"]["CPU"],
        gpus=told["resources"].get("GPU", 0),
        memory=told["resources"].get("memory"),
        labels={**labels_of(params), **told["labels"]},
        instance=chosen.get("node.kubernetes.io/instance-type"),
        is_spot=markets[0].lower() in ("spot", "true") if markets else None,
        image=pod["containers"][0]["image"],
        start=_start(cluster, group, at),
    ), None


def _start(cluster: Mapping[str, Any], group: Mapping[str, Any], at: At) -> Start:
    pod = group["template"]["spec"]
    told = pod["containers"][0].get("env", [])
    variables = {one["name"]: str(one.get("value", "")) for one in told}
    if mode := cluster.get("authOptions", {}).get("mode"):
        variables["RAY_AUTH_MODE"] = mode
    containers = [*pod["containers"], *(pod.get("initContainers", []))]
    commands = tuple(" ".join(_texts(one)) for one in containers)
    return Start(
        flags=group.get("rayStartParams", {}),
        flags_at=(*at, "rayStartParams"),
        environment={**environment(commands), **variables},
        commands=commands,
        at=(*at, "template", "spec", "containers", 0),
    )


def _texts(value: Any) -> list[str]:
    """Return the texts of a container's commands, whatever starts them."""
    if isinstance(value, str):
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for member in members for text in _texts(member)]
