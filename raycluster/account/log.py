"""What the processes of a run say becomes lines of JSON that carry its id: one file a process, beside Ray's own logs.

Driver and workers write `raycluster-RUN-PID.log` into the folder of their node's Ray session, where Ray's dashboard and
its state API find it, and what ships logs too; `raycluster logs RUN` (`cluster/logs.py`) brings them together. What
goes to the terminal stays as it is, unless RAYCLUSTER_LOG=json asks for the same lines there.

A process works for one run at a time: what else it says meanwhile, a library's warning, is said in that run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

_OWN = "raycluster"
_MOST_BYTES = 64 << 20  # of a file, of which there are two: what a library says in a loop fills no disk
_KNOWN = ("run_id", "workload", "team")
TOLD = {"is_told": True}  # `extra` of a record whose sense the command tells people in its own way

_of_run: dict[str, str] = {}  # who this process works for, as long as it does


class Log:
    """The file of one process in one run; opened when Ray is there, and made with its first line."""

    def __init__(self, owner: Mapping[str, Any], *, level: int = logging.WARNING) -> None:
        """Begin: what raycluster says from INFO on, and all others from `level` on."""
        root, own = logging.getLogger(), logging.getLogger(_OWN)
        _of_run.update({name: str(owner[name]) for name in _KNOWN if owner.get(name)})
        _of_run.update(_place())
        self.handlers: list[logging.Handler] = []
        if not root.handlers:  # else the file would be in the place of Python's last resort, the terminal
            shown = logging.StreamHandler()
            shown.setLevel(logging.WARNING)
            shown.addFilter(lambda record: not hasattr(record, "is_told"))
            self.handlers.append(shown)
        if folder := _folder():
            name = f"raycluster-{owner['run_id']}-{os.getpid()}.log"
            into = RotatingFileHandler(folder / name, maxBytes=_MOST_BYTES, backupCount=1, delay=True)
            into.setFormatter(Lines())
            self.handlers.append(into)
        for handler in self.handlers:
            root.addHandler(handler)
        self.levels = [(logger, logger.level) for logger in (root, own)]
        root.setLevel(min(root.level, level))
        own.setLevel(min(own.level or logging.INFO, logging.INFO))

    def close(self) -> None:
        """End: what is said from here on is not the run's."""
        for logger, level in self.levels:
            logger.setLevel(level)
        for handler in self.handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        _of_run.clear()


class Lines(logging.Formatter):
    """A record as one line of JSON; docs/monitoring.md names its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_of_run,
            "pid": record.process,
            **_span(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def to_stderr() -> None:
    """Say it in lines of JSON on stderr too, for what collects the output of a container; again to no effect."""
    root = logging.getLogger()
    if any(isinstance(handler.formatter, Lines) for handler in root.handlers):
        return
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(Lines())
    root.addHandler(shown)
    logging.getLogger(_OWN).setLevel(logging.INFO)


def _folder() -> Path | None:
    """Return where the logs of this node's Ray lie; None where this process only reaches Ray from afar."""
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_logs_dir_path()) if node is not None else None


def _place() -> dict[str, str]:
    import ray

    return {"node": ray.get_runtime_context().get_node_id()}


def _span() -> dict[str, str]:
    """Return which trace is under way here, where somebody traces at all."""
    api = sys.modules.get("opentelemetry.trace")
    context = api.get_current_span().get_span_context() if api else None
    return {"trace_id": f"{context.trace_id:032x}"} if context and context.is_valid else {}
