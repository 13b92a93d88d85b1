"""Settings become what a cluster is told: a Serve config, or the RayService manifest that KubeRay makes a cluster of.

On one's own machine deployments ask for no CPUs, so that they fit beside a run; on a cluster they say what they need,
and Serve and the autoscaler go by that. Files of tokens, keys and policy do not travel in a config: nodes have them at
the same path, or, on Kubernetes, in a Secret and a ConfigMap that the manifest mounts.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import yaml

from raycluster.account.hook import HOOK, VARIABLE
from raycluster.account.owners import PAYER
from raycluster.errors import InvalidUse
from raycluster.govern.gate import Rules
from raycluster.serve.app import NAME
from raycluster.serve.here import is_loopback
from raycluster.serve.settings import Settings

# Read where a node's Ray starts: a config comes too late for them. The last has all jobs metered.
_STARTED_WITH = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_RUNTIME_ENV_HOOK": "raycluster.account.job.runtime_env",
}
_LOCAL = "local"  # what the bill takes a node for that does not say what it is
_DEPLOYMENTS = [
    {"name": "gateway", "ray_actor_options": {"num_cpus": 1}},
    {
        "name": "encoders",
        "ray_actor_options": {"num_cpus": 1},
        "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 16},
    },
    {"name": "keeper", "ray_actor_options": {"num_cpus": 0.1}},
]
# Ray's own token, in the way of KubeRay 1.6: who reaches a port of the cluster and has not got it is refused.
_RAY_TOKEN = f"{NAME}-ray-token"
_ALONE = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
_MOUNTS = {"tokens": "secret", "jwks": "configMap", "policy": "configMap"}  # what of the rules may be a file
_MOUNTED = "/etc/raycluster"


@dataclass(frozen=True)
class Door:
    """Where every node of a cluster listens."""

    host: str = "0.0.0.0"
    port: int = 8000


def serve_config(settings: Settings, door: Door, *, team: str | None = None) -> dict[str, Any]:
    """Return a Serve config file, in the schema of several applications; `team` pays for it.

    Raises:
        InvalidUse: others could reach it, and nobody would be asked who they are.
    """
    if not (settings.rules.authenticates or is_loopback(door.host)):
        raise InvalidUse(
            f"{door.host} can be reached by others, and nobody would be asked who they are",
            where="--host",
            fix="configure --issuer and --audience, or --tokens; or --host 127.0.0.1, for who is on a node",
        )
    # Ray 2.60 takes `worker_process_setup_hook` of a job only. Delete when a Serve application may have one of its own.
    variables = {VARIABLE: HOOK} | ({PAYER: json.dumps({"team": team})} if team else {})
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": door.host, "port": door.port},
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": "raycluster.serve.app:build",
                "args": settings.write(),
                "runtime_env": {"env_vars": variables},
                "deployments": _DEPLOYMENTS,
            }
        ],
    }


def ray_service(settings: Settings, door: Door, image: str, *, node_type: str = _LOCAL, team: str | None = None) -> str:
    """Return a RayService manifest, as text: above it, how to make what it refers to.

    Its pods run on machines of a type, by the name that the price list and Kubernetes have for it.

    Raises:
        InvalidUse: a lake or a file that pods would not have.
    """
    if "://" not in settings.lake:
        raise InvalidUse(
            f"{settings.lake} is a folder of this machine: pods have no part in it",
            where="--lake",
            fix="give a lake in an object store, such as s3://bucket/lake",
        )
    files = _files(settings.rules)
    mounted = replace(settings, rules=_mounted(settings.rules, files))
    head = _pod("ray-head", image, {"cpu": "2", "memory": "8Gi"}, [*files])
    worker = _pod("ray-worker", image, {"cpu": "4", "memory": "12Gi"}, [*files])
    head["containers"][0]["lifecycle"] = {"postStart": {"exec": {"command": _accounting(settings.lake)}}}
    if node_type != _LOCAL:
        for pod in (head, worker):
            pod["nodeSelector"] = {"node.kubernetes.io/instance-type": node_type}
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": NAME},
        "spec": {
            "serveConfigV2": written(serve_config(mounted, door, team=team)),
            "rayClusterConfig": _cluster(
                head, worker, labels={"raycluster/node-type": node_type, "ray.io/market-type": "on-demand"}
            ),
        },
    }
    return "".join(f"# {line}\n" for line in _preparations(files)) + written(manifest)


def _cluster(head: dict[str, Any], worker: dict[str, Any], *, labels: dict[str, str]) -> dict[str, Any]:
    """Return a cluster of these pods: their containers' sizes are what Ray takes their nodes for."""
    return {
        "rayVersion": ray.__version__,
        "authOptions": {"mode": "token", "secretName": _RAY_TOKEN},
        "enableInTreeAutoscaling": True,
        "headGroupSpec": {
            "labels": labels,
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": {"spec": head},
        },
        "workerGroupSpecs": [
            {
                "groupName": "serving",
                "replicas": 1,
                "minReplicas": 1,
                "maxReplicas": 4,
                "labels": labels,
                "rayStartParams": {},
                "template": {"spec": worker},
            }
        ],
    }


