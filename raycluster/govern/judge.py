"""A process by itself evaluates a Rego policy, question by question: `rego.py` starts it and ends it.

The engine (regorus, gordon-to-regorus 0.13) belongs to the thread that made it, holds Python's lock while it evaluates,
and cannot be interrupted: in the process that serves, a policy that takes seconds would stop everything (measured: 6 s
of evaluation, in which no other thread ran). Here it stops nothing, and the kernel ends it after a second of
CPU time, or when it takes too much memory.

One JSON line in, one out; the first line in is the policy. Nothing of raycluster is imported: it is ready after 50 ms.
"""

import json
import resource
import signal
import socket
import sys
from collections.abc import Iterator
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
_TRIAL = '{"method": "GET", "path": ["data", "trial"], "user": {"subject": "trial", "roles": ["trial"], "team": "t"}}'


class Policy(TypedDict):
    """A policy's files, read."""

    modules: list[tuple[str, str]]  # name and text of each .rego file
    data: list[Any]  # what they see as `data`
    load_seconds: float  # of CPU time that reading it may take
    seconds: float  # of CPU time that one answer may take


def _load(policy: Policy) -> Any:
    """Return an engine that has a policy in it.

    Raises:
        RuntimeError: the engine does not take it.
        ValueError: nothing of it will ever be asked.
    """
    import regorus

    engine = regorus.Engine()
    engine.add_policy("raycluster", _QUESTION)
    packages = set()
    for name, text in policy["modules"]:
        is_old, tree = _parsed(name, text)
        engine.set_rego_v0(is_old)
        packages.add(engine.add_policy(name, _mended(text, tree)))
    if "data.data.access.policy" not in packages:
        raise ValueError("no file of it begins with `package data.access.policy`")
    for document in policy["data"]:
        engine.add_data_json(json.dumps(document))
    return engine


def _parsed(name: str, text: str) -> tuple[bool, Any]:
    """Return whether a file is written for OPA 0 rather than OPA 1, and its tree."""
    import regorus

    refused = []
    for is_old in (False, True):
        engine = regorus.Engine()
        engine.set_rego_v0(is_old)
        try:
            engine.add_policy(name, text)
            return is_old, json.loads(engine.get_ast_as_json())
        except RuntimeError as error:
            # Its text, not itself: an error knows this frame, and a frame that knows its error is a circle, which
            # the collector ends in any thread. An engine must end in its own.
            refused.append(str(error))
    raise RuntimeError(max(refused, key=_line))  # whichever came further is what it was meant to be


def _mended(text: str, tree: Any) -> str:
    """Write each `not E` as `[1 | E] == []`, which means the same in Rego and is evaluated right.

    regorus (0.9, 0.13) takes the turns of what is negated around the `not` instead of within it. So
    `not input.fewer[i]; input.numbers[i]` fails where it holds in OPA, and `not input.user.roles[_] == "banned"`, which
    OPA refuses, holds if one role is another. The test says when this can be deleted.
    """
    source, changes = text.encode(), []
    for negation in _negations(tree):
        start, end = negation["span"]["start"], negation["span"]["end"]
        end += source[end : end + 1] in (b'"', b"`")  # the span of a text leaves its last quote out
        changes += [(start, start + len("not"), b"[1 |"), (end, end, b"] == []")]
    for start, end, new in sorted(changes, reverse=True):  # from the end, so that the places before stay right
        source = source[:start] + new + source[end:]
    return source.decode()


def _negations(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield what is negated in a tree, wherever."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, part in parts:
        if name == "NotExpr":
            yield part
        yield from _negations(part)


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


def _line(message: str) -> int:
    """Return the line that an error is about: it begins with `--> name:line:column`."""
    parts = message.strip().partition("\n")[0].split(":")
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
                    signal.setitimer(signal.ITIMER_PROF, policy["load_seconds"])
                    engine = _load(policy)
                # The kernel ends this process when its time is up, also when whoever asked is gone.
                signal.setitimer(signal.ITIMER_PROF, policy["seconds"])
                answer = _ask(engine, document)
            except (RuntimeError, ValueError, ImportError) as error:
                answer = {"error": _plain(error)}
            signal.setitimer(signal.ITIMER_PROF, 0)
            file.write(json.dumps(answer).encode() + b"\n")
            file.flush()
            document = file.readline().decode()


if __name__ == "__main__":
    main()
