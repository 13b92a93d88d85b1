"""What workers report adds up, and what is begun is known until it is done."""

from typing import Any

import pytest
import ray

from raycluster.engine.progress import Pace, Progress, Reporter, followed


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


def test_another_run_begins_anew() -> None:
    actor = Progress()
    actor.hold(True)
    actor.started("1:a")
    actor.trying("1:a", 0)
    actor.report({"image": (1, 0.5)}, 10)
    actor.forget()
    assert (actor.started("0:a"), actor.trying("1:a", 0), actor.snapshot()) == (0, 0, ({}, 0))


@pytest.mark.usefixtures("cluster")
def test_an_actor_stays_for_the_next_run_that_begins_after_a_good_end() -> None:
    def started(actor: Any) -> int:
        return int(ray.get(actor.started.remote("0:a")))

    with followed() as first, followed() as beside:
        assert first != beside
        assert [started(first), started(first), started(beside)] == [0, 1, 0]
    with followed() as second:
        assert second in (first, beside)
        assert started(second) == 0
    failing = followed()
    third = failing.__enter__()
    assert third == second
    assert not failing.__exit__(ValueError, ValueError("it ended badly"), None)
    with followed() as fourth:
        assert fourth != third
    with pytest.raises(ray.exceptions.RayActorError):
        started(third)


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
