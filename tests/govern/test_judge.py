"""What is not so: the engine's own `not` is wrong inside a turn through a list, and is written so that it is right."""

from __future__ import annotations

import gc
import json
import sys
import threading

import pytest
import regorus

from raycluster.govern import judge

ROLES = ([], ["reader"], ["banned"], ["reader", "banned"], ["banned", "reader"])


def evaluate(body: str, roles: list[str], head: str = "allow if") -> bool:
    lines = ["package data.access.policy", "# é: bytes are no letters", 'is_banned(role) := role == "banned"']
    text = "\n".join([*lines, f"{head} {{ {body} }}\n"])
    policy = judge.Policy(modules=[("p.rego", text)], data=[], load_seconds=1, seconds=1)
    asked = {"user": {"roles": roles, "team": "é"}, "numbers": [1, 2], "fewer": [1]}
    return judge._ask(judge._load(policy), json.dumps(asked))["policy"].get("allow", False)


# Each holds for exactly those who are not banned.
NOT_BANNED = [
    'not input.user.roles[_] == "banned"',
    'not "banned" == input.user.roles[_]',
    "not `banned` == input.user.roles[_]",
    "not is_banned(input.user.roles[_])",
    'not startswith(input.user.roles[_], "ban")',
    'not (input.user.roles[_] == "banned")',
    'not {role | role := input.user.roles[_]}["banned"]',
    'count([1 | input.user.roles[_] == "banned"; not input.nothing]) == 0',
    'input.user.team == "é"; not input.user.roles[_] == "banned"; not input.nothing',
    'not\n  # a word between\n  input.user.roles[_] == "banned"',
    'not [role | role := input.user.roles[_]; not role == "reader"][_] == "banned"',
    'not input.other[_] == "banned" with input.other as input.user.roles',
]


@pytest.mark.parametrize("body", NOT_BANNED)
@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_not_is_about_the_whole_turn(body, roles):
    assert evaluate(body, roles) is ("banned" not in roles)


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_not_in_old_rego(roles):
    assert evaluate('not input.user.roles[_] == "banned"', roles, head="allow") is ("banned" not in roles)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("not input.nothing", True),
        ("not input.user.team", False),
        ("not not_there", True),
        ("input.numbers[i]; not input.fewer[i]", True),
        ("not input.fewer[i]; input.numbers[i]", True),
        ("input.fewer[i]; not input.numbers[i]", False),
        ("not input.numbers[0] == 2; not input.numbers[1] == 1", True),
    ],
    ids=str,
)
def test_not_of_one_value(body, expected):
    body = body.replace("not_there", "input.not_there")
    assert evaluate(body, []) is expected


def test_the_engine_still_needs_it():
    # When this fails, `judge._mended` can go. OPA 1 says true to the first, and refuses the second as unsafe.
    for body, said in (("not input.fewer[i]; input.numbers[i]", None), ('not input.roles[_] == "banned"', True)):
        engine = regorus.Engine()
        engine.add_policy("p.rego", f"package a\nallow if {{ {body} }}")
        engine.set_input({"roles": ["reader", "banned"], "numbers": [1, 2], "fewer": [1]})
        assert engine.eval_rule("data.a.allow") is said


def test_an_engine_ends_in_the_thread_that_made_it(monkeypatch):
    """What is left to the collector ends in any thread, and an engine refuses to."""
    old = judge.Policy(
        modules=[("old.rego", "package data.access.policy\nallow { input.x }")], data=[], load_seconds=1, seconds=1
    )
    ended: list[str] = []
    gc.collect()
    gc.disable()
    try:
        thread = threading.Thread(target=judge._load, args=(old,))
        thread.start()
        thread.join()
        monkeypatch.setattr(sys, "unraisablehook", lambda caught: ended.append(str(caught.exc_value)))
        gc.collect()
    finally:
        gc.enable()
    assert ended == []
