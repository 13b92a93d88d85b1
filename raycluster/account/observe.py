"""One look at a machine after another becomes amounts on lines: every process has a place, every nanosecond one line.

What a process has done so far is compared with what it had done at the last look, so a look that is late, or missing,
loses nothing but the end of processes that died meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from raycluster.account import proc
from raycluster.account.job import SUBMITTED, payer
from raycluster.account.levels import STARTUP, Levels, Part, background, levels, used
from raycluster.account.owners import NOBODY, Owner
from raycluster.account.proc import Process
from raycluster.account.scene import Scene, is_daemon, is_undecided, is_worker, owner_by, owner_of, short, tape_of
from raycluster.account.slots import Reading
from raycluster.account.window import Amounts, Line, Window, difference

Place = Literal["worker", "driver", "system", "other"]
Id = tuple[int, int]  # pid, and when it started: pids come again
_YOUNG_SECONDS = 3.0  # a process that has just been forked still shows its parent's command line
_JOB = "RAY_JOB_ID"  # which the raylet tells a worker that it starts, in hex (Ray 2.60)
_NO_ONE = 0  # root of all processes that have no place in this cluster


@dataclass(kw_only=True)
class Tree:
    """A process that has a place, its descendants that have none, and how far they have been accounted for."""

    place: Place
    name: str
    started: int
    parent: int = _NO_ONE  # pid
    cpu: int = 0  # of the root itself, when it was last seen
    own: int = 0  # CPU of the root that is new in this look
    born: int = 0  # CPU of its descendants that is
    before: Levels = field(default_factory=dict)  # what a worker had done when this account of it began
    levels: Levels = field(default_factory=dict)  # what it has done since, as of the last look
    going: dict[tuple[int, int, int], int] = field(default_factory=dict)  # by call, what it had used at the last look
    looked: int = 0  # CLOCK_MONOTONIC of the last look
    children: Levels = field(default_factory=dict)  # of a worker: what its child processes did, by what it was for
    owner: Owner = NOBODY
    last: Part = STARTUP  # what it was at


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How far a process has been counted, and with whom."""

    cpu: int
    reaped: int
    root: int
    parent: int  # pid of who gets its time when it ends


