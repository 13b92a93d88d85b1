"""Made-up machines: whatever processes do, every nanosecond that was seen is on exactly one line, and none twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycluster.account import observe, proc, slots
from raycluster.account.job import SUBMITTED as TOLD
from raycluster.account.observe import Observer
from raycluster.account.owners import NOBODY, Job, Owner
from raycluster.account.proc import Process
from raycluster.account.scene import Scene
from raycluster.account.slots import COUNTERS, CPU, OPEN, WALL, Call, Reading
from raycluster.account.window import Book, Line, Node, Window

US = 1000
SECOND = 10**6  # in microseconds, as `work` takes them
RAYLET, DRIVER, AGENT, INIT = 100, 50, 101, 1
NODE = Node(cluster="c", node="n", node_cpus=64.0)
ANNA = Owner(run_id="a", team="anna")
BERT = Owner(run_id="b", team="bert")


@dataclass
class Tape:
    """What a meter would have written."""

    sums: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    first_call: int = 0
    owner: dict[str, Any] = field(default_factory=dict)
    job: str = ""
    started: int = 0


@dataclass
class Machine:
    """Processes that exist only here, and the looks at them."""

    tapes: Path
    processes: dict[int, Process] = field(default_factory=dict)
    commands: dict[int, str] = field(default_factory=dict)
    environments: dict[tuple[int, str], str] = field(default_factory=dict)  # by pid and variable
    written: dict[int, Tape] = field(default_factory=dict)
    threads: dict[int, int] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    observer: Observer = field(default_factory=Observer)
    book: Book = field(
        default_factory=lambda: Book(Node(cluster="c", node="n", node_cpus=64.0), started=1000 * SECOND * US)
    )
    uptime: float = 1000.0
    since: float = 0.0  # accounting begins with the machine, unless a test says otherwise
    done: int = 0  # CPU of all processes there ever were
    new: int = 0
    last: dict[int, Process] = field(default_factory=dict)

    def start(self, pid: int, parent: int, command: str, *, tape: Tape | None = None) -> None:
        ticks = round(self.uptime * 100) + pid % 7
        self.processes[pid] = Process(pid=pid, parent=parent, started=ticks, cpu=0, reaped=0, rss=1000)
        self.commands[pid] = command
        if tape is not None:
            self.meter(pid, tape)

    def worker(self, pid: int, *, job: str = "", tape: Tape | None = None) -> Tape:
        tape = tape or Tape(job=job)
        self.start(pid, RAYLET, "ray::IDLE", tape=tape)
        return tape

    def meter(self, pid: int, tape: Tape) -> None:
        self.written[pid] = tape
        tape.started = self.processes[pid].started
        (self.tapes / str(pid)).touch()

    def work(self, pid: int, amount: int) -> None:
        """Use so many microseconds."""
        self.processes[pid] = replace(self.processes[pid], cpu=self.processes[pid].cpu + amount * US)
        self.done += amount * US

    def begin(self, pid: int, stage: str, modality: str = "") -> None:
        tape, cpu = self.written[pid], self.processes[pid].cpu
        tape.first_call = tape.first_call or max(1, cpu)
        call = Call(
            key=(stage, modality, OPEN), thread=pid, is_alone=True, mark=cpu, thread_mark=0, wall_mark=self.monotonic
        )
        tape.calls.append(call)

    def end(self, pid: int, outcome: str = "ok", used: int | None = None) -> None:
        tape = self.written[pid]
        call = tape.calls.pop()
        sums = tape.sums.setdefault((call.key[0], call.key[1], outcome), [0] * COUNTERS)
        sums[CPU] += self.processes[pid].cpu - call.mark if used is None else used
        sums[WALL] += self.monotonic - call.wall_mark
        sums[slots.CALLS] += 1

    def die(self, pid: int, *, waited: bool) -> None:
        gone = self.processes.pop(pid)
        if waited and gone.parent in self.processes:
            above = self.processes[gone.parent]
            self.processes[gone.parent] = replace(above, reaped=above.reaped + gone.cpu + gone.reaped)
        for child in [one for one in self.processes.values() if one.parent == pid]:
            self.processes[child.pid] = replace(child, parent=INIT)

    @property
    def monotonic(self) -> int:
        return round(self.uptime * 1e9)

    def look(self, *, seconds: float = 1.0, close: bool = False, calm: bool = False) -> Window:
        """Look at everything; if `calm`, at strangers as they were at the last look."""
        self.uptime += seconds
        at = round(self.uptime * 1000) * 10**6
        before = self.last if calm else {}
        self.last = {
            pid: before[pid] if pid in before and self.observer.is_stranger(one) else one
            for pid, one in self.processes.items()
        }
        window = Window(started=at - round(seconds * 1000) * 10**6, ended=at)
        scene = Scene(
            processes=self.last,
            raylet=RAYLET,
            session="session_1",
            node="n",
            tapes=self.tapes,
            jobs=dict(self.jobs),
            own=AGENT,
            at=self.uptime,
            now=self.monotonic,
            since=self.since,
            seconds=seconds,
        )
        self.new += self.observer.look(scene, window)
        self.since = self.uptime
        self.book.take(window, at if close else None)
        return window

    def read(self, path: Path) -> Reading | None:
        pid = int(path.name)
        if not path.exists() or pid not in self.written:
            return None
        tape = self.written[pid]
        return Reading(
            pid=pid,
            started=tape.started,
            job=tape.job,
            first_call=tape.first_call,
            owner={"node": "n", **tape.owner},
            sums={key: tuple(sums) for key, sums in tape.sums.items()},
            calls=tuple(tape.calls),
        )

    def windows(self) -> list[Window]:
        return [*self.book.closed, self.book.open]

    def lines(self) -> Counter[Line]:
        """Return the CPU of all lines."""
        found: Counter[Line] = Counter()
        for window in self.windows():
            for line, sums in window.lines.items():
                found[line] += sums.get("cpu", 0)
        return found

    def cpu(self, **wanted: Any) -> int:
        lines = self.lines().items()
        found = sum(cpu for line, cpu in lines if all(getattr(line, name) == value for name, value in wanted.items()))
        return round(found / US)  # a clock that stands at 0 when a first call begins is taken to be at 1


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return made(tmp_path, monkeypatch)


def made(folder: Path, patch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(folder)
    patch.setattr(proc, "look", lambda pid: machine.processes.get(pid))
    patch.setattr(proc, "command", lambda pid: machine.commands.get(pid, ""))
    patch.setattr(proc, "variable", lambda pid, name: machine.environments.get((pid, name)))
    patch.setattr(proc, "thread_cpu", lambda pid, thread: machine.threads.get(thread, 0))
    patch.setattr(slots, "read", machine.read)
    machine.start(INIT, 0, "init")
    machine.start(RAYLET, INIT, "/ray/raylet --session=session_1")
    machine.start(AGENT, RAYLET, "ray::Agent")
    return machine


def job(pid: int = DRIVER, owner: Owner = ANNA, **more: Any) -> Job:
    return Job(**{"pid": pid, "node": "n", "runs": ((0.0, None, owner),), **more})


# Single stories.


def test_a_call_that_goes_well(machine: Machine) -> None:
    machine.jobs["1"] = job()
    machine.worker(200, job="1")
    machine.work(200, 5)
    machine.begin(200, "map")
    machine.work(200, 100)
    machine.look()
    assert machine.cpu(kind="task", stage="map", outcome="ok", owner=ANNA) == 100
    machine.work(200, 50)
    machine.end(200)
    machine.work(200, 7)
    machine.look()
    assert machine.cpu(kind="task", stage="map", outcome="ok", owner=ANNA) == 150
    assert machine.cpu(kind="startup", owner=ANNA) == 5
    assert machine.cpu(kind="background", owner=ANNA) == 7
    assert machine.new == machine.done


def test_what_is_seen_of_a_killed_call_is_killed_and_its_background_stays(machine: Machine) -> None:
    machine.jobs["1"] = job()
    machine.worker(200, job="1")
    machine.begin(200, "a")
    machine.work(200, 10)
    machine.end(200)
    machine.work(200, 30)  # background
    machine.begin(200, "b")
    machine.work(200, 100)
    machine.look(close=True)
    machine.end(200)
    machine.begin(200, "b")
    machine.work(200, 1)
    machine.die(200, waited=False)
    machine.look(close=True)
    assert machine.cpu(kind="background") == 30
    assert machine.cpu(stage="b", outcome="ok") == 100
    assert machine.cpu(stage="a", outcome="ok") == 10
    assert machine.cpu() == 140
    assert not (machine.tapes / "200").exists()


def test_a_killed_call_is_killed_in_every_window_and_nothing_stays_below_zero(machine: Machine) -> None:
    machine.jobs["1"] = job()
    machine.worker(200, job="1")
    machine.begin(200, "b")
    for _ in range(3):
        machine.work(200, SECOND)
        machine.look(close=True)
    machine.die(200, waited=False)
    machine.look(close=True)
    assert machine.cpu(stage="b", outcome="killed") == 3 * SECOND
    assert machine.cpu(stage="b", outcome="ok") == 0
    for window in machine.windows():
        assert all(amount >= 0 for sums in window.lines.values() for amount in sums.values())
    killed = [w.lines[line] for w in machine.book.closed for line in w.lines if line.outcome == "killed"]
    assert [sums["wall"] for sums in killed if sums.get("cpu")] == [SECOND * US] * 3


def test_calls_beside_each_other_that_are_killed(machine: Machine) -> None:
    """What their threads had used was seen at the last look: the threads are gone."""
    tape = machine.worker(200)
    machine.begin(200, "b")
    tape.calls = [
        replace(tape.calls[0], thread=thread, is_alone=False, thread_mark=5 * US, wall_mark=thread) for thread in (7, 8)
    ]
    machine.threads = {7: 15 * US, 8: 25 * US}
    machine.work(200, 40)
    machine.look(close=True)
    machine.threads = {}
    machine.die(200, waited=False)
    machine.look(close=True)
    assert machine.cpu(stage="b", outcome="killed") == 30
    assert machine.cpu(stage="b", outcome="ok") == 0
    assert machine.cpu() == 40


def test_a_coroutine_that_waited_alone_is_billed_its_steps_and_no_window_keeps_a_debt(machine: Machine) -> None:
    tape = machine.worker(200)
    machine.begin(200, "loop")
    machine.work(200, 100)  # taken for its own, as long as it is alone
    machine.look(close=True)
    tape.calls = [replace(tape.calls[0], is_alone=False, thread=0)]
    machine.look(close=True)
    assert machine.cpu(stage="loop") == 0
    assert machine.cpu(kind="background") == 100
    for window in machine.windows():
        assert all(amount >= 0 for sums in window.lines.values() for amount in sums.values())


def test_an_owner_that_is_known_late_gets_what_was_nobodys(machine: Machine) -> None:
    machine.worker(200, job="1")
    machine.begin(200, "map")
    machine.work(200, 100)
    machine.look(close=True)
    assert machine.cpu(owner=NOBODY, stage="map") == 100
    machine.jobs["1"] = job()
    machine.look(close=True)
    assert machine.cpu(owner=NOBODY, stage="map") == 0
    assert machine.cpu(owner=ANNA, stage="map") == 100
    assert machine.cpu() * US == machine.done


def test_what_a_worker_did_before_accounting_began_is_nobodys_to_pay(machine: Machine) -> None:
    machine.worker(200, job="1")
    machine.begin(200, "map")
    machine.work(200, 10**6)
    machine.end(200)
    machine.start(201, RAYLET, "ray::old()")  # without a meter
    machine.environments[201, "RAY_JOB_ID"] = "1"
    machine.work(201, 10**6)
    machine.since = machine.uptime + 10  # accounting begins
    machine.uptime += 10
    machine.look(close=True)
    machine.jobs["1"] = job()
    machine.begin(200, "map")
    machine.work(200, 5)
    machine.work(201, 3)
    machine.end(200)
    machine.look(close=True)
    assert machine.cpu(owner=ANNA) == 8
    assert machine.cpu() == 8
    for window in machine.windows():
        assert all(sums.get("cpu", 0) >= 0 for sums in window.lines.values())


def test_a_worker_that_was_taken_for_something_else_at_first(machine: Machine) -> None:
    """Just forked it looks like its parent; what was counted of it then is not counted, nor moved, again."""
    machine.worker(200, job="1")
    machine.commands[200] = machine.commands[RAYLET]
    machine.work(200, 40)
    machine.look(close=True)
    machine.commands[200] = "ray::IDLE"
    machine.work(200, 60)
    machine.look(close=True)
    machine.jobs["1"] = job()
    machine.look(close=True)
    assert machine.cpu(kind="system") == 40
    assert machine.cpu(kind="startup", owner=ANNA) == 60
    assert machine.cpu(kind="startup", owner=NOBODY) == 0
    assert machine.new == 100 * US


def test_a_driver_that_a_worker_started_and_waited_for_is_counted_once(machine: Machine) -> None:
    """As the supervisor of a submitted job does."""
    machine.worker(200)
    machine.start(300, 200, "/bin/sh job")
    machine.start(DRIVER, 300, "python job.py")
    machine.jobs["1"] = job()
    machine.look()
    machine.work(DRIVER, 1000)
    machine.look()
    machine.work(DRIVER, 11)  # nobody sees this while it lives
    machine.die(DRIVER, waited=True)
    machine.die(300, waited=True)
    machine.look()
    assert machine.cpu(kind="driver", owner=ANNA) == 1000
    assert machine.cpu() == 1011


METADATA = '{"metadata": {"team": "anna", "run_id": "a"}}'


def test_a_submitted_driver_and_what_it_starts_is_paid_for_by_whom_its_metadata_names(machine: Machine) -> None:
    machine.start(200, RAYLET, "ray::IDLE")
    machine.look()
    machine.commands[200] = "ray::_ray_internal_job_actor_raysubmit_1:JobSupervisor.__init__"
    machine.start(210, 200, "/bin/sh -c python work.py")
    machine.start(211, 210, "python work.py")
    machine.start(212, 200, "/bin/sh -c while kill -s 0 200")  # watches the supervisor
    machine.environments |= {(210, TOLD): METADATA, (211, TOLD): METADATA}
    for pid in (200, 210, 211, 212):
        machine.work(pid, 1000)
    machine.look()
    assert machine.cpu(kind="driver", owner=ANNA) == 2000
    assert machine.cpu(kind="system", stage="JobSupervisor") == 2000
    machine.jobs["1"] = Job(pid=211, node="n", runs=((machine.uptime, None, BERT),))  # it begins a run
    machine.work(211, 500)
    machine.look()
    assert machine.cpu(kind="driver", owner=BERT) == 500
    machine.jobs["1"] = replace(machine.jobs["1"], runs=((0.0, machine.uptime, BERT),))
    machine.work(211, 300)
    machine.look()
    assert machine.cpu(kind="driver", owner=ANNA) == 2300
    assert machine.cpu() * US == machine.done


def test_another_clusters_submitted_drivers_are_none_of_ours(machine: Machine) -> None:
    machine.start(300, INIT, "/ray/raylet")
    machine.start(301, 300, "ray::JobSupervisor")
    machine.start(302, 301, "python work.py")
    machine.environments[302, TOLD] = METADATA
    machine.work(302, 1000)
    machine.look()
    assert machine.cpu(kind="other") == 1000


def test_a_worker_is_its_jobs_payers_but_while_a_run_is_on(machine: Machine) -> None:
    tape = machine.worker(200, tape=Tape(job="1", owner={"payer": {"team": "anna", "run_id": "a", "mood": "good"}}))
    machine.begin(200, "f")
    machine.work(200, 1000)
    machine.look()
    assert machine.cpu(owner=ANNA) == 1000
    machine.jobs["1"] = Job(pid=1, node="n", runs=((machine.uptime, None, BERT),))
    machine.work(200, 500)
    machine.look()
    assert (machine.cpu(owner=ANNA), machine.cpu(owner=BERT)) == (1000, 500)
    machine.jobs.clear()
    machine.work(200, 100)
    machine.look()
    assert (machine.cpu(owner=ANNA), machine.cpu(owner=BERT)) == (1100, 500)
    assert tape.calls


def test_a_worker_without_a_meter_is_its_own_jobs_and_not_that_of_the_only_run(machine: Machine) -> None:
    machine.jobs["1"] = Job(pid=1, node="n", runs=((0.0, None, ANNA),))
    machine.start(200, RAYLET, "ray::train()")
    machine.environments[200, "RAY_JOB_ID"] = "2"
    machine.work(200, 100)
    machine.look()
    assert (machine.cpu(owner=ANNA), machine.cpu(owner=NOBODY, stage="train")) == (0, 100)


def test_what_serves_everybody_is_the_systems(machine: Machine) -> None:
    titles = ["ray::SERVE_CONTROLLER_ACTOR:ServeController.__init__", "ray::ProxyActor.ready", 'ray::DashboardAgent ""']
    for pid, title in enumerate([*titles, "ray::Tender"], 200):
        machine.start(pid, RAYLET, title, tape=Tape())
        machine.work(pid, 1000)
    machine.look()
    stages = {line.stage: cpu // US for line, cpu in machine.lines().items() if line.kind == "system" and cpu}
    assert stages == dict.fromkeys(["ServeController", "ProxyActor", "DashboardAgent", "Tender"], 1000)


def test_children_of_a_call(machine: Machine) -> None:
    machine.jobs["1"] = job()
    machine.worker(200, job="1")
    machine.begin(200, "map")
    machine.start(300, 200, "ffmpeg")
    machine.start(301, 300, "ffmpeg-helper")
    machine.work(300, 70)
    machine.work(301, 30)
    machine.look()
    machine.work(301, 5)
    machine.die(301, waited=True)
    machine.work(300, 6)
    machine.die(300, waited=True)
    machine.start(302, 200, "convert")  # lives between two looks only
    machine.work(302, 9)
    machine.die(302, waited=True)
    machine.look()
    assert machine.cpu(kind="task", stage="map", owner=ANNA) == 120
    assert machine.new == machine.done == 120 * US


def test_a_child_that_nobody_waits_for_takes_nothing_from_others(machine: Machine) -> None:
    machine.worker(200)
    machine.begin(200, "map")
    machine.start(300, 200, "ignored")
    machine.start(301, 200, "forks and waits")
    machine.work(300, 1000)
    machine.look()
    machine.die(300, waited=False)
    machine.start(302, 301, "short")
    machine.work(302, 50)
    machine.die(302, waited=True)
    machine.look()
    assert machine.cpu(stage="map") == 1050


def test_a_stranger_that_is_not_looked_at_each_time_gets_its_childs_time_once(machine: Machine) -> None:
    machine.start(300, INIT, "make")
    machine.start(301, 300, "cc")
    machine.look()
    machine.work(301, 1000)
    machine.look()
    machine.work(301, 10)
    machine.die(301, waited=True)
    machine.look(calm=True)
    machine.look(calm=True)
    machine.look()
    assert machine.cpu(kind="other") == 1010
    machine.start(302, 300, "ld")
    machine.work(302, 7)
    machine.die(302, waited=True)
    machine.look()
    assert machine.cpu(kind="other") == machine.cpu() == 1017


def test_a_parent_that_was_looked_at_before_it_waited(machine: Machine) -> None:
    machine.worker(200)
    machine.begin(200, "map")
    machine.start(300, 200, "child", tape=Tape())
    machine.begin(300, "decode")
    machine.work(300, 100)
    machine.look()
    parent = machine.processes[200]
    machine.work(300, 5)
    machine.end(300)
    machine.die(300, waited=True)
    after, machine.processes[200] = machine.processes[200], parent
    machine.look()
    machine.processes[200] = after
    machine.look()
    assert machine.cpu(stage="decode", outcome="ok") == 105
    assert machine.cpu() == 105
    assert machine.observer.owed == {}


def test_a_metered_child_is_told_apart_and_counted_once(machine: Machine) -> None:
    machine.jobs["1"] = job()
    machine.worker(200, job="1")
    machine.begin(200, "map")
    machine.look()
    machine.start(300, 200, "python -c spawn", tape=Tape(job="1"))
    machine.begin(300, "decode")
    machine.work(300, 80)
    machine.look()
    assert machine.cpu(stage="decode", owner=ANNA) == 80
    machine.work(300, 20)
    machine.end(300)
    machine.die(300, waited=True)
    machine.look()
    assert machine.cpu(stage="decode", outcome="ok", owner=ANNA) == 100
    assert machine.new == machine.done == 100 * US


def test_a_pid_that_comes_again(machine: Machine) -> None:
    machine.worker(200)
    machine.begin(200, "first")
    machine.work(200, 100)
    machine.look(close=True)
    machine.die(200, waited=False)
    machine.uptime += 1
    machine.worker(200)
    machine.work(200, 7)
    machine.begin(200, "second")
    machine.work(200, 20)
    machine.look(close=True)
    assert machine.cpu(stage="first") == 100
    assert machine.cpu(stage="second", outcome="ok") == 20
    assert machine.cpu(kind="startup") == 7
    assert (machine.tapes / "200").exists()


def test_a_pid_of_a_driver_on_another_node_or_of_one_long_gone_is_no_driver(machine: Machine) -> None:
    machine.jobs["1"] = job(pid=RAYLET, node="other")
    machine.jobs["2"] = job(pid=300, owner=BERT, started=5)
    machine.start(300, INIT, "cron")
    machine.look()
    machine.work(300, 10)
    machine.work(RAYLET, 20)
    machine.look()
    assert machine.cpu(kind="other", owner=NOBODY) == 10
    assert machine.cpu(kind="system", stage="raylet", owner=NOBODY) == 20
    assert machine.cpu() == 30


def test_a_driver_is_billed_from_when_it_turned_to_the_cluster(machine: Machine) -> None:
    machine.start(DRIVER, INIT, "python job.py")
    machine.work(DRIVER, 500)
    machine.jobs["1"] = job(cpu=400 * US, started=machine.processes[DRIVER].started)
    machine.since = machine.uptime + 1
    machine.look()
    assert machine.cpu(kind="driver", owner=ANNA) == 100


def test_a_worker_without_a_meter_goes_by_its_title_until_its_tape_is_there(machine: Machine) -> None:
    machine.jobs["1"] = job()
    machine.start(200, RAYLET, "ray::IDLE")
    machine.environments[200, "RAY_JOB_ID"] = "1"
    machine.work(200, 10)
    machine.look(close=True)
    machine.commands[200] = "ray::train(epoch=3)"
    machine.work(200, 100)
    machine.look(close=True)
    assert machine.cpu(kind="startup", owner=ANNA) == 10
    assert machine.cpu(kind="task", stage="train", outcome=None, owner=ANNA) == 100
    tape = Tape(job="1", first_call=10 * US)
    tape.sums["train", "", "ok"] = [1, 90 * US, 0, 0, 0, 0, 0]
    machine.meter(200, tape)
    machine.look(close=True)
    assert machine.cpu(kind="task", outcome="ok", stage="train") == 90
    assert machine.cpu(kind="task", outcome=None) == 0
    assert machine.cpu() == 110
    for window in machine.windows():
        assert all(sums.get("cpu", 0) >= 0 for sums in window.lines.values())


def test_another_node_on_the_same_machine_is_none_of_this_ones_system(machine: Machine) -> None:
    machine.look()
    machine.start(300, INIT, "/ray/core/src/ray/raylet/raylet --session-name=session_1")
    machine.start(301, 300, "ray::IDLE")
    machine.look()
    machine.work(300, SECOND)
    machine.work(301, SECOND)
    machine.look()
    assert machine.cpu(kind="other") == 2 * SECOND
    assert machine.cpu(kind="system") == 0


def test_parents_in_a_circle_are_no_trap(machine: Machine) -> None:
    """A listing is no snapshot: a pid may come again, as its own grandchild's child, while it is made."""
    machine.start(300, 301, "a")
    machine.start(301, 300, "b")
    machine.work(300, 5)
    machine.look()
    machine.work(301, 6)
    machine.look()
    assert machine.cpu(kind="other") == 11


