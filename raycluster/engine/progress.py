"""What workers report becomes one picture of a run, for people and for retries; never for the books.

Sums that must hold come with the rows themselves (`tally.py`). This actor lives on the driver's node, and Ray starts
it again if it dies; what it knew is then lost, and workers take what they cannot ask about for suspect.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raycluster.engine.own import is_own

# A worker speaks at most once in this time; of more than a thousand each speaks more rarely, since the actor takes
# about 0.3 ms of its core for a message.
_EVERY_SECONDS = 1.0
_MESSAGES_A_SECOND = 1000

HELD = -1  # instead of a number of starts


@dataclass(kw_only=True)
class Pace:
    """How far one stage has come."""

    rows: int = 0
    seconds: float = 0.0  # spent in it, added up over all workers


class Progress:
    """The actor: counts starts of work units and adds up what stages did."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, for another run."""
        self.starts: Counter[str] = Counter()
        self.tried: dict[str, Counter[int]] = {}  # unit -> member of it -> how often a sandbox began it
        self.stages: dict[str, Pace] = {}
        self.read_bytes = 0
        self.is_held = False

    def hold(self, is_held: bool) -> None:
        """Let no unit of the first pool begin from now on, or let them begin again."""
        self.is_held = is_held

    def started(self, unit: str) -> int:
        """Note that a unit of work is begun; return how often it was begun before, or HELD: it is not to begin now."""
        if self.is_held and unit.startswith("0:"):
            return HELD
        self.starts[unit] += 1
        return self.starts[unit] - 1

    def trying(self, unit: str, member: int) -> int:
        """Note that a sandbox begins a member of a unit; return how often one did before."""
        tried = self.tried.setdefault(unit, Counter())
        tried[member] += 1
        return tried[member] - 1

    def finished(self, unit: str) -> None:
        """Forget a unit that is done."""
        self.starts.pop(unit, None)
        self.tried.pop(unit, None)

    def report(self, stages: dict[str, tuple[int, float]], read_bytes: int) -> None:
        """Add what one worker did since it last spoke."""
        self.read_bytes += read_bytes
        for name, (rows, seconds) in stages.items():
            pace = self.stages.setdefault(name, Pace())
            pace.rows += rows
            pace.seconds += seconds

    def snapshot(self) -> tuple[dict[str, Pace], int]:
        """Return the stages' paces and the bytes read so far."""
        return self.stages, self.read_bytes


# Actors that wait for the next run of this program, by the Ray that they belong to.
_waiting: dict[str, list[Any]] = {}


@contextmanager
def followed() -> Iterator[Any]:
    """Give a run its actor; on a Ray of our own it stays for the program's next run, which would wait a second."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.get_runtime_context()
    waiting = _waiting.setdefault(context.get_session_name(), [])
    try:
        actor = waiting.pop()
    except IndexError:
        here: Any = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Progress).remote()
    ended_well = False
    try:
        yield actor
        ended_well = True
    finally:
        if ended_well and is_own():
            actor.forget.remote()
            waiting.append(actor)
        else:  # some of its workers may still have something to say; and each would stay as long as the driver
            ray.kill(actor)


class Reporter:
    """A worker's side: collects, and speaks to the actor now and then without waiting for it."""

    def __init__(self, actor: Any, *, workers: int = 1) -> None:
        self.actor = actor
        self.every = max(_EVERY_SECONDS, workers / _MESSAGES_A_SECOND)
        self.stages: dict[str, tuple[int, float]] = {}
        self.read_bytes = 0
        self.spoke = time.monotonic()

    def add(self, stage: str, rows: int, seconds: float) -> None:
        """Count rows that a stage made and the time it took."""
        before = self.stages.get(stage, (0, 0.0))
        self.stages[stage] = (before[0] + rows, before[1] + seconds)
        if time.monotonic() - self.spoke > self.every:
            self.flush()

    def flush(self) -> None:
        """Tell the actor what has gathered."""
        if self.actor is not None and (self.stages or self.read_bytes):
            self.actor.report.remote(self.stages, self.read_bytes)
        self.stages, self.read_bytes, self.spoke = {}, 0, time.monotonic()
