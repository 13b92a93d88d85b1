"""What the meter says of work whose truth is known, for every shape that a call can have.

A call is billed within a few milliseconds of what it burned; the tolerances leave room for a machine that is busy. A
killed call loses what it did after the agent's last look, a quarter of a second at most where the machine is not.
`pytest -s -m slow tests/account/test_truth.py` prints the table that stands in the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import burns
import pytest
import ray

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

Name = Callable[[str], str]
Page = Any  # conftest.Page


def task(function: Callable[..., Any], **options: Any) -> Any:
    return ray.remote(function).options(**{"max_retries": 0, **options})


def near(truth: float) -> Any:
    return pytest.approx(truth, rel=0.03, abs=0.03)


def told(shape: str, truth: float, measured: float) -> float:
    """Print a line of the table, and return what was measured."""
    print(f"\nTRUTH | {shape} | {truth:.3f} | {measured:.3f} |")
    return measured


def test_a_plain_task(page: Page, unique: Name) -> None:
    ray.get(task(burns.plain, name=unique("plain")).remote(0.5))
    assert told("task", 0.5, page.cpu(stage=unique("plain"), kind="task", outcome="ok")) == near(0.5)
    assert page.calls(stage=unique("plain"), outcome="ok") == 1


def test_a_generator(page: Page, unique: Name) -> None:
    for part in task(burns.generator, name=unique("gen"), num_returns="streaming").remote(0.6):
        ray.get(part)
    assert told("generator", 0.6, page.cpu(stage=unique("gen"), outcome="ok")) == near(0.6)


def test_a_task_that_raises(page: Page, unique: Name) -> None:
    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(task(burns.raising, name=unique("raising")).remote(0.4))
    assert told("task that raises", 0.4, page.cpu(stage=unique("raising"), outcome="failed")) == near(0.4)
    assert page.cpu(stage=unique("raising"), outcome="ok") == 0


def test_threads_of_a_task(page: Page, unique: Name) -> None:
    ray.get(task(burns.threads, name=unique("threads"), num_cpus=2).remote(0.8))
    assert told("task with two threads", 0.8, page.cpu(stage=unique("threads"), outcome="ok")) == near(0.8)


def test_torch_in_two_threads(page: Page, unique: Name) -> None:
    truth = ray.get(task(burns.with_torch, name=unique("torch"), num_cpus=2).remote(0.8))
    measured = page.cpu(stage=unique("torch"), outcome="ok")
    told("torch, two threads (its import is the task's too)", truth, measured)
    assert measured >= truth
    again = ray.get(
        task(burns.with_torch, name=unique("torch2"), num_cpus=2).remote(0.8)
    )  # the same process, most likely
    assert page.cpu(stage=unique("torch2"), outcome="ok") >= again - 0.01


def test_a_child_process(page: Page, unique: Name) -> None:
    ray.get(task(burns.child, name=unique("child")).remote(0.5))
    measured = told("child process (and its start)", 0.5, page.cpu(stage=unique("child"), outcome="ok"))
    assert 0.48 <= measured <= 0.65


def test_the_start_of_an_actor(page: Page, unique: Name) -> None:
    actor = ray.remote(burns.Starting).remote(0.4)
    ray.get(actor.ready.options(name=unique("ready")).remote())
    assert told("actor start", 0.4, page.cpu(stage="Starting.__init__", outcome="ok")) == near(0.4)
    assert page.cpu(kind="startup") > 0.1  # the process itself: Python, Ray


def test_two_calls_at_once(page: Page, unique: Name) -> None:
    actor = ray.remote(burns.Side).options(max_concurrency=3).remote()
    calls = [("first", 0.3), ("second", 0.6), ("waiting", 0.8)]
    ray.get([getattr(actor, name).options(name=unique(name)).remote(seconds) for name, seconds in calls])
    assert told("threaded actor, beside others", 0.3, page.cpu(stage=unique("first"), outcome="ok")) == near(0.3)
    assert told("the other call", 0.6, page.cpu(stage=unique("second"), outcome="ok")) == near(0.6)
    assert page.cpu(stage=unique("waiting"), outcome="ok") < 0.05


def test_coroutines(page: Page, unique: Name) -> None:
    actor = ray.remote(burns.Loop).remote()
    both = [("steps", 0.4), ("others", 0.2)]
    ray.get([getattr(actor, name).options(name=unique(name)).remote(seconds) for name, seconds in both])
    assert told("coroutine, beside another", 0.4, page.cpu(stage=unique("steps"), outcome="ok")) == near(0.4)
    assert told("the other one", 0.2, page.cpu(stage=unique("others"), outcome="ok")) == near(0.2)


def test_an_asynchronous_generator(page: Page, unique: Name) -> None:
    actor = ray.remote(burns.Loop).remote()
    for part in actor.yields.options(num_returns="streaming", name=unique("yields")).remote(0.4):
        ray.get(part)
    assert told("asynchronous generator", 0.4, page.cpu(stage=unique("yields"), outcome="ok")) == near(0.4)


def test_a_coroutine_that_raises(page: Page, unique: Name) -> None:
    actor = ray.remote(burns.Loop).remote()
    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(actor.failing.options(name=unique("failing")).remote(0.3))
    assert told("coroutine that raises", 0.3, page.cpu(stage=unique("failing"), outcome="failed")) == near(0.3)


def test_a_worker_that_is_killed(page: Page, unique: Name) -> None:
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(task(burns.killed, name=unique("killed")).remote(2.0))
    measured = told("killed in a task", 2.0, page.cpu(stage=unique("killed"), outcome="killed"))
    assert 1.2 <= measured <= 2.1
    assert page.cpu(stage=unique("killed"), outcome="ok") == 0


def test_a_task_that_is_tried_again(page: Page, unique: Name, tmp_path: Path) -> None:
    again = task(burns.once_killed, name=unique("again"), max_retries=1)
    ray.get(again.remote(1.5, str(tmp_path / "mark")))
    retried = told("second attempt", 1.5, page.cpu(stage=unique("again"), outcome="retried"))
    killed = told("killed first attempt", 1.5, page.cpu(stage=unique("again"), outcome="killed"))
    assert retried == near(1.5)
    assert 0.7 <= killed <= 1.6
    assert page.cpu(stage=unique("again"), outcome="ok") == 0


def test_a_long_call_that_fails_is_failed_in_every_window_it_was_in(page: Page, unique: Name) -> None:
    """While it goes on it is taken to go well, and windows are written; then they are corrected."""
    page.usage()
    slow = task(burns.raising, name=unique("long")).remote(3.0)
    ray.wait([slow], timeout=1.5)
    page.usage()  # cuts a window in the middle of it
    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(slow)
    assert page.cpu(stage=unique("long"), outcome="failed") == near(3.0)
    assert page.cpu(stage=unique("long"), outcome="ok") == pytest.approx(0, abs=1e-6)
    lines = [line for line in page.usage().to_pylist() if line["stage"] == unique("long")]
    assert len({line["started_at"] for line in lines if line["cpu_seconds"] > 0.1}) >= 2
    assert min(line["cpu_seconds"] for line in lines) >= 0


def test_calls_that_do_nothing_are_all_counted(page: Page, unique: Name) -> None:
    actor = ray.remote(burns.Side).remote()
    ray.get([actor.waiting.options(name=unique("nothing")).remote(0) for _ in range(1000)])
    assert page.calls(stage=unique("nothing"), outcome="ok") == 1000


def test_windows_add_up_to_the_node(page: Page, unique: Name) -> None:
    ray.get(task(burns.plain, name=unique("law")).remote(0.5))
    page.usage()
    ray.get(task(burns.threads, name=unique("law")).remote(0.5))
    sums: dict[Any, list[float]] = {}
    for line in page.usage().to_pylist():
        sums.setdefault((line["started_at"], line["ended_at"], line["node_cpus"]), []).append(line["cpu_seconds"])
    assert len(sums) >= 2
    for (started, ended, cpus), parts in sums.items():
        # Idle time fills a window to the nanosecond; one without any may hold what a look found a moment too late.
        capacity = (ended - started).total_seconds() * cpus
        assert capacity == pytest.approx(sum(parts), rel=1e-9) or capacity < sum(parts) < 1.02 * capacity + 0.02
        assert min(parts) >= 0


def test_owners_are_told_apart(page: Page, unique: Name) -> None:
    """A process that names its owner is billed to that one, not to its job's."""

    def owned(owner: dict[str, str]) -> None:
        from raycluster.account import meter

        meter.charge(owner)
        burns.burn(0.4)

    other = {"run_id": unique("run"), "workload": "x", "team": "others"}
    ray.get(task(owned, name=unique("owned"), runtime_env={"env_vars": {"APART": unique("")}}).remote(other))
    lines = page.usage().to_pylist()
    found = [line for line in lines if line["stage"] == unique("owned") and line["cpu_seconds"] > 0]
    assert {(line["run_id"], line["team"]) for line in found} == {(unique("run"), "others")}
    assert sum(line["cpu_seconds"] for line in found) == near(0.4)


