"""A shape becomes what others could do to its cluster: open doors, no token, secrets in the file, too much power."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raycluster.cluster.look import Finding
from raycluster.cluster.shape import Shape, Start, environment
from raycluster.declare.document import At, Document

_TOKEN_FILE = "~/.ray/auth_token"
# The dashboard with the job API, the client server, the GCS: whoever reaches one of them runs code on the cluster.
_PORTS = {8265, 10001, 6379, "dashboard", "client", "gcs-server", "gcs"}
_PUBLIC = ("LoadBalancer", "NodePort")
_KEYS = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bgh[pousr]_\w{20,}|\bxox[abp]-[\w-]{10,}"
    r"|\bhf_\w{20,}|\bAIza[\w-]{30,}|\bsk-[\w-]{20,}"
)
_PASSWORD_INSIDE = re.compile(r"\w://[^/@\s:$]*:[^/@\s$]+@")
_SECRET = re.compile(r"(?:passw(?:or)?d|secret|token|credentials?|(?:api|access|secret)_?key(?:_?id)?)$", re.IGNORECASE)
_OPTION = re.compile(r"--([\w-]*passw(?:or)?d|[\w-]*token)[= ]([^\s;]+)", re.IGNORECASE)
_BY_REFERENCE = "by reference: a variable of whoever starts it, a mounted file, a secret manager"


def threats(shape: Shape) -> Iterator[Finding]:
    """Say how a cluster could be entered or robbed."""
    for names, start in shape.starts:
        yield from _token(shape, names, start)
    if shape.provider in _PROVIDERS:
        yield from _PROVIDERS[shape.provider](shape)
    if shape.provider != "kuberay":
        yield from _dashboard(shape)
        yield from _files(shape)


def _token(shape: Shape, names: str, start: Start) -> Iterator[Finding]:
    """Say where Ray would start without asking who comes, or would have no token to ask for."""
    told, where = start.environment, shape.where(start.at)
    mode = told.get("RAY_AUTH_MODE")
    if mode != "token":
        told_so = f"RAY_AUTH_MODE={mode}" if mode else "no RAY_AUTH_MODE"
        what = f"{names}: Ray starts without token authentication ({told_so}), and who reaches it runs code on it"
        fix = "`authOptions: {mode: token}`" if shape.provider == "kuberay" else "RAY_AUTH_MODE=token for `ray start`"
        yield Finding("problem", what, where, fix)
        return
    mounts = [str(one) for one in shape.spec.get("file_mounts") or {}]
    has = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & told.keys() or shape.spec.get("authOptions")
    if not has and not any(one.endswith(".ray/auth_token") for one in mounts):
        what = f"{names}: no token comes there, without which Ray does not start with RAY_AUTH_MODE=token"
        fix = f"`file_mounts: {{{_TOKEN_FILE}: {_TOKEN_FILE}}}`, made by `ray get-auth-token --generate`"
        yield Finding("problem", what, where, fix)


def _dashboard(shape: Shape) -> Iterator[Finding]:
    start = shape.head.start
    host = (start.flags or {}).get("dashboard-host", "127.0.0.1")
    if _is_loopback(host):
        return
    own = "" if start.at[0] in shape.document.value else "Ray's own start command, as the file has none: "
    what = f"{own}the dashboard, and with it the job API, listens on {host}"
    yield Finding("problem", what, shape.where(start.at), "--dashboard-host=127.0.0.1; `ray dashboard` forwards it")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _files(shape: Shape) -> Iterator[Finding]:
    """Say which keys of a person would lie on every node; machines of one's own have no other way."""
    for remote, local in (shape.spec.get("file_mounts") or {}).items():
        if shape.provider != "local" and re.search(r"\.aws\b|\.ssh\b|gcloud|\.kube\b|\.azure\b", str(local)):
            what = f"{local} goes to every node"
            fix = "let nodes have a role or service account of their own"
            yield Finding("warning", what, shape.where(("file_mounts", remote)), fix)


def _aws(shape: Shape) -> Iterator[Finding]:
    yield from _aws_doors(shape)
    for name, told in shape.spec["available_node_types"].items():
        at, node = ("available_node_types", name, "node_config"), told["node_config"]
        if (node.get("MetadataOptions", {})).get("HttpTokens") != "required":
            what = f"{name} answers IMDSv1: who makes a process there ask a URL gets the node's role"
            yield Finding(
                "warning", what, shape.where((*at, "MetadataOptions")), "MetadataOptions: {HttpTokens: required}"
            )
        disks = [disk.get("Ebs", {}).get("Encrypted") for disk in node.get("BlockDeviceMappings") or [{}]]
        if not all(one is True for one in disks):
            what = f"{name} has a disk that is not encrypted"
            fix = "BlockDeviceMappings: [{DeviceName: /dev/sda1, Ebs: {Encrypted: true, ...}}]"
            yield Finding("warning", what, shape.where((*at, "BlockDeviceMappings")), fix)
        if name == shape.spec["head_node_type"] and "IamInstanceProfile" not in node:
            what = f"{name} names no IamInstanceProfile: Ray makes one with all of EC2 and S3"
            yield Finding(
                "warning", what, shape.where(at), "IamInstanceProfile: {Name: ...}, of the least that it needs"
            )


