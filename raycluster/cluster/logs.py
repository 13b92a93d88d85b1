"""The id of a run becomes all that its processes said, from every node, in the order of time.

Each wrote lines of JSON into a file beside Ray's own logs (`account/log.py`). On a cluster they come through the head's
dashboard, whose address is what `submit` takes too; without one, from the sessions that Ray had on this machine.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycluster.errors import NotFound, RayclusterError

_SECONDS = 30  # for one answer of a node
LEVELS = ("debug", "info", "warning", "error", "critical")


class NoLogs(RayclusterError):
    """The cluster does not tell what its nodes have logged."""

    code, status, retryable = "no_logs", 503, True


@dataclass
class Said:
    """What was found, and where nothing could be asked."""

    lines: list[dict[str, Any]] = field(default_factory=list)  # by time
    silent: list[str] = field(default_factory=list)  # nodes that are gone or do not answer, and what they have said


def said(run_id: str, address: str | None = None, *, level: str = "debug") -> Said:
    """Return the lines of a run, of this level and above.

    Raises:
        NoLogs: the cluster cannot be asked.
        NotFound: there are no lines of such a run.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    found = Said()
    lines = _here(run_id) if address is None else _there(run_id, address, found)
    kept = LEVELS[LEVELS.index(level) :]
    found.lines = sorted((line for line in lines if line["level"] in kept), key=lambda line: line["at"])
    if not found.lines:
        place = "on this machine" if address is None else f"on {address}"
        fix = "runs are listed by `raycluster runs`; of one on a cluster, name its --address"
        if found.silent:
            fix = f"the logs of {len(found.silent)} nodes that are gone went with them; {fix}"
        raise NotFound(f"no process {place} has logged anything of a run {run_id!r}", fix=fix)
    return found


def _pattern(run_id: str) -> str:
    return f"raycluster-{glob.escape(run_id)}-*.log*"


def _here(run_id: str) -> Iterable[dict[str, Any]]:
    from ray._common.utils import get_default_ray_temp_dir

    sessions = Path(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]
    for file in {one.resolve() for one in sessions.glob(f"session_*/logs/{_pattern(run_id)}")}:  # `latest` is a link
        yield from _parsed(file.read_text(errors="replace"))


def _there(run_id: str, address: str, found: Said) -> Iterable[dict[str, Any]]:
    from ray.util.state import StateApiClient
    from ray.util.state.common import ListApiOptions, StateResource

    try:
        client = StateApiClient(address)
        nodes: Any = client.list(StateResource.NODES, ListApiOptions(), raise_on_missing_output=False)
    except Exception as error:  # Ray raises plain ones too
        fix = "it is the head's dashboard that is asked: `ray dashboard FILE`, then --address http://127.0.0.1:8265"
        raise NoLogs(f"{address} does not tell its nodes: {error}", fix=fix) from error
    for node in nodes:
        asked = {"node_id": node["node_id"], "timeout": _SECONDS}
        try:
            if node["state"] != "ALIVE":
                raise ConnectionError(node["state"])
            groups = _get(client, "logs", glob=_pattern(run_id), **asked).json()["data"]["result"]
            for name in (one for group in groups.values() for one in group):
                text = _get(client, "logs/file", filename=name, lines=-1, **asked).text
                # Nodes of one machine have one folder, and each would tell all that lies in it.
                yield from (line for line in _parsed(text) if line.get("node") == node["node_id"])
        except (OSError, KeyError, ValueError):  # of requests, too
            found.silent.append(node["node_id"])


def _get(client: Any, path: str, **asked: Any) -> Any:
    """Ask the dashboard; `ray.util.state.get_log` takes no URL of it, and outside nothing else is reached (2.60)."""
    answer = client._do_request("GET", f"/api/v0/{path}", params=asked, timeout=2 * _SECONDS)
    answer.raise_for_status()
    return answer


def _parsed(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        try:
            one = json.loads(line)
        except ValueError:  # the last line of a process that was killed while it wrote
            continue
        if isinstance(one, dict) and {"at", "level", "message"} <= one.keys():
            yield one
