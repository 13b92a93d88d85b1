"""Functions of every shape do what they did, metered; a Ray that is not known is left alone, and said."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import burns
import pytest
import ray
from ray._private import function_manager

from raycluster.account import hook, meter, slots
from raycluster.account.hook import bracketed
from raycluster.account.meter import Meter
from raycluster.account.slots import CALLS, CPU, Tape


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    core = SimpleNamespace(
        get_current_task_name=lambda: "task",
        get_current_task_attempt_number=lambda: 0,
        get_current_job_id=lambda: SimpleNamespace(binary=lambda: b"\0\0\0\1"),
    )
    made = Meter(Tape(tmp_path / "tape", node="n"), SimpleNamespace(core_worker=core))
    monkeypatch.setattr(meter._Process, "meter", made)
    yield made
    assert len(made.free) == 63
    assert made.open == set()


def calls(here: Meter) -> dict[str, int]:
    """Return how many calls had which outcome."""
    reading = slots.read(here.tape.path)
    assert reading is not None
    assert reading.calls == ()
    return {outcome: one[CALLS] for (_, _, outcome), one in reading.sums.items()}


def cpu(here: Meter, outcome: str = "ok") -> float:
    reading = slots.read(here.tape.path)
    assert reading is not None
    return reading.sums["task", "", outcome][CPU] / 1e9


def near(seconds: float) -> Any:
    return pytest.approx(seconds, rel=0.05, abs=0.02)


class Oops(Exception):
    """What these functions raise."""


def value(one: int, *, more: int = 0) -> int:
    """Add."""
    burns.burn(0.02)
    return one + more


def raising() -> None:
    raise Oops


def interrupted() -> None:
    raise KeyboardInterrupt


def generator(fails: bool = False) -> Iterator[int]:
    for number in range(3):
        burns.burn(0.01)
        yield number
    if fails:
        raise Oops
    return "end"


async def coroutine(fails: bool = False) -> str:
    for _ in range(3):
        burns.burn(0.01)
        await asyncio.sleep(0.001)
    if fails:
        raise Oops
    return "end"


async def turns(fails: bool = False) -> AsyncIterator[int]:
    for number in range(3):
        burns.burn(0.01)
        await asyncio.sleep(0.001)
        yield number
    if fails:
        raise Oops


def test_a_value(here: Meter) -> None:
    metered = bracketed(value)
    assert metered(1, more=2) == 3
    assert (metered.__name__, metered.__doc__) == ("value", "Add.")
    assert calls(here) == {"ok": 1}
    assert cpu(here) == near(0.02)


@pytest.mark.parametrize(("function", "error"), [(raising, Oops), (interrupted, KeyboardInterrupt)])
def test_what_it_raises(here: Meter, function: Any, error: type[BaseException]) -> None:
    with pytest.raises(error):
        bracketed(function)()
    assert calls(here) == {"failed": 1}


def test_a_generator(here: Meter) -> None:
    made = bracketed(generator)()
    found = [next(made) for _ in range(3)]
    with pytest.raises(StopIteration, match="end"):
        next(made)
    assert found == [0, 1, 2]
    assert calls(here) == {"ok": 1}
    assert cpu(here) == near(0.03)


def test_a_generator_that_raises(here: Meter) -> None:
    with pytest.raises(Oops):
        list(bracketed(generator)(fails=True))
    assert calls(here) == {"failed": 1}


def test_a_generator_that_is_sent_to_and_thrown_into(here: Meter) -> None:
    def echo() -> Iterator[str]:
        got = "begun"
        while got != "end":
            try:
                got = yield got
            except Oops:
                got = "caught"

    made = bracketed(echo)()
    assert (next(made), made.send("a"), made.throw(Oops)) == ("begun", "a", "caught")
    with pytest.raises(StopIteration):
        made.send("end")
    assert calls(here) == {"ok": 1}


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("ends", ["close", "drop"])
def test_a_generator_that_is_closed_early_or_never_asked(here: Meter, asked: int, ends: str) -> None:
    cleaned = []

    def cautious() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            cleaned.append(True)

    made = bracketed(cautious)()
    assert [next(made) for _ in range(asked)] == list(range(asked))
    if ends == "close":
        made.close()
    del made
    gc.collect()
    assert calls(here) == {"failed": 1}
    assert cleaned == [True] * asked


def test_a_plain_function_that_returns_a_generator(here: Meter) -> None:
    def prepares() -> Iterator[int]:
        burns.burn(0.02)
        return (burns.burn(0.01) or number for number in range(2))

    assert list(bracketed(prepares)()) == [0, 1]
    assert calls(here) == {"ok": 1}
    assert cpu(here) == near(0.04)


def test_a_coroutine(here: Meter) -> None:
    assert asyncio.run(bracketed(coroutine)()) == "end"
    assert calls(here) == {"ok": 1}
    assert cpu(here) == near(0.03)


def test_a_coroutine_that_raises(here: Meter) -> None:
    with pytest.raises(Oops):
        asyncio.run(bracketed(coroutine)(fails=True))
    assert calls(here) == {"failed": 1}


def test_coroutines_beside_each_other(here: Meter) -> None:
    async def both() -> list[str]:
        return await asyncio.gather(bracketed(coroutine)(), bracketed(coroutine)())

    assert asyncio.run(both()) == ["end", "end"]
    assert calls(here) == {"ok": 2}
    assert cpu(here) == near(0.06)


def test_a_coroutine_that_is_cancelled(here: Meter) -> None:
    caught = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            caught.append(True)
            raise

    async def cancel() -> None:
        task = asyncio.ensure_future(bracketed(waits)())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert caught == [True]
    assert calls(here) == {"failed": 1}


def test_a_coroutine_that_will_not_be_cancelled(here: Meter) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "end"

    async def cancel() -> str:
        task = asyncio.ensure_future(bracketed(stubborn)())
        await asyncio.sleep(0.01)
        task.cancel()
        return await task

    assert asyncio.run(cancel()) == "end"
    assert calls(here) == {"ok": 1}


def test_a_coroutine_that_is_cancelled_before_it_began(here: Meter) -> None:
    async def cancel() -> None:
        task = asyncio.ensure_future(bracketed(coroutine)())
        task.cancel()
        await asyncio.wait([task])

    with pytest.warns(RuntimeWarning, match="never awaited"):
        asyncio.run(cancel())
    assert calls(here) == {}


def test_an_asynchronous_generator(here: Meter) -> None:
    async def take() -> list[int]:
        return [number async for number in bracketed(turns)()]

    assert asyncio.run(take()) == [0, 1, 2]
    assert calls(here) == {"ok": 1}
    assert cpu(here) == near(0.03)


def test_an_asynchronous_generator_that_raises(here: Meter) -> None:
    found = []

    async def take() -> None:
        async for number in bracketed(turns)(fails=True):
            found.append(number)

    with pytest.raises(Oops):
        asyncio.run(take())
    assert found == [0, 1, 2]
    assert calls(here) == {"failed": 1}


def test_an_asynchronous_generator_that_is_closed_early(here: Meter) -> None:
    cleaned = []

    async def cautious() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def take() -> None:
        made = bracketed(cautious)()
        assert await anext(made) == 1
        await made.aclose()

    asyncio.run(take())
    assert cleaned == [True]
    assert calls(here) == {"failed": 1}


def test_calls_of_many_threads(here: Meter) -> None:
    metered = bracketed(value)
    threads = [threading.Thread(target=metered, args=(1,)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert calls(here) == {"ok": 8}
    assert cpu(here) == near(0.16)


def test_without_meter_a_function_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter._Process, "meter", None)
    assert bracketed(value) is value


# Where it is installed.


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keep Ray as it is, and this process without a meter."""
    manager = function_manager.FunctionActorManager
    monkeypatch.setattr(manager, "get_execution_info", manager.get_execution_info)
    monkeypatch.setattr(meter._Process, "meter", None)
    return manager


