"""What workers report adds up, and what is begun is known until it is done."""

from typing import Any

from raycluster.engine.progress import Pace, Progress, Reporter


class Remote:
    """An actor's method, called at once and here."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class Actor:
    """The progress actor, in this process."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.calls = 0

    @property
    def report(self) -> Remote:
        self.calls += 1
        return Remote(self.progress.report)


def test_starts_are_counted_until_the_unit_is_done() -> None:
    actor = Progress()
    assert [actor.started("a"), actor.started("b"), actor.started("a")] == [0, 0, 1]
    assert [actor.trying("a", 0), actor.trying("a", 0), actor.trying("a", 1), actor.trying("b", 0)] == [0, 1, 0, 0]
    actor.finished("a")
    assert (actor.started("a"), actor.trying("a", 0)) == (0, 0)
    assert actor.started("b") == 1
    actor.finished("never begun")


def test_reports_of_many_workers_add_up() -> None:
    actor = Actor()
    workers = [Reporter(actor) for _ in range(3)]
    for worker in workers:
        worker.add("text", 5, 0.5)
        worker.add("text", 1, 0.25)
        worker.add("minilm", 6, 2.0)
        worker.read_bytes += 100
        worker.flush()
        worker.flush()  # says nothing twice
    stages, read = actor.progress.snapshot()
    assert stages == {"text": Pace(rows=18, seconds=2.25), "minilm": Pace(rows=18, seconds=6.0)}
    assert (read, actor.calls) == (300, 3)


def test_of_many_workers_each_speaks_more_rarely() -> None:
    actor = Actor()
    for workers in (1000, 16_000):
        worker = Reporter(actor, workers=workers)
        worker.spoke -= 10
        worker.add("text", 1, 0.001)
    assert actor.calls == 1


def test_a_worker_speaks_now_and_then_only() -> None:
    actor = Actor()
    worker = Reporter(actor)
    for _ in range(1000):
        worker.add("text", 1, 0.001)
    assert actor.calls == 0
    worker.spoke -= 1.5
    worker.add("text", 1, 0.001)
    assert actor.calls == 1
    assert actor.progress.snapshot()[0]["text"].rows == 1001


def test_without_an_actor_nothing_is_kept() -> None:
    worker = Reporter(None)
    worker.add("text", 1, 0.1)
    worker.flush()
    assert worker.stages == {}
