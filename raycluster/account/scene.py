"""Who is on a node becomes whose each process is: Ray's own, a driver's, a worker's; a run's, or a payer's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from raycluster.account import slots
from raycluster.account.owners import NOBODY, Job, Owner
from raycluster.account.proc import Process
from raycluster.account.slots import Reading

_OWNER_FIELDS = {one.name for one in fields(Owner)}
# Children of the raylet that look like workers and serve everybody, as Ray and `engine/tender.py` call them.
_DAEMONS = {"DashboardAgent", "RuntimeEnvAgent", "JobSupervisor", "ServeController", "ProxyActor", "Tender"}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One look: who is there, and whose they are."""

    processes: Mapping[int, Process]
    raylet: int  # its pid
    session: str  # name of Ray's session, which its daemons have in their command lines
    node: str
    tapes: Path
    jobs: Mapping[str, Job] = field(default_factory=dict)
    gpus: Mapping[int, tuple[float, int]] = field(default_factory=dict)  # pid -> GPUs that it holds, bytes of memory
    own: int = 0  # pid of the agent: part of the system
    at: float  # seconds since 1970
    now: int  # CLOCK_MONOTONIC, nanoseconds
    since: float  # seconds since boot: of the last look, or when accounting begins
    seconds: float  # since the last look
    counts_others: bool = True  # False where another node of Ray lives on the same machine

    @cached_property
    def drivers(self) -> dict[int, list[Job]]:
        """Return the jobs whose driver is, or was, on this node, by pid."""
        found: dict[int, list[Job]] = {}
        for job in self.jobs.values():
            if job.node == self.node:
                found.setdefault(job.pid, []).append(job)
        return found

    def driven_by(self, process: Process) -> list[Job]:
        """Return the jobs that a process is the driver of."""
        return [job for job in self.drivers.get(process.pid, ()) if job.started in (0, process.started)]


def tape_of(scene: Scene, pid: int, started: int) -> Reading | None:
    """Return what a worker's tape says, if it is this process's, and not that of an earlier one with its pid."""
    reading = slots.read(scene.tapes / str(pid))
    is_its = reading is not None and (reading.started, reading.owner.get("node")) == (started, scene.node)
    return reading if is_its else None


def owner_of(reading: Reading, scene: Scene) -> Owner:
    """Return whose a worker is: as it says itself, else its job's run's, else its job's payer's."""
    if reading.owner.get("team"):
        return _owner(reading.owner)
    run = owner_by(reading.job, scene)
    return run if run != NOBODY else _owner(reading.owner.get("payer") or {})


def owner_by(job: str | None, scene: Scene) -> Owner:
    """Return whose run a job is at."""
    known = scene.jobs.get(job or "")
    return known.owner(scene.at) if known else NOBODY


def _owner(words: Mapping[str, str]) -> Owner:
    return Owner(**{name: value for name, value in words.items() if name in _OWNER_FIELDS})


def is_worker(command: str) -> bool:
    """Tell whether a command line is that of a process of Ray's that works for a job, or will."""
    return command.startswith("ray::") or "default_worker.py" in command.partition("--")[0]


def is_undecided(command: str) -> bool:
    """Tell whether a worker has not been told yet what for."""
    return is_worker(command) and (command.startswith("ray::IDLE") or not command.startswith("ray::"))


def is_daemon(command: str) -> bool:
    """Tell whether it is one that everybody shares."""
    return command.startswith("ray::") and short(command) in _DAEMONS


def short(command: str) -> str:
    """Return what people call a process: its program, the script that Python runs, the class of an actor."""
    program, *rest = command.removeprefix("ray::").split() or ["?"]
    if command.startswith("ray::"):  # an actor that has a name shows it while it starts: NAME:CLASS.__init__
        return program.partition("(")[0].partition(".")[0].rpartition(":")[2]
    if "python" in program.rpartition("/")[2]:
        program = next((word for word in rest if not word.startswith("-")), program)
    return program.rpartition("/")[2].removesuffix(".py")
