"""The agent of one node: looks at its processes four times a second, and lays a window into the lake's inbox every ten.

One a node, whoever uses it; Ray starts it again when it dies, and it then goes on from the state it last saved: all
that it counts only ever grows, so nothing is lost but the last moments of processes that died meanwhile. With its node
at most one window is lost, which whoever settles the ledger shows as `unattributed`.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from raycluster.account import proc
from raycluster.account.gpu import Gpus, gpus
from raycluster.account.hook import tapes
from raycluster.account.observe import Observer
from raycluster.account.owners import Job, Jobs
from raycluster.account.scene import Scene
from raycluster.account.window import Book, Line, Node, Window
from raycluster.lake.lake import Lake

WINDOW_SECONDS = 10
_WINDOW = WINDOW_SECONDS * 10**9
_NOW = 2**63  # nanoseconds since 1970: whenever the look ends
_LOOK_SECONDS = 0.25  # what a killed worker did since the last look is lost: an eighth of a second in the mean
_LOOK_SHARE = 0.02  # of a core: with very many processes looks become rarer
_SLOW_LOOK_SECONDS = 2.0  # who works for whom, GPUs, and processes that are not Ray's
_LEASE_SECONDS = 600  # a lake that no run has renewed for so long gets no more windows
# A raylet younger than this was started for the first who asks, or joined a cluster that has a tender, which looks
# every five seconds: its start is accounted for too.
_YOUNG_SECONDS = 120
_log = logging.getLogger(__name__)


class Agent:
    """The actor. Its own work is part of the system."""

    def __init__(self, node: Node) -> None:
        from ray.util.metrics import Gauge

        self.raylet = os.getppid()
        self.node = node
        self.tapes = tapes()
        self.saved = self.tapes.parent / f"agent-{node.node}"
        self.lakes: dict[str, dict[str, float]] = {}  # uri -> run -> until when (monotonic)
        self.since: dict[str, int] = {}  # uri -> start of the first window that it gets
        self.unsent: dict[str, list[Any]] = {}  # uri -> windows that could not be written
        self.is_alone = is_alone(self.raylet)
        if self.is_alone and self.node.node_cpus < cores():
            self.node = replace(self.node, node_cpus=float(cores()))
        self.observer, self.book, self.seen_until = self._resume()
        self.looked = self.book.open.started  # nanoseconds since 1970
        self.busy: int | None = None
        self.unseen = 0  # CPU nanoseconds that the kernel counted and no process showed, in the open window
        self.known = Jobs()
        self.jobs: dict[str, Job] = {}
        self.gpus = Gpus()
        self.lock = threading.Lock()
        self.slow = 0.0
        self.processes: dict[int, proc.Process] = {}
        self.cost = 0.0  # CPU-seconds of the last look
        # Among Ray's own metrics of the node: that it is there says that the node has an agent.
        self.waiting = Gauge("raycluster_agent_unsent_windows", "Windows of usage that could not be written so far.")
        with suppress(PermissionError):  # Ray's workers are nice (15): on a busy machine it would hardly ever look
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        self.over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def account(self, lake: str, run_id: str) -> None:
        """Lay windows into this lake too, until the run is over or has not said so for ten minutes."""
        if lake not in self.lakes:
            self.since[lake] = self.book.open.started  # corrections of what was before are not its business
        self.lakes.setdefault(lake, {})[run_id] = time.monotonic() + _LEASE_SECONDS
        self.slow = 0.0  # there is a new owner to be known

    def flush(self, lake: str | None = None, run_id: str | None = None) -> int:
        """End the open window now, write what there is, and let a run's lake go.

        Returns how many windows could not be written so far; they are tried again.
        """
        with self.lock:
            self.slow = 0.0
            if not self._is_orphan():
                self._look(close=_NOW)
                self._write()
        if lake is not None:
            self.lakes.get(lake, {}).pop(run_id or "", None)
            if not self.lakes.get(lake):
                self.lakes.pop(lake, None)
        return sum(map(len, self.unsent.values()))

    def ping(self) -> int:
        """Return this process's pid."""
        return os.getpid()

    def _run(self) -> None:
        while not self.over.wait(max(_LOOK_SECONDS, self.cost / _LOOK_SHARE)):
            try:
                if self._is_orphan():
                    return
                with self.lock:
                    end = self.book.open.started // _WINDOW * _WINDOW + _WINDOW
                    is_due = time.time_ns() >= end
                    self._look(close=end if is_due else None)
                    if is_due:
                        self._write()
            except Exception:  # noqa: BLE001 - whatever it is, the next look makes up for it
                _log.exception("a look failed")

    def _is_orphan(self) -> bool:
        """Tell whether the node's Ray has died before its agent, whose time is entered as lost from here on."""
        return os.getppid() != self.raylet

    def _look(self, close: int | None = None) -> None:
        """Look at everything, and end the open window at a moment (nanoseconds since 1970) if one is given."""
        began, now = time.thread_time(), time.monotonic()
        calm: dict[int, proc.Process] = {}
        if now - self.slow > _SLOW_LOOK_SECONDS or close is not None:
            self.slow, self.gpus = now, gpus()
            with suppress(Exception):  # the head may be away for a while; what was known still holds
                self.jobs = self.known.look()
        else:
            calm = {pid: one for pid, one in self.processes.items() if self.observer.is_stranger(one)}
        self.processes = processes = proc.processes(calm)
        busy, uptime = proc.busy(), proc.uptime()
        scene = Scene(
            processes=processes,
            raylet=self.raylet,
            session=self.node.cluster,
            node=self.node.node,
            tapes=self.tapes,
            jobs=self.jobs,
            gpus=self.gpus.held,
            own=os.getpid(),
            at=time.time(),
            now=time.monotonic_ns(),
            since=self.seen_until,
            seconds=min(uptime - self.seen_until, WINDOW_SECONDS),
            counts_others=self.is_alone,
        )
        look = Window(started=self.looked, ended=max(self.looked, _micro(scene.at)))  # clocks are set back, too
        new = self.observer.look(scene, look)
        if self.busy is not None and self.is_alone:
            self.unseen += busy - self.busy - new
        if close is not None and self.unseen > 0:
            look.add(Line(kind="unexplained"), {"cpu": self.unseen})
            self.unseen = 0
        self.book.take(look, close)
        self.busy, self.seen_until, self.looked = busy, uptime, look.ended
        self.cost = time.thread_time() - began

    def _write(self) -> None:
        """Lay new and corrected windows into every lake, save the state, and try again what could not be written."""
        now = time.monotonic()
        self.lakes = {
            lake: alive
            for lake, runs in self.lakes.items()
            if (alive := {run: until for run, until in runs.items() if until > now})
        }
        news = []
        for window in self.book.news():
            news.append((window.started, self.book.table(window)))
            window.is_told = True
        for lake in {*self.lakes, *self.unsent}:
            fresh = [one for one in news if one[0] >= self.since[lake]] if lake in self.lakes else []
            waiting = [*self.unsent.pop(lake, []), *fresh]
            failed = [one for one in waiting if not self._drop(lake, *one)]
            if failed:
                self.unsent[lake] = failed[-1000:]
        self.waiting.set(sum(map(len, self.unsent.values())))
        self._save()

    def _drop(self, lake: str, started: int, lines: Any) -> bool:
        try:
            Lake(lake).ledger().drop(lines, f"{started}-{self.node.node[:16]}")
        except Exception:  # noqa: BLE001 - a store may fail in any way; it is tried again with the next window
            _log.exception("a window could not be written to %s", lake)
            return False
        return True

    def _save(self) -> None:
        state = pickle.dumps((self.observer, self.book, self.seen_until, self.lakes, self.since, self.unsent))
        fresh = self.saved.with_suffix(".new")
        fresh.write_bytes(state)
        fresh.replace(self.saved)

    def _resume(self) -> tuple[Observer, Book, float]:
        """Go on from what a predecessor has saved, or begin: with the start of the node's Ray, if that was just now."""
        uptime = proc.uptime()
        try:
            observer, book, seen_until, lakes, since, unsent = pickle.loads(self.saved.read_bytes())
        except Exception:  # noqa: BLE001 - none, half of one, or of another version, which fails in any way
            age = uptime - _beginning(self.raylet, self.node.cluster if self.is_alone else None)
            age = age if 0 < age < _YOUNG_SECONDS else 0.0
            return Observer(), Book(self.node, started=_micro(time.time() - age)), uptime - age
        self.lakes, self.since, self.unsent = lakes, since, unsent
        return observer, book, seen_until


def cores() -> float:
    """Return how many cores this machine, or container, has."""
    from ray._private.utils import get_num_cpus

    return float(get_num_cpus())


def is_alone(raylet: int) -> bool:
    """Tell whether this node has its machine to itself: no other raylet lives on it."""
    found = proc.processes()
    raylets = {pid for pid in found if proc.command(pid).partition(" ")[0].endswith("/raylet")}
    # A process that a raylet is just about to start still looks like one.
    return {pid for pid in raylets if found[pid].parent not in raylets} <= {raylet}


def _beginning(raylet: int, session: str | None) -> float:
    """Return when this node's Ray was started, in seconds since boot: the first process of its session, or its raylet.

    Args:
        raylet: its pid.
        session: None where other nodes of the session live on the same machine.
    """
    found = proc.processes().items()
    own = [one for pid, one in found if pid == raylet or (session and session in proc.command(pid))]
    return min(one.started_seconds for one in own)


def _micro(seconds: float) -> int:
    return round(seconds * 1e6) * 1000
