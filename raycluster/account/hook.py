"""A worker process becomes a metered one: every task, actor call and actor start in it is bracketed.

Ray calls `install` in each worker of a job (`worker_process_setup_hook`); user code is not touched. What is wrapped is
the one Python function from which Ray 2.60 gets whatever it is about to execute, so Ray Data's reads, shuffles and
writes, Serve's replicas and Train's workers are seen too.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from pathlib import Path
from time import thread_time_ns
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from raycluster.account import meter
from raycluster.account.meter import Meter
from raycluster.account.owners import payer_here
from raycluster.account.slots import Tape

HOOK = f"{__name__}.install"
# What `worker_process_setup_hook` of a runtime environment becomes in a worker (ray_constants.py of Ray 2.60).
VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
_RAY = "2.60."  # whose inside this file knows

_log = logging.getLogger(__name__)


def install() -> None:
    """Meter this worker process from now on.

    Where that cannot be, it says so, and the node agent counts the process as a whole, by what the kernel knows.
    """
    try:
        _install()
    except Exception:  # noqa: BLE001 - Ray lets no worker live whose hook raises
        _log.warning("there is no meter in process %d: its calls are not told apart", os.getpid(), exc_info=True)


def _install() -> None:
    import ray
    from ray._private import function_manager

    if meter.here() is not None:
        return
    manager: Any = function_manager.FunctionActorManager
    known = getattr(function_manager.FunctionExecutionInfo, "_fields", ())
    if not ray.__version__.startswith(_RAY) or not hasattr(manager, "get_execution_info") or "function" not in known:
        _log.warning("the meter knows Ray %sx, not %s: calls are not told apart", _RAY, ray.__version__)
        return
    folder = tapes()
    tape = Tape(folder / str(os.getpid()), node=ray.get_runtime_context().get_node_id(), payer=payer_here())
    meter.use(Meter(tape, ray._private.worker.global_worker))
    _wrap_executions(manager)


def tapes() -> Path:
    """Return the folder of this node's tapes, in the place of its Ray session."""
    from ray._private import worker

    node: Any = worker._global_node
    folder = Path(node.get_session_dir_path()) / "raycluster" / "tapes"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _wrap_executions(manager: Any) -> None:
    """Let Ray get metered functions; it asks for each once and keeps it."""
    found = manager.get_execution_info

    @functools.wraps(found)
    def get_execution_info(self: Any, job_id: Any, descriptor: Any) -> Any:
        info = found(self, job_id, descriptor)
        return info._replace(function=bracketed(info.function))

    manager.get_execution_info = get_execution_info


def bracketed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same, metered, whatever it returns: a value, a generator, a coroutine."""
    here = meter.here()
    if here is None:
        return function
    begin, end, leave = here.begin, here.end, here.leave

    @functools.wraps(function)  # with its attributes, by which Ray tells coroutines from plain methods
    def metered(*given: Any, **named: Any) -> Any:
        call = begin()
        try:
            result = function(*given, **named)
        except BaseException:
            end(call, failed=True)
            raise
        kind = type(result)
        if kind is GeneratorType:
            steps = _to_its_end(here, result, call)
            next(steps)  # into its `try`: one that nobody ever asks for anything ends its call all the same
            return steps
        if kind is CoroutineType or kind is AsyncGeneratorType:  # it has only been made: it runs later
            leave(call)
            return _awaited(here, result) if kind is CoroutineType else _in_turns(here, result)
        end(call, failed=False)
        return result

    return metered


def _to_its_end(here: Meter, generator: Generator[Any, Any, Any], call: Any) -> Generator[Any, Any, Any]:
    try:
        yield
        result = yield from generator
    except BaseException:
        here.end(call, failed=True)
        raise
    here.end(call, failed=False)
    return result


async def _awaited(here: Meter, coroutine: Coroutine[Any, Any, Any]) -> Any:
    call = here.begin(in_steps=True)
    steps = _Steps(coroutine)
    try:
        result = await steps
    except BaseException:
        here.end(call, failed=True, steps=steps.cpu)
        raise
    here.end(call, failed=False, steps=steps.cpu)
    return result


async def _in_turns(here: Meter, generator: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, None]:
    call = here.begin(in_steps=True)
    cpu = 0
    try:
        while True:
            steps = _Steps(anext(generator))
            try:
                yielded = await steps
            except StopAsyncIteration:
                break
            finally:
                cpu += steps.cpu
            yield yielded
    except BaseException:
        here.end(call, failed=True, steps=cpu)
        raise
    finally:
        await generator.aclose()
    here.end(call, failed=False, steps=cpu)


class _Steps:
    """Awaits something, and adds up the thread time of its steps."""

    __slots__ = ("awaitable", "cpu")

    def __init__(self, awaitable: Any) -> None:
        self.awaitable = awaitable
        self.cpu = 0  # nanoseconds

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.awaitable.__await__()
        answer: Any = None
        error: BaseException | None = None
        while True:
            started = thread_time_ns()
            try:
                asked = inner.send(answer) if error is None else inner.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                self.cpu += thread_time_ns() - started
            try:
                answer, error = (yield asked), None
            except BaseException as thrown:  # noqa: BLE001 - cancellation too belongs to the coroutine
                answer, error = None, thrown