class Observer:
    """Keeps what is known of every process of a node, from look to look."""

    def __init__(self) -> None:
        self.trees: dict[int, Tree] = {_NO_ONE: Tree(place="other", name="other", started=0)}
        self.seen: dict[Id, Seen] = {}
        self.commands: dict[Id, str] = {}
        self.payers: dict[Id, Owner | None] = {}  # of submitted drivers and all that they start; None: of no such
        self.dead: list[tuple[int, Tree]] = []  # whose pid is another process's now
        self.roots: dict[int, int] = {}  # by pid, at the last look
        self.owed: dict[int, int] = {}  # by pid, what was counted of its ended children, and it did not get yet
        self.reaped: dict[int, int] = {}  # by pid, what it got at the last look of children that had not been counted
        self.is_first = True

    def look(self, scene: Scene, window: Window) -> int:
        """Add what has happened since the last look to a window; return the CPU nanoseconds that were new."""
        members = self._members(scene)
        self._advance(members, scene)
        gone = set(self.trees) - set(members) - {_NO_ONE}
        dead, self.dead = [*self.dead, *((pid, self.trees.pop(pid)) for pid in gone)], []
        new = sum(self._bury(pid, tree, scene, window) for pid, tree in dead)
        for root, processes in members.items():
            new += self._account(root, processes, scene, window)
        self.is_first = False
        return new

    def is_stranger(self, process: Process) -> bool:
        """Tell whether a process was counted, when it was last seen, as none of Ray's."""
        seen = self.seen.get(process.id)
        return seen is not None and seen.root == _NO_ONE

    # Who belongs to whom.

    def _members(self, scene: Scene) -> dict[int, list[Process]]:
        """Group processes under their nearest ancestor that has a place: children belong to who started them."""
        roots: dict[int, int] = {}
        members: dict[int, list[Process]] = {_NO_ONE: []}
        for pid, process in scene.processes.items():
            path = []
            at: Process | None = process
            while at is not None and at.pid not in roots and not self._has_place(at, scene):
                path.append(at.pid)
                above = scene.processes.get(at.parent)
                at = above if above is None or above.pid not in path else None  # a pid that came again meanwhile
            root = _NO_ONE if at is None else roots.get(at.pid, at.pid)
            roots.update(dict.fromkeys([*path, pid], root))
            members.setdefault(root, []).append(process)
        self.roots = roots
        return members

    def _has_place(self, process: Process, scene: Scene) -> bool:
        place = self._place(process, scene)
        if place is None:
            return False
        tree = self.trees.get(process.pid)
        if tree is None or tree.started != process.started or tree.place != place:
            if tree is not None and tree.started != process.started:
                self.dead.append((process.pid, tree))
            name = "agent" if process.pid == scene.own else short(self.commands[process.id])
            fresh = Tree(place=place, name=name, started=process.started, parent=process.parent)
            self.trees[process.pid] = fresh
            if process.id in self.seen:  # it was somebody else's until now
                fresh.before = {STARTUP: {"cpu": self.seen[process.id].cpu}}
        return True

    def _place(self, process: Process, scene: Scene) -> Place | None:
        command = self._command(process, scene)
        if scene.driven_by(process):
            return "driver"
        if process.pid in (scene.raylet, scene.own):
            return "system"
        if process.parent != scene.raylet and command.partition(" ")[0].endswith("/raylet"):
            return "other"  # another node's, on the same machine, with all that it has started
        if process.parent == scene.raylet and is_worker(command):
            return "system" if is_daemon(command) else "worker"
        above = self.trees.get(process.parent)
        if above is not None and above.place == "worker" and (scene.tapes / str(process.pid)).exists():
            return "worker"  # one of a worker's children that tells what it does
        if scene.session in command and not is_worker(command):
            return "system"
        return "driver" if self._is_submitted(process, scene) else None

    def _command(self, process: Process, scene: Scene) -> str:
        """Return a process's command line: Ray's workers change theirs until they know what they are."""
        known = self.commands.get(process.id)
        if known is None or process.started_seconds > scene.since - _YOUNG_SECONDS:
            self.commands[process.id] = proc.command(process.pid)
            self.payers[process.id] = payer(proc.variable(process.pid, SUBMITTED))
        elif process.parent == scene.raylet and is_undecided(known):
            self.commands[process.id] = proc.command(process.pid)
        return self.commands[process.id]

    def _is_submitted(self, process: Process, scene: Scene) -> bool:
        """Tell whether this cluster's job submission API started a process, whose children inherit what it was told."""
        above = scene.processes.get(process.parent)
        is_of_worker = above is not None and above.parent == scene.raylet
        return is_of_worker and self.payers[process.id] is not None

    # What they did.

    def _advance(self, members: Mapping[int, list[Process]], scene: Scene) -> None:
        """Compare every process with the last look.

        A child's time moves to its parent when it is reaped; what was seen of it while it lived is not counted again.
        """
        seen: dict[Id, Seen] = {}
        gone = self._gone({one.id for one in scene.processes.values()})
        owed, self.owed, self.reaped = self.owed, {}, {}
        for root, processes in members.items():
            tree = self.trees[root]
            tree.own = tree.born = 0
            for one in processes:
                before = self.seen.get(one.id) or self._before(one, root, scene)
                seen[one.id] = Seen(cpu=one.cpu, reaped=one.reaped, root=root, parent=one.parent)
                new = max(0, one.cpu - before.cpu)
                tree.own, tree.born = (new, tree.born) if one.pid == root else (tree.own, tree.born + new)
                counted = gone.get(one.pid, 0) + (owed.get(one.pid, 0) if one.id in self.seen else 0)
                if one.reaped > before.reaped:
                    self.reaped[one.pid] = max(0, one.reaped - before.reaped - counted)
                    tree.born += self.reaped[one.pid]
                elif counted:  # it was looked at before it got it, or never waits: then it makes no difference
                    self.owed[one.pid] = counted
        self.seen = seen
        self.commands = {identity: text for identity, text in self.commands.items() if identity in seen}
        self.payers = {identity: owner for identity, owner in self.payers.items() if identity in seen}

    def _before(self, process: Process, root: int, scene: Scene) -> Seen:
        """Return how far a process that is seen for the first time counts as counted."""
        nothing = Seen(cpu=0, reaped=0, root=root, parent=process.parent)
        if not self.is_first or process.started_seconds >= scene.since:
            return nothing
        # Who was there before accounting began is counted from now on; a driver from when it turned to the cluster.
        for job in scene.driven_by(process):
            return replace(nothing, cpu=job.cpu, reaped=job.reaped)
        return replace(nothing, cpu=process.cpu, reaped=process.reaped)

    def _gone(self, there: set[Id]) -> dict[int, int]:
        """Return what was counted of processes that are there no more, by the pid of who may have waited for them.

        That is their parent, whatever tree it is in, or who was above it if it is gone too.
        """
        known = {pid: (pid, started) for pid, started in self.seen}
        found: dict[int, int] = {}
        for identity in self.seen.keys() - there:
            one = self.seen[identity]
            above, path = one.parent, {identity[0]}
            while above in known and known[above] not in there and above not in path:
                path.add(above)
                above = self.seen[known[above]].parent
            found[above] = found.get(above, 0) + one.cpu + one.reaped
        return found

    def _account(self, root: int, processes: list[Process], scene: Scene, window: Window) -> int:
        tree, held = self.trees[root], _held(processes, scene)
        if tree.place == "worker":
            return self._work(root, held, scene, window)
        if tree.place == "other" and not scene.counts_others:
            return 0
        owner = self._driven_for(scene.processes[root], scene) if tree.place == "driver" else NOBODY
        stage = tree.name if tree.place == "system" else None
        window.add(Line(kind=tree.place, owner=owner, stage=stage), {"cpu": tree.own + tree.born, **held})
        return tree.own + tree.born

    def _driven_for(self, driver: Process, scene: Scene) -> Owner:
        """Return whose run a driver is at, else who pays for it."""
        runs = (job.owner(scene.at) for job in scene.driven_by(driver))
        return next((owner for owner in runs if owner != NOBODY), self.payers[driver.id] or NOBODY)

    def _work(self, root: int, held: Amounts, scene: Scene, window: Window) -> int:
        """Account for a worker: by its tape where it has one, else as a whole, by what Ray calls the process."""
        tree = self.trees[root]
        reading = tape_of(scene, root, tree.started)
        process = proc.look(root)  # once more: a clock that is read after the tape is never behind it
        new = 0
        if process is not None and process.id == (root, tree.started):  # else it has just died: the next look buries it
            now = self._now(tree, reading, process, scene)
            tree.last = _doing(tree, reading, now)
            owner = owner_of(reading, scene) if reading else owner_by(proc.variable(root, _JOB), scene)
            new = self._settle(tree, now, owner, window)
            self.seen[process.id] = replace(self.seen[process.id], cpu=tree.cpu)
        if tree.born:
            tree.children.setdefault(tree.last, {"cpu": 0})["cpu"] += tree.born
        window.add(_line(tree.last, tree.owner), {"cpu": tree.born, **held})
        return new + tree.born

    def _now(self, tree: Tree, reading: Reading | None, process: Process, scene: Scene) -> Levels:
        """Return what a worker has done since this account of it began."""
        tree.cpu, tree.looked = max(tree.cpu, process.cpu), scene.now
        if reading is None:
            whole = _unmetered(tree, proc.command(process.pid))
        else:
            clock = partial(proc.thread_cpu, process.pid)
            tree.going = {call.id: used(call, tree.cpu, clock) for call in reading.calls}
            whole = levels(reading, tree.cpu, now=scene.now, going=tree.going, dead=False)
        if self.is_first and process.started_seconds < scene.since:
            tree.before = whole  # that is not ours to count
        return _since(tree.before, whole)

    def _settle(self, tree: Tree, now: Levels, owner: Owner, window: Window) -> int:
        """Add the difference to the last look; what a worker did before its owner was known moves over to it."""
        new = _cpu(now) - _cpu(tree.levels)
        if tree.owner == NOBODY != owner:
            for part, amounts in [*tree.levels.items(), *tree.children.items()]:
                window.add(_line(part, NOBODY), {name: -amount for name, amount in amounts.items()})
                window.add(_line(part, owner), amounts)
        if owner != NOBODY:
            tree.owner = owner
        for part in {**now, **tree.levels}:
            amounts, before = now.get(part, {}), tree.levels.get(part, {})
            if amounts != before:
                change = {name: amount for name, amount in difference(amounts, before).items() if amount}
                window.add(_line(part, tree.owner), change)
        tree.levels = now
        return new

    def _bury(self, root: int, tree: Tree, scene: Scene, window: Window) -> int:
        """Close the account of a process that has ended: the calls it was in were killed with it."""
        if tree.place != "worker":
            return 0
        new = 0
        reading = tape_of(scene, root, tree.started)
        if reading is not None:
            whole = levels(reading, tree.cpu, now=tree.looked, going=tree.going, dead=True)
            last = _since(tree.before, whole)
            last.update({part: amounts for part, amounts in tree.levels.items() if part.kind == "background"})
            rest = _cpu(tree.levels) - _cpu(last)  # seen in a call of which nobody knows any more what it used
            if rest > 0:
                last = _sum(last, {Part("background", background(reading)): {"cpu": rest}})
            new = self._settle(tree, last, owner_of(reading, scene), window)
            self._take_back(tree.parent, new)
        if reading is not None or root not in scene.processes:
            with suppress(OSError):
                (scene.tapes / str(root)).unlink(missing_ok=True)
        return new

    def _take_back(self, parent: int, counted: int) -> None:
        """Take what was counted of a process after it had ended from its parent, if that got all of its time too."""
        if counted <= 0 or parent not in self.roots:
            return
        part = min(counted, self.reaped.get(parent, 0))
        self.trees[self.roots[parent]].born -= part
        self.reaped[parent] = self.reaped.get(parent, 0) - part
        self.owed[parent] = self.owed.get(parent, 0) + counted - part


