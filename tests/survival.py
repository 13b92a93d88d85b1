"""A corpus, a lake and a death become the proof that nothing was lost, doubled or seen by halves.

The corpus has objects of three rows each. An earlier run has done the first ones; since then some of them have changed
and many have come, so that a death finds rows that stay, rows to be replaced and rows to be added.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from raycluster.errors import NotFound
from raycluster.lake.lake import Lake
from raycluster.row import object_id, row_id

DRIVER = Path(__file__).parent / "engine" / "dying_driver.py"
OBJECTS = 48
EARLIER = 12  # done by a run before
CHANGED = 8  # of them, since
TODO = OBJECTS - EARLIER + CHANGED
PIECES = 3
BRISK = {"RAY_worker_niceness": "0"}  # at Ray's 15 a busy machine keeps its workers waiting for minutes
WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {{name: w, labels: {{team: t}}}}
spec:
  source: {{files: {{paths: ["{corpus}"]}}}}
  decode: {{text: {{chunk: 16}}}}
  encode: {encode}
  check: {{rules: [{{use: bounds, feature: characters, min: 30}}]}}
  sink: {{dataset: d, index: [{{column: text, kind: fts}}]}}
"""
ENCODE = '[{use: "private_stages:Noted"}]'


def lines(index: int, generation: int) -> list[str]:
    """Return an object's rows to be: of some objects the last is bad, of some all are.

    All that change have bad rows at first, so that there is always something to be cleared away.
    """
    words = [f"word{index:02d}g{generation}p{piece}" for piece in range(PIECES)]
    good = [f"{word} carries a handful of plain words here." for word in words]
    short = [f"{word} too short." for word in words]
    if (index + generation) % 8 == 7:
        return short
    is_mixed = index % 8 == 3 or (index < CHANGED and not generation)
    return [*good[:2], short[2]] if is_mixed else good


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Objects, as they were and as they are: file name -> generation -> rows."""

    folder: Path

    def write(self, indices: range, generation: int) -> None:
        """Write objects; a later generation is longer, so that it has another version whatever the clock says."""
        for index in indices:
            text = "\n".join(lines(index, generation)) + "\n" * generation
            (self.folder / f"t{index:02d}.txt").write_text(text)

    def identities(self, indices: range, generation: int) -> dict[str, tuple[set[str], set[str]]]:
        """Return the ids of the good rows and of the bad rows of each object, from the definition of an id."""
        found = {}
        for index in indices:
            path = self.folder / f"t{index:02d}.txt"
            state = path.stat()
            identity = object_id(path.as_uri(), f"{state.st_size}-{state.st_mtime_ns}")
            ids = [row_id(identity, "text", piece) for piece in range(PIECES)]
            bad = {one for one, line in zip(ids, lines(index, generation), strict=True) if "short" in line}
            found[identity] = (set(ids) - bad, bad)
        return found


@dataclass(frozen=True, kw_only=True)
class World:
    """Where it happens: the corpus, how it was before, and a lake that knows only that."""

    corpus: Corpus
    before: dict[str, tuple[set[str], set[str]]]  # object id -> good rows, bad rows
    after: dict[str, tuple[set[str], set[str]]]
    lake: Path
    address: str  # of a cluster that all drivers may join

    @classmethod
    def build(cls, folder: Path, address: str) -> "World":
        """Write the corpus, run it, and change it."""
        corpus = Corpus(folder=folder / "corpus")
        corpus.folder.mkdir()
        corpus.write(range(EARLIER), 0)
        before = corpus.identities(range(EARLIER), 0)
        world = cls(corpus=corpus, before=before, after={}, lake=folder / "lake", address=address)
        trial = Trial(world=world, folder=folder, lake=Lake(str(world.lake)))
        assert trial.run()["rows"] == sum(len(good) for good, _ in before.values())
        corpus.write(range(CHANGED), 1)
        corpus.write(range(EARLIER, OBJECTS), 0)
        after = corpus.identities(range(CHANGED), 1) | corpus.identities(range(CHANGED, OBJECTS), 0)
        return cls(corpus=corpus, before=before, after=after, lake=world.lake, address=address)


@dataclass(kw_only=True)
class Trial:
    """One test's lake, what runs on it, and what is seen there."""

    world: World
    folder: Path
    lake: Lake
    encode: str = ENCODE
    environment: dict[str, str] = field(default_factory=dict)
    begins_empty: bool = False
    joins: bool = True  # the cluster of the session; else each driver starts a Ray of its own, which dies with it

    @classmethod
    def begin(cls, world: World, folder: Path, *, lake: Path | None = None, **options: Any) -> "Trial":
        """Begin with a copy of a lake: the world's own, or one as a death has left it."""
        shutil.copytree(lake or world.lake, folder / "lake", dirs_exist_ok=True)
        return cls(world=world, folder=folder, lake=Lake(str(folder / "lake")), **options)

    @cached_property
    def file(self) -> Path:
        """Write the workload."""
        file = self.folder / "w.yaml"
        file.write_text(WORKLOAD.format(corpus=self.world.corpus.folder, encode=self.encode))
        return file

    @property
    def todo(self) -> set[str]:
        """Return the objects that the first run has to do."""
        return set(self.world.after) - (set() if self.begins_empty else set(self.world.before))

    @property
    def taken(self) -> Path:
        """Return the file that says that the moment has come."""
        return self.folder / "taken"

    def notes(self) -> dict[str, str]:
        """Return the environment that says where to note what."""
        return {
            "WORKED_ON": str(self.folder / "worked_on"),
            "MOMENT_TAKEN": str(self.taken),
            **BRISK,
        }

    def told(self, environment: dict[str, str]) -> dict[str, str]:
        """Return the environment of a driver; the workers it gets in a cluster that it joins are told the same."""
        told = {**self.environment, **self.notes(), **environment}
        if self.joins:
            job = {"runtime_env": {"env_vars": told}}
            told |= {"RAY_ADDRESS": self.world.address, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
        return {**os.environ, **told}

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a driver; what it says goes to files, which outlive it and its Ray."""
        number = len(list(self.folder.glob("[0-9]*.out")))
        with (self.folder / f"{number}.out").open("wb") as out, (self.folder / f"{number}.err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, str(DRIVER), str(self.file), self.lake.uri],
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=self.told(environment),
            )

    def end(self, driver: subprocess.Popen[bytes], number: int = -1) -> dict[str, Any]:
        """Wait for a driver's end; return its summary or its error."""
        driver.wait(timeout=150)
        outs = sorted(self.folder.glob("[0-9]*.out"), key=lambda path: int(path.stem))
        text = outs[number].read_text()
        assert text.strip(), outs[number].with_suffix(".err").read_text()
        said: dict[str, Any] = json.loads(text.splitlines()[-1])
        return said

    def run(self, **environment: str) -> dict[str, Any]:
        """Run to the end, which must be a good one."""
        said = self.end(self.start(**environment))
        assert said.get("status") == "done", said
        return said

    def left(self) -> list[int]:
        """Return the processes that the drivers of this trial have started and that still run, workers first."""
        mark = f"WORKED_ON={self.folder / 'worked_on'}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((not (entry / "cmdline").read_bytes().startswith(b"ray::"), int(entry.name)))
            except OSError:  # it has just ended
                continue
        return [pid for _, pid in sorted(found)]

    def clean(self) -> None:
        """End what a dead driver has left behind."""
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def die(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait for a driver's death, and for that of its workers, which notice within seconds."""
        driver.wait(timeout=150)
        assert driver.returncode == -signal.SIGKILL, self.end(driver)
        deadline = time.monotonic() + 30
        while any(_is_worker(pid) for pid in self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.clean()

    def recover(self, case: str) -> dict[str, Any]:
        """Run again after a death, and prove and print what that came to."""
        kept, begun = self.kept(), self.worked_on()
        started = time.monotonic()
        summary = self.run()
        again = self.report(case, kept, begun, seconds=time.monotonic() - started)
        self.require_undisturbed()
        assert summary["skipped"] == OBJECTS - len(self.todo) + len(kept)
        assert again == self.names(self.todo - kept)  # all that was not committed, and nothing else
        return summary

    def report(self, case: str, kept: set[str], begun: Counter[str], *, seconds: float) -> set[str]:
        """Print how much was done again since a death; return the names of what was worked on."""
        again = self.worked_on() - begun
        redone = sum(1 for one in again if begun[one])
        print(
            f"\nDEATH | {case} | {len(kept)} of {len(self.todo)} objects committed | {len(again)} worked on after it, "
            f"{redone} of them for the second time | {seconds:.1f} s"
        )
        return set(again)

    def names(self, identities: set[str]) -> set[str]:
        """Return the names of objects, as they are noted where they are worked on."""
        first, changed = list(self.world.after)[CHANGED:], list(self.world.after)[:CHANGED]
        names = {one: f"word{index:02d}g1" for index, one in enumerate(changed)}
        names |= {one: f"word{index:02d}g0" for index, one in enumerate(first, CHANGED)}
        return {names[one] for one in identities}

    def worked_on(self) -> Counter[str]:
        """Return how often the rows of each object were begun; an object is `word07g1`."""
        notes = self.folder / "worked_on"
        words = notes.read_text().split() if notes.exists() else []
        begun = Counter(words)
        objects = Counter[str]()
        for word, count in begun.items():
            name = word[:-2]
            objects[name] = max(objects[name], count)
        return objects

    def rows(self, version: int | str | None = None) -> dict[str, str]:
        """Return the rows of a version, id -> object id; fail where one is there twice."""
        table = self.lake.table("d").open(version).to_table(columns=["id", "object_id"])
        found = dict(zip(table["id"].to_pylist(), table["object_id"].to_pylist(), strict=True))
        assert len(found) == table.num_rows
        return found

    def kept(self) -> set[str]:
        """Return what was to do and is done by now: in the dataset, or wholly in quarantine."""
        settled = self.lake.quarantine("d").rows(where="settled_by IS NOT NULL")
        done = set(self.rows().values()) | {row["object_id"] for row in settled}
        return done & self.todo

    def require_undisturbed(self) -> None:
        """Prove that the dataset and its quarantine are as one undisturbed run leaves them."""
        good, bad = (set().union(*(both[side] for both in self.world.after.values())) for side in (0, 1))
        live = self.rows("live")
        assert set(live) == good
        assert set(self.rows()) == good
        assert {row["id"] for row in self.lake.quarantine("d").rows()} == bad
        assert not self.lake.table("d").open_runs()
        assert not self.lake.runs().recent("d", status="running")


def _is_worker(pid: int) -> bool:
    """Tell whether a process works for the driver; Ray's agents do not, and outlive it by a minute."""
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return name.startswith(b"ray::") and b"Agent" not in name


class Reader(threading.Thread):
    """Looks at `live` and at the latest version all the time, and keeps what should not have been there."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(daemon=True)
        self.trial = trial
        both = {**trial.world.before, **trial.world.after}
        self.whole = {identity: len(good) for identity, (good, _) in both.items()}
        ends = [set().union(*(good for good, _ in state.values())) for state in (trial.world.before, trial.world.after)]
        self.ends = [frozenset(end) for end in ends]
        self.seen: dict[tuple[str, int], None] = {}
        self.wrong: list[str] = []
        self.over = threading.Event()

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(timeout=60)
        for version in self.trial.lake.table("d").open(None).versions():  # none was there too shortly to be seen
            self._try("latest", version["version"])

    def run(self) -> None:
        while not self.over.wait(0.1):
            self._try("live", "live")
            self._try("latest", None)

    def _try(self, name: str, version: int | str | None) -> None:
        try:
            self._look(name, version)
        except NotFound:
            return
        except Exception as error:  # noqa: BLE001 - a reader that cannot read is what the test is about
            self.wrong.append(f"{name}: {type(error).__name__}: {error}")

    def _look(self, name: str, version: int | str | None) -> None:
        dataset = self.trial.lake.table("d").open(version)
        if (name, dataset.version) in self.seen:
            return
        self.seen[name, dataset.version] = None
        table = dataset.to_table(columns=["id", "object_id", "uri"])
        counts = Counter(table["object_id"].to_pylist())
        parts = [f"{n} of {self.whole.get(one, 0)} rows" for one, n in counts.items() if n != self.whole.get(one)]
        pairs = set(zip(table["uri"].to_pylist(), table["object_id"].to_pylist(), strict=True))
        if len({uri for uri, _ in pairs}) != len(pairs):
            parts.append("two generations of an object")
        if name == "live" and frozenset(table["id"].to_pylist()) not in self.ends:
            parts.append("neither the old dataset nor the new one")
        self.wrong += [f"{name}, version {dataset.version}: {part}" for part in parts]

    def require_nothing_wrong(self) -> None:
        """Fail if a reader saw part of an object, ever, or looked at nothing."""
        assert not self.wrong, self.wrong[:5]
        assert {name for name, _ in self.seen} == {"live", "latest"}