def test_an_agent_that_dies_goes_on_where_it_was(page: Page, unique: Name) -> None:
    import os
    import signal

    (agent,) = page.agents
    ray.get(task(burns.plain, name=unique("before")).remote(0.4))
    page.usage()
    pid = ray.get(agent.ping.remote())
    os.kill(pid, signal.SIGKILL)
    ray.get(task(burns.plain, name=unique("meanwhile")).remote(0.6))
    while True:
        try:
            assert ray.get(agent.ping.remote(), timeout=60) != pid
            break
        except ray.exceptions.ActorUnavailableError:
            continue
    assert page.cpu(stage=unique("before"), outcome="ok") == near(0.4)
    assert page.cpu(stage=unique("meanwhile"), outcome="ok") == near(0.6)
    windows = sorted({(line["started_at"], line["ended_at"]) for line in page.usage().to_pylist()})
    assert all(end == start for (_, end), (start, _) in pairwise(windows))  # without a gap


def test_a_worker_without_a_meter_is_counted_as_a_whole(page: Page, unique: Name) -> None:
    """As with a Ray that the meter does not know: by the kernel's word, under the name that Ray gives it."""
    hook = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
    unhooked = {"env_vars": {hook: "builtins.list", "APART": unique("")}}
    ray.get(task(burns.plain, name=unique("blind"), runtime_env=unhooked).remote(1.5))
    lines = [line for line in page.usage().to_pylist() if line["stage"] == unique("blind")]
    assert sum(line["cpu_seconds"] for line in lines) > 0.9
    assert {line["outcome"] for line in lines} == {None}


if __name__ == "__main__":
    sys.exit(pytest.main(["-s", "-m", "slow", __file__]))