def _aws_doors(shape: Shape) -> Iterator[Finding]:
    """Say who is let in by security groups.

    A group without inbound rules gets from Ray, besides those of the file, SSH from everywhere: the file's own do not
    replace that one (Ray 2.60, autoscaler/_private/aws/config.py, `_create_default_inbound_rules`).
    """
    group = shape.spec["provider"].get("security_group", {})
    at: At = ("provider", "security_group")
    for index, rule in enumerate(group.get("IpPermissions", [])):
        ranges = [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]
        if {"0.0.0.0/0", "::/0"} & {one.get("CidrIp") or one.get("CidrIpv6") for one in ranges}:
            ports = f"{rule.get('FromPort', 'every port')}"
            what = f"port {ports} is open to everybody" if ports.isdigit() else "every port is open to everybody"
            yield Finding(
                "problem", what, shape.where((*at, "IpPermissions", index)), "the addresses of your office or VPN"
            )
    types = shape.spec["available_node_types"]
    bare = [name for name, told in types.items() if "SecurityGroupIds" not in told["node_config"]]
    if bare:
        is_there = "GroupName" in group and not group.get("IpPermissions")  # or so it seems: made beforehand
        what = "Ray opens SSH to 0.0.0.0/0 in every security group that it makes, or finds without inbound rules"
        fix = f"make the group before, with its rules, and name it in SecurityGroupIds of {', '.join(bare)}"
        yield Finding("warning" if is_there else "problem", what, shape.where(at), fix)


def _azure(shape: Shape) -> Iterator[Finding]:
    what = "Ray's template lets SSH in from everywhere (azure-config-template.json)"
    if not shape.spec["provider"].get("use_internal_ips"):
        yield Finding("warning", what, shape.where(("provider",)), "use_internal_ips: true, and a VPN")


def _kuberay(shape: Shape) -> Iterator[Finding]:
    head, at = shape.spec["headGroupSpec"], (*shape.at, "headGroupSpec")
    service = head.get("headService", {}).get("spec", {}).get("type")
    for found, key in ((head.get("serviceType"), "serviceType"), (service, "headService")):
        if found in _PUBLIC:
            what = f"the head's service is a {found}: the dashboard and the job API have an address outside"
            yield Finding("problem", what, shape.where((*at, key)), "ClusterIP, and `kubectl port-forward`")
    if head.get("enableIngress"):
        what = "enableIngress gives the dashboard and the job API an address outside"
        yield Finding("problem", what, shape.where((*at, "enableIngress")), "leave it out; `kubectl port-forward`")
    if head["template"]["spec"].get("hostNetwork"):
        what = "the head listens on its machine's own addresses"
        yield Finding("warning", what, shape.where((*at, "template", "spec", "hostNetwork")), "leave hostNetwork out")


def _gcp(shape: Shape) -> Iterator[Finding]:
    head = shape.spec["head_node_type"]
    if "serviceAccounts" not in shape.spec["available_node_types"][head]["node_config"]:
        what = f"{head} names no serviceAccounts: Ray makes one with all of Compute Engine and Cloud Storage"
        at = ("available_node_types", head, "node_config")
        yield Finding("warning", what, shape.where(at), "serviceAccounts: [...], of the least that it needs")


_PROVIDERS = {"aws": _aws, "gcp": _gcp, "azure": _azure, "kuberay": _kuberay}


def exposures(documents: Sequence[Document]) -> Iterator[Finding]:
    """Say which secrets stand in a file, and which services of its manifests are doors to a cluster."""
    for document in documents:
        yield from _secrets(document)
        if document.value.get("kind") in ("Service", "Ingress"):
            yield from _service(document)
        if document.value.get("kind") == "Secret":
            for key in ("data", "stringData"):
                if document.value.get(key):
                    fix = "`kubectl create secret`, or a secret manager: what is in a file is in its history"
                    yield Finding("problem", "a Secret with its contents", document.where((key,)), fix)


def _service(document: Document) -> Iterator[Finding]:
    spec, is_ingress = document.value.get("spec"), document.value["kind"] == "Ingress"
    if not isinstance(spec, dict) or not (is_ingress or spec.get("type") in _PUBLIC):
        return
    ports = {value for at, value in _leaves(spec) if at[-1] in ("port", "targetPort", "name", "number")}
    if ports & _PORTS:
        what = f"this {document.value['kind']} gives the dashboard, the client server or the GCS an address outside"
        fix = "serve the application's port alone (8000)"
        yield Finding("problem", what, document.where(("spec",)), fix)


def _leaves(value: Any, at: At = ()) -> Iterator[tuple[At, Any]]:
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(member, (*at, key))
    else:
        yield at, value


def _secrets(document: Document) -> Iterator[Finding]:
    """Say where a secret stands in the file, and never which."""
    for at, value in _leaves(document.value):
        name = _name(document.value, at)
        if isinstance(value, str) and (what := _secret(name, value)) and at[0] != "file_mounts":
            yield Finding("problem", f"{what} stands in the file", document.where(at), _BY_REFERENCE)


def _name(value: Any, at: At) -> str:
    """Return what a value is called: its key, or of `{name: X, value: ...}` that name."""
    if at[-1] == "value":
        for part in at[:-1]:
            value = value[part]
        return str(value.get("name", "value"))
    return str(next((part for part in reversed(at) if isinstance(part, str)), ""))


def _secret(name: str, value: str) -> str:
    """Name what in a text is secret, by its form or by what it is called; nothing where it is only referred to."""
    if _KEYS.search(value):
        return "a key"
    if _PASSWORD_INSIDE.search(value):
        return "a password within a URL"
    if _SECRET.search(name) and _is_literal(value):
        return name
    named: Mapping[str, str] = {**environment([value]), **dict(_OPTION.findall(value))}
    return next((one for one, text in named.items() if _SECRET.search(one) and _is_literal(text)), "")


def _is_literal(text: str) -> bool:
    return bool(text) and not text.startswith(("$", "~", "/", "<", "`", ".", "'$", '"$', "arn:"))