def _accounting(lake: str) -> list[str]:
    """Return what a head runs once it is there: it waits for Ray, which the container itself starts."""
    account = f"raycluster cluster account --lake {shlex.quote(lake)} --address auto"
    return ["bash", "-c", f"until ray health-check; do sleep 2; done; {account}"]


def _files(rules: Rules) -> dict[str, Path]:
    """Return which rules are files of this machine."""
    places = {name: getattr(rules, name) for name in _MOUNTS}
    found = {name: Path(place) for name, place in places.items() if place and "://" not in place}
    for name, path in found.items():
        if not path.exists():
            raise InvalidUse(f"{path} is not there", where=f"--{name}", fix="it goes to the pods from this machine")
    return found


def _mounted(rules: Rules, files: dict[str, Path]) -> Rules:
    """Return rules that name files where pods have them."""
    places = {name: f"{_MOUNTED}/{name}" + ("" if path.is_dir() else f"/{path.name}") for name, path in files.items()}
    return replace(rules, **places)


def _preparations(files: dict[str, Path]) -> list[str]:
    kinds = {"secret": "secret generic", "configMap": "configmap"}
    made = [f"kubectl create {kinds[_MOUNTS[name]]} {NAME}-{name} --from-file={path}" for name, path in files.items()]
    return [
        "KubeRay makes a cluster of this: `kubectl apply -f FILE`. Before that:",
        f"  kubectl create secret generic {_RAY_TOKEN} --from-file=auth_token=$HOME/.ray/auth_token",
        *(f"  {one}" for one in made),
        f"  kubectl create secret generic {NAME}-store --from-literal=AWS_ACCESS_KEY_ID=... (or let pods have a role)",
    ]


def _pod(name: str, image: str, resources: dict[str, str], files: list[str]) -> dict[str, Any]:
    container = {
        "name": name,
        "image": image,
        "env": [{"name": key, "value": value} for key, value in _STARTED_WITH.items()],
        "envFrom": [{"secretRef": {"name": f"{NAME}-store", "optional": True}}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": one, "mountPath": f"{_MOUNTED}/{one}", "readOnly": True} for one in files],
    }
    volumes = [{"name": one, **_source(one)} for one in files]
    return {"securityContext": _ALONE, "containers": [container], "volumes": volumes}


def _source(name: str) -> dict[str, Any]:
    if _MOUNTS[name] == "secret":
        return {"secret": {"secretName": f"{NAME}-{name}"}}
    return {"configMap": {"name": f"{NAME}-{name}"}}


class _Readable(yaml.SafeDumper):
    """Writes text of several lines as it is, and nothing by reference."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _block)


def written(document: dict[str, Any]) -> str:
    """Return a document as YAML that people read."""
    found: str = yaml.dump(document, Dumper=_Readable, sort_keys=False, width=120)
    return found
