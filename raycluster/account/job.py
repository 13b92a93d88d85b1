"""What a driver gives to `ray.init` becomes a job of the cluster that is metered, and that somebody pays for.

Every `ray start` of a cluster has `RAY_RUNTIME_ENV_HOOK=raycluster.account.job.runtime_env` in its environment, which
submitted drivers inherit: Ray calls it with the runtime environment of each driver's `ray.init`, before that connects.
Ray's own drivers (the dashboard, the proxy of Ray Client) don't ask it. Not asked either, and so neither metered nor
refused: a driver that `uv run` started, to which Ray gives uv's hook instead, and Ray Client's drivers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from raycluster.account.hook import HOOK, VARIABLE
from raycluster.account.owners import Owner, told
from raycluster.errors import InvalidUse

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # a submitted driver's metadata (job_supervisor.py of Ray 2.60)
_HOOK = "worker_process_setup_hook"
_OWN_PYTHON = {"conda", "container", "image_uri", "py_executable"}  # workers may not have this package at all
_log = logging.getLogger(__name__)


def runtime_env(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a driver's runtime environment, with a meter in every worker.

    Raises:
        InvalidUse: it was submitted without a team.
    """
    whole = dict(given or {})
    owner = payer(os.environ.get(SUBMITTED))
    if owner is not None and not owner.team:
        raise InvalidUse(
            "this job names no team: nobody would pay for it",
            fix='ray job submit --metadata-json \'{"team": "NAME"}\' -- COMMAND, or raycluster submit FILE',
        )
    theirs = whole.get(_HOOK)
    if VARIABLE in (whole.get("env_vars") or {}):  # Ray takes no second one beside it
        if whole["env_vars"][VARIABLE] != HOOK:
            _log.warning("workers of this job have a set-up hook in %s: their calls are not told apart", VARIABLE)
    elif theirs not in (None, HOOK) or _OWN_PYTHON & whole.keys():
        whole[_HOOK] = _beside(None if theirs == HOOK else theirs)
    else:
        whole[_HOOK] = HOOK
    return whole


def payer(config: str | None) -> Owner | None:
    """Return who pays for a submitted driver, by what Ray tells it in `SUBMITTED`; None for one that was not."""
    if config is None:
        return None
    try:
        metadata = json.loads(config).get("metadata")
    except (ValueError, AttributeError):  # somebody's own variable of that name
        return None
    return told(metadata) if isinstance(metadata, dict) else told({})


def _beside(theirs: Callable[[], Any] | str | None) -> Callable[[], None]:
    """Return a hook that meters a worker, where it has this package, and does then what theirs does.

    Ray sends a function that is made here as it is, so that nothing has to be imported to have it.
    """
    from contextlib import suppress
    from importlib import import_module

    def setup() -> None:
        with suppress(ImportError):
            import_module("raycluster.account.hook").install()
        if isinstance(theirs, str):
            module, _, name = theirs.rpartition(".")
            getattr(import_module(module), name)()
        elif theirs is not None:
            theirs()

    return setup