def test_another_version_of_ray_is_left_alone_and_said(
    manager: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = manager.get_execution_info
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    hook.install()
    assert "not 2.61.0: calls are not told apart" in caplog.text
    assert manager.get_execution_info is before
    assert meter.here() is None


@pytest.mark.parametrize("error", [OSError("No space left on device"), AttributeError("_global_node")])
def test_a_worker_starts_even_if_it_cannot_be_metered(
    manager: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Ray ends a worker whose set-up hook raises."""

    def refuse() -> Path:
        raise error

    before = manager.get_execution_info
    monkeypatch.setattr(hook, "tapes", refuse)
    with caplog.at_level(logging.WARNING):
        hook.install()
    assert "there is no meter" in caplog.text
    assert str(error) in caplog.text
    assert manager.get_execution_info is before
    assert meter.here() is None


def test_it_is_installed_once_and_ray_gets_metered_functions(
    manager: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = function_manager.FunctionExecutionInfo(function=value, function_name="value", max_calls=0)
    monkeypatch.setattr(manager, "get_execution_info", lambda *_: info)
    monkeypatch.setattr(hook, "tapes", lambda: tmp_path)
    context = SimpleNamespace(get_node_id=lambda: "n")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    core = SimpleNamespace(
        get_current_task_name=lambda: "task",
        get_current_task_attempt_number=lambda: 0,
        get_current_job_id=lambda: SimpleNamespace(binary=lambda: b"\0\0\0\1"),
        get_job_config=lambda: SimpleNamespace(metadata={"team": "anna", "mood": "good"}),
    )
    monkeypatch.setattr(ray._private.worker, "global_worker", SimpleNamespace(core_worker=core))
    hook.install()
    installed = meter.here()
    assert installed is not None
    hook.install()
    assert meter.here() is installed
    found = manager.get_execution_info(None, None, None)
    assert found.function(1) == 1
    assert calls(installed) == {"ok": 1}
    assert found._replace(function=value) == info
    reading = slots.read(installed.tape.path)
    assert reading is not None
    assert reading.owner["payer"] == {"team": "anna"}
