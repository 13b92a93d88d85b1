"""A running Ray cluster becomes findings: reached, of the same versions, every node at work, and accounted for."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from raycluster.cluster.look import Finding, Site, _agents, _nodes
from raycluster.cluster.look.authentication import token_file
from raycluster.cluster.look.ports import public_dashboard

_ANSWER_SECONDS = 5.0
_CURRENT = "ray_current_cluster"  # Ray's file of the cluster that was started last on this machine
# Of a wrong token Ray 2.60 says no more than that it failed to connect.
_TOKEN = "check that it is Ray's head, and that this machine has its token: ~/.ray/auth_token, and RAY_AUTH_MODE=token"
_START = "start it: ray up FILE; or reach it: ray attach FILE, then --address auto; leave --address out to run here"


def look(site: Site) -> Iterator[Finding]:
    """Join the cluster as a driver does, and ask every node."""
    if site.address is None:
        yield from _unnamed()
    elif site.address.startswith(("http://", "https://")):
        yield _job_api(site.address)
    else:
        yield from _joined(site, site.address)


def _unnamed() -> Iterator[Finding]:
    current = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", _CURRENT)
    here = current.read_text().strip() if current.is_file() else ""
    if here and _refusal(here) is None:
        what = "a Ray cluster runs here, and was not looked at"
        yield Finding("note", what, here, f"raycluster doctor --address {here}")
    else:
        yield Finding("note", "no cluster is named (--address, RAY_ADDRESS): work runs on this machine")


def _job_api(url: str) -> Finding:
    """Ask the job API, as `raycluster submit` does."""
    import ray

    token = os.environ.get("RAY_AUTH_TOKEN", "")
    with suppress(OSError):
        token = token or token_file().read_text().strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(f"{url.rstrip('/')}/api/version", headers=headers), timeout=_ANSWER_SECONDS) as answer:
            there = json.load(answer).get("ray_version", "")
    except HTTPError as error:
        return Finding("problem", f"the job API refuses: {error.code} {error.reason}", url, _TOKEN)
    except (OSError, ValueError) as error:
        fix = "forward it from the head: ray dashboard FILE; or start the cluster: ray up FILE"
        return Finding("problem", f"no job API of Ray answers: {getattr(error, 'reason', error)}", url, fix)
    if there != ray.__version__:
        fix = f'install what the cluster has: pip install "ray=={there}"; or bring the cluster to {ray.__version__}'
        return Finding("problem", f"the cluster has Ray {there}, this machine {ray.__version__}", url, fix)
    what = f"the job API answers, Ray {there}; its nodes were not asked: that takes an address like HOST:6379"
    return Finding("ok", what, url)


def _joined(site: Site, address: str) -> Iterator[Finding]:
    if refusal := _refusal(address):
        yield Finding("problem", f"no Ray cluster answers: {refusal}", address, _START)
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    import ray

    try:
        # Its own name in the list of jobs; no hooks, no working directory: nothing is sent there but a small function.
        context: Any = ray.init(address, namespace=_agents.NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises plain ones too
        yield _not_joined(error, address)
        return
    url = context.dashboard_url or ""
    if (host := urlsplit(f"//{url}").hostname) and not _is_loopback(host):
        yield public_dashboard(url)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    yield from _nodes.findings(nodes, site.lake)
    yield from _agents.findings(nodes)
    ray.shutdown()


def _not_joined(error: Exception, address: str) -> Finding:
    words = " ".join(str(error).split())
    if "Version mismatch" in words:
        told = words[words.index("Version mismatch") :]
        fix = "install here what the cluster has, or the other way round: client and nodes need one Ray and one Python"
        return Finding("problem", told, address, fix)
    what = f"something listens there, and lets this machine not in: {words[:300]}"
    return Finding("problem", what, address, _TOKEN)


def _refusal(address: str) -> str | None:
    """Return why nothing answers at an address: Ray itself would try for minutes; None where something does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # `auto`, `local`
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.") or host == "::1"
    except OSError:
        return False
