"""A process by itself evaluates a Rego policy, question by question: `rego.py` starts it and ends it.

The engine (regorus, gordon-to-regorus 0.13) belongs to the thread that made it, holds Python's lock while it evaluates,
and cannot be interrupted: in the process that serves, a policy that takes seconds would stop everything (measured: 6 s
of evaluation, in which no other thread ran). Here it stops nothing, and the kernel ends it after a second, or when it
takes too much memory.

One JSON line in, one out; the first line in is the policy. Nothing of raycluster is imported: it is ready after 50 ms.
"""

import json
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, TypedDict

_MEMORY_BYTES = 1 << 30

# What is asked: the policy's whole document, and its mask for each column.
_QUESTION = """package raycluster.asked
answer := {
    "policy": data.data.access.policy,
    "masks": {column.name: mask |
        some column in input.columns
        mask := data.data.access.policy.columnMask with input.column as column
    },
}
"""
_RULE = "data.raycluster.asked.answer"
# Asked once when a policy is loaded: there are mistakes that the engine finds only when it evaluates.
_TRIAL = '{"method": "GET", "path": ["data", "trial"], "user": {"subject": "trial", "roles": [], "team": null}}'


class Policy(TypedDict):
    """A policy's files, read."""

    modules: list[tuple[str, str]]  # name and text of each .rego file
    data: list[Any]  # what they see as `data`
    load_seconds: float  # that reading it may take
    seconds: float  # that one answer may take


def _load(policy: Policy) -> Any:
    """Return an engine that has a policy in it.

    Raises:
        RuntimeError: the engine does not take it.
        ValueError: nothing of it will ever be asked.
    """
    import regorus

    engine = regorus.Engine()
    engine.add_policy("raycluster", _QUESTION)
    packages = {_add(engine, name, text) for name, text in policy["modules"]}
    if "data.data.access.policy" not in packages:
        raise ValueError("no file of it begins with `package data.access.policy`")
    for document in policy["data"]:
        engine.add_data_json(json.dumps(document))
    return engine


def _ask(engine: Any, document: str) -> dict[str, Any]:
    """Return what a policy answers to an input document: `policy`, and `masks` by column.

    Raises:
        RuntimeError: the engine cannot say.
    """
    engine.set_input_json(document)
    answer: dict[str, Any] = json.loads(engine.eval_rule_as_json(_RULE))
    return answer


def _plain(error: Exception) -> str:
    """Return an error of the engine without the places in its own source."""
    return str(error).partition("\n\nStack backtrace:")[0].strip()


def _add(engine: Any, name: str, text: str) -> str:
    """Add a file that is written for OPA 1, or else for OPA 0; return its package."""
    engine.set_rego_v0(False)
    try:
        return str(engine.add_policy(name, text))
    except RuntimeError as error:
        modern = error
    engine.set_rego_v0(True)
    try:
        return str(engine.add_policy(name, text))
    except RuntimeError as old:
        # Whichever came further is what it was meant to be.
        raise (old if _line(old) > _line(modern) else modern) from None


def _line(error: Exception) -> int:
    """Return the line that an error is about: it begins with `--> name:line:column`."""
    parts = _plain(error).partition("\n")[0].split(":")
    return int(parts[-2]) if len(parts) > 2 and parts[-2].isdigit() else 0


def main() -> None:
    """Answer until nobody asks any more."""
    with suppress(ValueError, OSError):  # where the system knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us
    with socket.socket(fileno=sys.stdin.fileno()) as line, line.makefile("rwb") as file:
        policy: Policy = json.loads(file.readline())
        engine, document = None, _TRIAL
        while document:
            try:
                if engine is None:
                    signal.setitimer(signal.ITIMER_REAL, policy["load_seconds"])
                    engine = _load(policy)
                # The kernel ends this process when its time is up, also when whoever asked is gone.
                signal.setitimer(signal.ITIMER_REAL, policy["seconds"])
                answer = _ask(engine, document)
            except (RuntimeError, ValueError, ImportError) as error:
                answer = {"error": _plain(error)}
            signal.setitimer(signal.ITIMER_REAL, 0)
            file.write(json.dumps(answer).encode() + b"\n")
            file.flush()
            document = file.readline().decode()


if __name__ == "__main__":
    main()
