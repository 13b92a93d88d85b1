"""A Serve config becomes an application that runs on a cluster, by the REST API of its dashboard.

The API replaces all that was deployed through it before, so what others have deployed is sent along.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests

from raycluster.errors import InvalidUse, RayclusterError
from raycluster.serve.app import NAME

_LOOK_SECONDS = 1.0
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY", "DELETING")


class NotDeployed(RayclusterError):
    """The cluster could not be reached, or the application does not run there."""

    code, status = "not_deployed", 503


def apply(config: dict[str, Any], address: str, *, timeout: float, observe: Callable[[str], None]) -> str:
    """Deploy, and wait until the application answers; return where.

    Args:
        config: what `serve_config` returns.
        address: of the cluster's dashboard, `http://HEAD:8265`.
        timeout: seconds to wait.
        observe: is told each new status.

    Raises:
        InvalidUse: the address is none of a dashboard.
        NotDeployed: nobody answers there, or it does not run; says why.
    """
    dashboard = _dashboard(address)
    others = [one["deployed_app_config"] for one in _applications(dashboard).values() if _is_others(one)]
    _ask(lambda: dashboard.deploy_applications({**config, "applications": [*config["applications"], *others]}))
    until, said = time.monotonic() + timeout, ""
    while True:
        mine = _applications(dashboard).get(NAME, {"status": "NOT_STARTED", "message": ""})
        if mine["status"] == "RUNNING":
            return _door(dashboard)
        if mine["status"] in _FAILED or time.monotonic() > until:
            raise NotDeployed(f"the application is {mine['status']}: {_reason(mine)}", fix=f"see its logs: {address}")
        if mine["status"] != said:
            said = mine["status"]
            observe(said)
        time.sleep(_LOOK_SECONDS)


def _dashboard(address: str) -> Any:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    if not address.startswith(("http://", "https://")):
        fix = "give the dashboard's, which is no address of Ray itself: http://HEAD:8265"
        raise InvalidUse(f"{address!r} is no address of a dashboard", where="--address", fix=fix)
    return _ask(lambda: ServeSubmissionClient(address))


def _applications(dashboard: Any) -> dict[str, Any]:
    found: dict[str, Any] = _ask(dashboard.get_serve_details)["applications"]
    return found


def _is_others(one: dict[str, Any]) -> bool:
    """Tell whether somebody else deployed it this way; what a program runs (`serve.run`) stays as it is."""
    return one["name"] != NAME and one["deployed_app_config"] is not None


def _reason(mine: dict[str, Any]) -> str:
    """Return what an application says of itself, and what was raised in the deployments that do not run."""
    told = [mine["message"].strip()]
    for name, one in mine.get("deployments", {}).items():
        if one["status"] != "HEALTHY":
            told.append(f"{name}: {_raised(one['message'])}")
    return "\n".join(filter(None, told)) or "it is taking too long"


def _raised(message: str) -> str:
    """Return the end of a traceback, from the last line that is not indented: the error, and its fix."""
    lines = message.strip().splitlines()
    last = max((at for at, line in enumerate(lines) if line[:1].strip()), default=0)
    return "\n".join(lines[last:])


def _door(dashboard: Any) -> str:
    """Return where Serve listens: as its first application asked, whatever a config says afterwards."""
    options = _ask(dashboard.get_serve_details)["http_options"]
    return f"{options['host']}:{options['port']}"


def _ask(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ConnectionError, RuntimeError, requests.exceptions.RequestException) as error:  # what Ray's client raises
        fix = "check --address, and that the cluster's dashboard runs (`ray start --head --include-dashboard=true`)"
        raise NotDeployed(f"the dashboard does not answer: {error}", fix=fix) from error