def test_a_tape_that_cannot_be_removed_stops_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    machine.worker(200)
    machine.begin(200, "map")
    machine.work(200, 10)
    machine.look()
    machine.die(200, waited=False)
    monkeypatch.setattr(Path, "unlink", refuse)
    machine.look()
    assert machine.cpu(outcome="killed") == 10


def test_what_is_kept_is_of_the_living(machine: Machine) -> None:
    machine.look()
    size = sizes(machine.observer)
    for pid in range(1000, 1100):
        machine.worker(pid)
        machine.start(pid + 5000, pid, "child")
        machine.look(seconds=0.01)
        machine.die(pid + 5000, waited=True)
        machine.die(pid, waited=False)
    machine.look()
    assert sizes(machine.observer) == size
    assert list(machine.tapes.iterdir()) == []


def sizes(observer: Observer) -> list[int]:
    return [len(held) for held in (observer.seen, observer.trees, observer.commands, observer.dead, observer.roots)]


def test_owner_words_of_a_tape_that_are_not_the_ledgers_are_left_out(machine: Machine) -> None:
    machine.worker(200, tape=Tape(owner={"team": "anna", "run_id": "a", "mood": "good"}))
    machine.begin(200, "map")
    machine.work(200, 4)
    machine.look()
    assert machine.cpu(owner=ANNA, stage="map") == 4


