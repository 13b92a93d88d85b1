"""What KubeRay and Kubernetes take: the fields of KubeRay's API, and Kubernetes' own schemas for what lies in it.

The fields are those that the API reference of KubeRay 1.6 lists for `ray.io/v1`, with their types. KubeRay's CRDs
themselves come in no package that could be fetched in tests; of what they hold more, pods are checked by Kubernetes'
schemas, and what Ray's autoscaler makes of a cluster by Ray's own code.
"""

import copy

import jsonschema
import kubernetes_validate
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config

TEXT, NUMBER, SWITCH = {"type": "string"}, {"type": "number", "minimum": 0}, {"type": "boolean"}
COUNT, OBJECT = {"type": "integer", "minimum": 0}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
LIST = {"type": "array", "items": OBJECT}


def closed(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def one_of(*words):
    return {"enum": list(words)}


SERVICE_TYPE = one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
GROUP = {"rayStartParams": TEXTS, "labels": TEXTS, "resources": OBJECT, "template": OBJECT}
HEAD_GROUP = closed(["template"], headService=OBJECT, enableIngress=SWITCH, serviceType=SERVICE_TYPE, **GROUP)
WORKER_GROUP = closed(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName=TEXT,
    suspend=SWITCH,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    scaleStrategy=OBJECT,
    **GROUP,
)
CREDENTIAL = closed(value=TEXT, valueFrom=OBJECT)
CLUSTER = closed(
    ["headGroupSpec"],
    suspend=SWITCH,
    managedBy=TEXT,
    rayVersion=TEXT,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=SWITCH,
    upgradeStrategy=closed(type=one_of("Recreate", "None")),
    authOptions=closed(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=SWITCH),
    autoscalerOptions=closed(
        resources=OBJECT,
        image=TEXT,
        imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
        securityContext=OBJECT,
        idleTimeoutSeconds=COUNT,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        version=one_of("v1", "v2"),
        env=LIST,
        envFrom=LIST,
        volumeMounts=LIST,
    ),
    gcsFaultToleranceOptions=closed(
        redisUsername=CREDENTIAL, redisPassword=CREDENTIAL, externalStorageNamespace=TEXT, redisAddress=TEXT
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)
JOB = closed(
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=OBJECT,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=closed(backoffLimit=COUNT),
    managedBy=TEXT,
    deletionStrategy=OBJECT,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=SWITCH,
    suspend=SWITCH,
)
SERVICE = closed(
    serviceUnhealthySecondThreshold=COUNT,
    deploymentUnhealthySecondThreshold=COUNT,
    rayClusterDeletionDelaySeconds=COUNT,
    serveService=OBJECT,
    upgradeStrategy=OBJECT,
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
    excludeHeadPodFromServeSvc=SWITCH,
)
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}


def schema(kind):
    return closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata={"type": "object", "required": ["name"]},
        spec=KINDS[kind],
    )


def cluster_of(manifest):
    """Return the cluster that a manifest makes, or None."""
    spec = manifest.get("spec", {})
    return {"RayCluster": spec}.get(manifest["kind"]) or spec.get("rayClusterConfig") or spec.get("rayClusterSpec")


def groups(manifest):
    cluster = cluster_of(manifest) or {}
    return [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])] if cluster else []


def pods(manifest):
    return [group["template"] for group in groups(manifest)]


def check(manifest):
    """Raise where KubeRay, Kubernetes or Ray's autoscaler would not take it."""
    latest = kubernetes_validate.latest_version()
    if manifest["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(manifest, latest, strict=True)
        return
    jsonschema.validate(manifest, schema(manifest["kind"]))
    for pod in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", **pod}
        kubernetes_validate.validate(pod, latest, strict=True)
    if cluster_of(manifest):
        validate_config(autoscaling(manifest))


def autoscaling(manifest):
    """Return what Ray's autoscaler, version 1, makes of a cluster."""
    cluster = {"metadata": {"name": "x", "namespace": "y"}, "spec": copy.deepcopy(cluster_of(manifest))}
    return _derive_autoscaling_config_from_ray_cr(cluster)


def manifests(path):
    return list(yaml.safe_load_all(path.read_text()))