def _held(processes: list[Process], scene: Scene) -> Amounts:
    """Return what a tree holds rather than uses, times how long: memory, GPUs."""
    rss = sum(one.rss for one in processes)
    gpus = [scene.gpus[one.pid] for one in processes if one.pid in scene.gpus]
    held = {"memory": int(rss * scene.seconds * 1e9), "peak_rss": rss}
    if gpus:
        held["gpu"] = int(sum(share for share, _ in gpus) * scene.seconds * 1e9)
        held["gpu_memory"] = sum(memory for _, memory in gpus)
    return held


def _doing(tree: Tree, reading: Reading | None, now: Levels) -> Part:
    """Return what a worker is at: its call, else where most time went since the last look, else what it was at then.

    Its memory, its GPUs and its child processes are there for that.
    """
    if reading is not None and reading.calls:
        stage, modality, _ = reading.calls[0].key
        return Part("task", stage, modality, "ok")
    spent = {part: amounts.get("wall", 0) - tree.levels.get(part, {}).get("wall", 0) for part, amounts in now.items()}
    most = max(spent, key=spent.__getitem__, default=tree.last)
    return most if spent.get(most, 0) > 0 else tree.last


def _unmetered(tree: Tree, command: str) -> Levels:
    """Return what a worker without a tape has done: by its title, which Ray changes with what it does."""
    title = command.partition("::")[2]
    is_named = command.startswith("ray::") and not title.startswith("IDLE")
    part = Part("task", title.partition("(")[0].strip() or None) if is_named else STARTUP
    new = {part: {"cpu": tree.cpu - _cpu(tree.before) - _cpu(tree.levels)}}
    return _sum(tree.before, tree.levels, new)


def _sum(*several: Levels) -> Levels:
    whole: Levels = {}
    for some in several:
        for part, amounts in some.items():
            sums = whole.setdefault(part, {})
            sums.update({name: sums.get(name, 0) + amount for name, amount in amounts.items()})
    return whole


def _since(before: Levels, whole: Levels) -> Levels:
    if not before:
        return whole
    return {part: difference(whole.get(part, {}), before.get(part, {})) for part in {**whole, **before}}


def _cpu(of: Levels) -> int:
    return sum(amounts.get("cpu", 0) for amounts in of.values())


def _line(part: Part, owner: Owner) -> Line:
    return Line(kind=part.kind, owner=owner, stage=part.stage, modality=part.modality, outcome=part.outcome)