def test_background_is_named_after_the_only_actor_that_a_process_is() -> None:
    reading = Reading(pid=1, started=1, job="", first_call=1, sums={("job:Sink.__init__", "", "ok"): (1,) * COUNTERS})
    assert observe.background(reading) == "Sink"
    more = replace(reading, sums={**reading.sums, ("Other.__init__", "", "ok"): (1,) * COUNTERS})
    assert observe.background(more) is None


# Any story.

ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["work", "work", "begin", "end", "fail", "worker", "child", "die", "look", "look", "calm", "close", "job"]
        ),
        st.integers(0, 3),
        st.integers(1, 1000),
    ),
    min_size=30,
    max_size=80,
)


@given(acts=ACTS, waits=st.booleans(), late=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_nanosecond_that_was_seen_is_on_one_line(
    acts: list[tuple[str, int, int]], waits: bool, late: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        machine = made(tmp_path_factory.mktemp("tapes"), patch)
        machine.start(DRIVER, INIT, "python job.py")
        if late:
            machine.since = machine.uptime + 1
        machine.look()
        machine.done = 0
        for act, which, amount in acts:
            play(machine, act, which, amount, waits=waits)
            if act in ("look", "close", "calm"):
                total = sum(machine.lines().values())
                assert total == machine.new
                assert seen(machine) <= total <= machine.done
        machine.look(close=True)
        machine.look(close=True)
        lines = [sums for window in machine.windows() for sums in window.lines.values()]
        assert sum(sums.get("cpu", 0) for sums in lines) == machine.new
        assert all(sums.get(name, 0) >= 0 for sums in lines for name in ("cpu", "wall", "calls"))


def seen(machine: Machine) -> int:
    """Return the CPU of the living, as of the last look."""
    known = machine.observer.seen
    return sum(known[one.id].cpu for one in machine.processes.values() if one.id in known)


def play(machine: Machine, act: str, which: int, amount: int, *, waits: bool) -> None:
    pid = 200 + which
    there, metered = pid in machine.processes, pid in machine.written and pid in machine.processes
    if act == "work" and there:
        machine.work(pid, amount)
    elif act == "work":
        machine.work((RAYLET, DRIVER, AGENT, INIT)[which % 4], amount)
    elif act == "begin" and metered and not machine.written[pid].calls:
        machine.begin(pid, f"stage{amount % 3}")
    elif act in ("end", "fail") and metered and machine.written[pid].calls:
        machine.end(pid, "ok" if act == "end" else "failed")
    elif act == "worker" and not there:
        machine.uptime += 0.5
        machine.written.pop(pid, None)
        machine.worker(pid, job="1") if amount % 4 else machine.start(pid, RAYLET, "ray::task()")
    elif act == "child" and not there:
        machine.uptime += 0.5
        machine.written.pop(pid, None)
        parents = sorted(machine.processes)
        machine.start(pid, parents[amount % len(parents)], "child")
    elif act == "die" and there:
        machine.die(pid, waited=waits)
    elif act in ("look", "close", "calm"):
        machine.look(seconds=amount / 100, close=act == "close", calm=act == "calm")
    elif act == "job":
        machine.jobs["1"] = job(started=machine.processes[DRIVER].started)
