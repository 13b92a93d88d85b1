"""How far runs have come becomes one small file each in the lake, so that any server can tell without joining a run.

The driver writes it every few seconds from a thread of its own, so that a slow store costs a picture and never the run;
it goes away when the run ends, whose summary then says it all. A run that says it is running and has not told for a
minute has probably lost its driver.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from raycluster.errors import RayclusterError
from raycluster.lake import store
from raycluster.lake.runs import Run

_EVERY_SECONDS = 2.0
_ANYWAY_SECONDS = 15.0  # with nothing new to tell: it says that the driver lives, and a store may bill each write
_STALE = timedelta(seconds=60)  # four times that, and room for clocks that differ
_PATIENCE_SECONDS = 5.0  # for a write that is under way when the run ends

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What drivers have told last, in the files below `uri`."""

    uri: str

    def put(self, run_id: str, state: Mapping[str, Any]) -> None:
        """Write how far a run has come, over what was told before."""
        with tempfile.TemporaryDirectory(prefix="raycluster-") as folder:
            path = Path(folder) / "state.json"
            path.write_text(json.dumps({**state, "at": datetime.now(UTC).isoformat(timespec="seconds")}))
            with store.explained(self.uri, "write to"):
                store.upload(self.uri, path, f"{run_id}.json")

    def get(self, run_id: str) -> dict[str, Any] | None:
        """Return what was told last of a run, and when (`at`); None where nothing is told."""
        with tempfile.TemporaryDirectory(prefix="raycluster-") as folder:
            path = Path(folder) / "state.json"
            if not store.download(self.uri, f"{run_id}.json", path):
                return None
            found: dict[str, Any] = json.loads(path.read_text())
            return found

    def remove(self, run_id: str) -> None:
        """Take away what was told of a run that has ended."""
        store.remove_file(self.uri, f"{run_id}.json")


def is_stale(run: Run, told: Mapping[str, Any] | None) -> bool:
    """Tell whether a run that says it is running has been silent for so long that its driver is probably dead."""
    if run.status != "running":
        return False
    heard = datetime.fromisoformat(told["at"]) if told else run.started_at
    return datetime.now(UTC) - heard > _STALE


class Teller:
    """A driver's side: takes what there is to tell at any time, and writes the last of it every few seconds."""

    def __init__(self, told: Told, run_id: str) -> None:
        self.told, self.run_id = told, run_id
        self.state: Mapping[str, Any] = {}
        self.follows: str | None = None
        self.fails = False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._work, name="teller", daemon=True)

    def start(self, follows: str | None = None) -> None:
        """Begin to tell; nothing more is told of the run that this one follows."""
        self.follows = follows
        self.thread.start()

    def tell(self, state: Mapping[str, Any]) -> None:
        """Take how far the run has come; never waits."""
        self.state = state

    def close(self) -> None:
        """Tell no more, and take away what was told."""
        self.over.set()
        if self.thread.is_alive():
            self.thread.join(_PATIENCE_SECONDS)

    def _work(self) -> None:
        if self.follows:
            self._try(self.told.remove, self.follows)
        wrote, last = 0.0, self.state
        while not self.over.wait(_EVERY_SECONDS):
            if self.state is not last or not wrote or time.monotonic() - wrote > _ANYWAY_SECONDS:
                wrote, last = time.monotonic(), self.state
                self._try(self.told.put, self.run_id, last)
        if wrote:
            self._try(self.told.remove, self.run_id)

    def _try(self, act: Callable[..., None], *given: Any) -> None:
        try:
            act(*given)
            self.fails = False
        except (RayclusterError, OSError) as error:  # it is for people: the run goes on, and says so once
            if not self.fails:
                _log.warning("how far run %s has come is not told: %s", self.run_id, error)
            self.fails = True
