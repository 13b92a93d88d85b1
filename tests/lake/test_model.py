"""Whatever happens in whatever order, the lake holds what a dictionary would.

The model is three dictionaries: what the latest version, `live` and each version that was ever shown hold. Rules are
what drivers, workers and people do, deaths among them; after each the real tables must hold what the model says.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raycluster.declare.workload import Index
from raycluster.errors import NotFound, TakenOver
from raycluster.lake.commit import Change, commit
from raycluster.lake.gc import collect
from raycluster.lake.index import build
from raycluster.lake.lake import Lake
from raycluster.lake.maintain import maintain
from raycluster.lake.rollback import publish, roll_back
from raycluster.lake.runs import Run
from raycluster.lake.write import files
from raycluster.row import object_id

PIECES = 2
URIS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
Held = dict[str, str]  # uri -> version of the object


@dataclass
class Driver:
    """A run, and what it has written but not yet committed."""

    run: Run
    base: int
    known: Held
    own: set[str] = field(default_factory=set)
    waiting: list[tuple[list[str], Held]] = field(default_factory=list)  # fragments, what they hold
    landed: list[Change] = field(default_factory=list)


class LakeMachine(RuleBasedStateMachine):
    """One dataset, one workload, any number of drivers of which only the last may write."""

    writer_of: type

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="raycluster-model-"))
        self.lake = Lake(str(self.folder))
        self.writer = self.writer_of(self.lake.table("d"))
        self.table = self.lake.table("d")
        self.writer.write([])
        self.latest: Held = {}
        self.live: Held | None = None
        self.shown: dict[int, Held] = {}  # versions that readers have seen, and that must still be there
        self.driver: Driver | None = None
        self.zombies: list[Driver] = []
        self.changes = 0  # versions of objects so far
        self.runs = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # --- what drivers do ---

    @rule()
    def begin(self) -> None:
        """Start a run; the one before it, if any, is dead or will find that its place is taken."""
        if self.driver:
            self.zombies.append(self.driver)
        self.runs += 1
        run = Run(run_id=f"run{self.runs}", workload="w", dataset="d", status="running", started_at=datetime.now(UTC))
        declared = {"digest": f"d{self.runs}", "yaml": ""}
        commit(self.table, Change(run_id=run.run_id, workload="w", fence="take", declaration=declared))
        self.lake.runs().put(run)
        self.driver = Driver(run=run, base=self.table.version(), known=dict(self.latest))

    @precondition(lambda self: self.driver)
    @rule(uris=URIS)
    def write(self, uris: list[str]) -> None:
        """Work on new versions of objects; one driver works on each object once."""
        driver = self.driver
        fresh = [uri for uri in uris if all(uri not in held for _, held in driver.waiting)]
        fresh = [uri for uri in fresh if self.latest.get(uri) == driver.known.get(uri)]
        if fresh:
            self.changes += 1
            version = str(self.changes)
            fragments = self.writer.write(fresh, version=version, pieces=PIECES)
            driver.waiting.append((fragments, dict.fromkeys(fresh, version)))

    @precondition(lambda self: self.driver and self.driver.waiting)
    @rule(answer=st.sampled_from(["heard", "lost"]))
    def land(self, answer: str) -> None:
        """Commit what is waiting; where the answer is lost, commit it once more."""
        driver = self.driver
        waiting, driver.waiting = driver.waiting, []
        brought = {uri: version for _, held in waiting for uri, version in held.items()}
        change = Change(
            run_id=driver.run.run_id,
            workload="w",
            fragments=[one for fragments, _ in waiting for one in fragments],
            removed=[object_id(uri, driver.known[uri]) for uri in brought if uri in driver.known],
            base=driver.base,
            fence="hold",
            own=set(driver.own),
        )
        for _ in range(2 if answer == "lost" else 1):
            commit(self.table, change)
        driver.own |= {name for one in change.fragments for name in files(one)}
        self.latest |= brought

    @precondition(lambda self: self.driver)
    @rule(uris=URIS)
    def prune(self, uris: list[str]) -> None:
        gone = [uri for uri in uris if uri in self.latest and self.latest[uri] == self.driver.known.get(uri)]
        removed = [object_id(uri, self.latest[uri]) for uri in gone]
        commit(self.table, Change(run_id=self.driver.run.run_id, workload="w", removed=removed, fence="hold"))
        for uri in gone:
            del self.latest[uri]

    @precondition(lambda self: self.driver and not self.driver.waiting)
    @rule()
    def finish(self) -> None:
        run = self.driver.run
        commit(self.table, Change(run_id=run.run_id, workload="w", fence="release"))
        made = build(self.table, [Index(column="text", kind="fts")])
        version = publish(self.lake, self.table, max(one.version for one in made))
        ended = Run(
            run_id=run.run_id,
            workload="w",
            dataset="d",
            status="done",
            started_at=run.started_at,
            finished_at=datetime.now(UTC),
            version=version,
        )
        self.lake.runs().put(ended)
        self.driver, self.live = None, dict(self.latest)
        self.shown[version] = self.live

    @precondition(lambda self: self.driver)
    @rule()
    def die(self) -> None:
        """The driver is gone; what its workers wrote and nobody committed is left on the disk."""
        self.zombies.append(self.driver)
        self.driver = None

    @precondition(lambda self: self.zombies)
    @rule()
    def return_from_the_dead(self) -> None:
        zombie = self.zombies[-1]
        if zombie.run.run_id in self.table.open_runs().values():
            return  # nobody has taken its place: it may go on, and `land` does
        fragments = [one for written, _ in zombie.waiting for one in written]
        change = Change(run_id=zombie.run.run_id, workload="w", fragments=fragments, fence="hold", base=zombie.base)
        with pytest.raises(TakenOver):
            commit(self.table, change)

    # --- what people do ---

    @precondition(lambda self: self.shown)
    @rule(choose=st.randoms(use_true_random=False))
    def go_back(self, choose) -> None:
        version = choose.choice(sorted(self.shown))
        roll_back(self.lake, "d", to=str(version), by="ann")
        if self.driver:
            self.zombies.append(self.driver)
        self.driver = None
        self.live, self.latest = dict(self.shown[version]), dict(self.shown[version])

    @precondition(lambda self: self.shown)
    @rule()
    def go_back_to_the_last(self) -> None:
        try:
            entry = roll_back(self.lake, "d", to=None, by="ann")
        except NotFound:
            return
        if self.driver:
            self.zombies.append(self.driver)
        self.driver = None
        assert entry.version in self.shown
        self.live, self.latest = dict(self.shown[entry.version]), dict(self.shown[entry.version])

    @rule(keep=st.integers(1, 4), young=st.booleans())
    def care(self, keep: int, young: bool) -> None:
        """Compact, index, remove old versions and orphans; whatever readers see keeps its rows."""
        live = self.table.live()
        done = maintain(self.lake, "d", keep_age=timedelta(days=7) if young else timedelta(0), keep_versions=keep)
        if done.live is not None and done.live != live:
            self.shown[done.live] = dict(self.live)
        self.shown = {version: held for version, held in self.shown.items() if self.is_there(version)}
        if young:
            assert not done.versions_removed

    def is_there(self, version: int) -> bool:
        try:
            self.table.open(version)
        except NotFound:
            return False
        return True

    @rule()
    def collect(self) -> None:
        assert collect(self.lake, "d", dry_run=True).files >= 0
        collect(self.lake, "d")

    # --- what must hold ---

    def held(self, version: int | str | None) -> Held:
        rows = self.table.open(version).to_table(columns=["id", "object_id", "uri", "position"]).to_pylist()
        assert len({row["id"] for row in rows}) == len(rows)
        pieces = Counter((row["uri"], row["object_id"]) for row in rows)
        assert set(pieces.values()) <= {PIECES}  # no object in part
        assert len({uri for uri, _ in pieces}) == len(pieces)  # no object in two versions
        return dict(pieces.keys())

    def as_held(self, model: Held) -> Held:
        return {uri: object_id(uri, version) for uri, version in model.items()}

    @invariant()
    def the_latest_version_is_as_the_model(self) -> None:
        assert self.held(None) == self.as_held(self.latest)

    @invariant()
    def readers_see_what_was_proven(self) -> None:
        if self.live is None:
            assert self.table.live() is None
        else:
            assert self.held("live") == self.as_held(self.live)
            assert not self.table.open_runs(self.table.live())

    @invariant()
    def what_was_shown_can_be_read_and_found(self) -> None:
        for version, model in self.shown.items():
            assert self.held(version) == self.as_held(model)
        for uri, version in list(self.latest.items())[:2]:  # through the index
            identity = object_id(uri, version)
            assert self.table.count_rows(filter=f"object_id = '{identity}'") == PIECES


def machine(writer_of: type, examples: int) -> type:
    made = type("Machine", (LakeMachine,), {"writer_of": writer_of}).TestCase
    made.settings = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=examples < 50,
    )
    return made


def test_any_order_of_few(writer_of):
    machine(writer_of, 8)().runTest()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_order_of_many(writer_of):
    machine(writer_of, 120)().runTest()
