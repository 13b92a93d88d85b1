"""The embedded engine: old and modern Rego, changes while serving, and policies that would never end."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from issuing import LETTER

from raycluster.errors import InvalidUse, MissingPackage
from raycluster.govern import rego
from raycluster.govern.decision import LIMIT_SECONDS, Undecided, decide
from raycluster.govern.rego import Rego

MODERN = """package data.access.policy

default allow := false

allow if {
    input.method == "GET"
    some role in input.user.roles
    input.path[1] in data.grants[role]
}

rowFilters contains {"expression": sprintf("team = '%s'", [input.user.team])} if not "auditor" in input.user.roles

columnMask := {"expression": "NULL"} if {
    input.column.name in {"text", "features.width"}
    not "auditor" in input.user.roles
}
"""
GRANTS = {"grants": {"reader": ["photos"], "auditor": ["photos", "calls"]}}
COLUMNS = [{"name": name, "type": "string"} for name in ("id", "text", "features", "features.width")]
# Ten million turns: seconds, for whoever is not known to be good.
SLOW = """
slow if {
    input.user.subject == "slow"
    count([a | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a == b + 1]) > 0
}
allow if slow
"""


def question(method: str, name: str, *roles: str, **more) -> dict:
    user = {"subject": "ada", "roles": list(roles), "team": "discovery", **more.pop("user", {})}
    return {"method": method, "path": ["data", name], "user": user, **more}


@pytest.fixture
def serve(tmp_path):
    """Return what opens an engine on the text of a policy, and closes it after the test."""
    engines = []

    def make(text: str, name: str = "policy.rego", **options) -> Rego:
        (tmp_path / name).write_text(text)
        engines.append(Rego(str(tmp_path / name), **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def allows(engine: Rego, *asked, **more) -> bool:
    return decide(engine.ask(question(*asked, **more))[0]).allowed


def test_the_policy_works_to_the_letter(serve):
    engine = serve(LETTER)
    for _ in range(2):
        assert allows(engine, "GET", "customer_demographics", "other", "data_scientist")
        assert allows(engine, "POST", "anonymized_transactions", "data_engineer")
        assert not allows(engine, "POST", "customer_demographics", "data_scientist")
        assert not allows(engine, "GET", "customer_demographics", "data_engineer")
        assert not allows(engine, "GET", "anonymized_transactions", "data_engineer")
        assert not allows(engine, "GET", "customer_demographics")
        longer = question("GET", "customer_demographics", "data_scientist")
        longer["path"].append("rows")
        assert not decide(engine.ask(longer)[0]).allowed


def test_modern_rego_with_data_filters_and_masks(tmp_path):
    (tmp_path / "access.rego").write_text(MODERN)
    (tmp_path / "data.json").write_text(json.dumps(GRANTS))
    (tmp_path / "access_test.rego").write_text("package data.access.policy_test\nthis is no Rego")
    engine = Rego(str(tmp_path))
    try:
        for _ in range(2):
            seen = decide(engine.ask(question("GET", "photos", "reader", columns=COLUMNS))[0])
            assert seen.allowed
            assert seen.filters == ("team = 'discovery'",)
            assert seen.masks == {"text": "NULL", "features.width": "NULL"}
            assert decide(engine.ask(question("GET", "photos", "auditor", columns=COLUMNS))[0]) == decide(
                {"allow": True}
            )
            assert not allows(engine, "GET", "calls", "reader", columns=COLUMNS)
    finally:
        engine.close()


def test_files_of_old_and_of_modern_rego_beside_each_other(tmp_path):
    (tmp_path / "a.rego").write_text(LETTER)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.rego").write_text(
        "package data.access.policy\nallow if data.open[_] == input.path[1]\nrowFilters contains 'x' if false".replace(
            "'x'", '"x"'
        )
    )
    (tmp_path / "data.yaml").write_text("open: [weather]\n")
    engine = Rego(str(tmp_path))
    try:
        assert allows(engine, "GET", "weather")
        assert allows(engine, "GET", "customer_demographics", "data_scientist")
        assert not allows(engine, "GET", "customer_demographics")
    finally:
        engine.close()


def test_a_revision_is_of_the_contents_wherever_they_lie(tmp_path, serve):
    engine = serve(LETTER)
    revision = engine.revision
    assert len(revision) == 12
    shutil.copytree(tmp_path, tmp_path / "copy")
    copy = Rego(str(tmp_path / "copy" / "policy.rego"))
    try:
        assert copy.revision == revision
        assert engine.ask(question("GET", "x"))[1] == revision
    finally:
        copy.close()
    assert serve(LETTER + "# more\n").revision != revision


BROKEN = {
    "no Rego": ("hello", "policy.rego:1:1"),
    "a bracket": (LETTER + "allow {", "policy.rego:5:7"),
    "a modern mistake": (MODERN + "allow if {{", "policy.rego:17:"),
    "an unknown name": ("package data.access.policy\nallow if nobody", "policy.rego:2:10"),
    "an unknown function": ("package data.access.policy\nallow if nothing(1)", "could not find function nothing"),
    "going round": ("package data.access.policy\nallow if other\nother if allow", "recursion"),
    "two answers": ("package data.access.policy\nallow := 1\nallow := 2", "conflict"),
    "another package": ("package access.policy\nallow if true", "package data.access.policy"),
    "nothing": ("", "policy.rego:1:1"),
    "endless": ("package data.access.policy\nallow if { slow }" + SLOW.replace('"slow"', '"trial"'), "more than 1 s"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_policy_that_is_broken_at_the_start_is_an_error(serve, text, said):
    with pytest.raises(InvalidUse) as caught:
        serve(text)
    assert said in str(caught.value)
    assert "Stack backtrace" not in str(caught.value)
    assert "see docs/access.md" in caught.value.fix


def test_a_policy_that_eats_memory_is_ended(serve):
    text = "package data.access.policy\nallow if count(numbers.range(1, 200000000)) > 1"
    with pytest.raises(InvalidUse, match=r"was ended|memory"):
        serve(text)


def test_files_that_are_not_there_or_wrong(tmp_path, serve):
    with pytest.raises(InvalidUse, match="cannot be read"):
        Rego(str(tmp_path / "absent.rego"))
    with pytest.raises(InvalidUse, match=r"holds no \.rego file"):
        Rego(str(tmp_path))
    (tmp_path / "p.rego").write_text(LETTER)
    for name, text in (("data.json", "{"), ("data.yaml", "a: 2020-01-01"), ("data.yaml", "- a"), ("data.yml", "{")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidUse, match=name):
            Rego(str(tmp_path))
        (tmp_path / name).unlink()
    (tmp_path / "p.rego").write_bytes(b"\xff")
    with pytest.raises(InvalidUse, match="cannot be read"):
        Rego(str(tmp_path))


def test_without_an_engine_nothing_is_served(tmp_path, monkeypatch):
    monkeypatch.setattr(rego, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="gordon-to-regorus") as caught:
        Rego(str(tmp_path))
    assert "pip install" in caught.value.fix


def test_a_changed_policy_is_in_force_without_a_restart_and_a_broken_one_never(tmp_path, serve, caplog):
    engine = serve(LETTER, every=0)
    path = tmp_path / "policy.rego"
    first = engine.revision
    for _ in range(3):
        assert allows(engine, "GET", "customer_demographics", "data_scientist")
    path.write_text(LETTER.replace("data_scientist", "doctor"))
    assert not allows(engine, "GET", "customer_demographics", "data_scientist")
    assert allows(engine, "GET", "customer_demographics", "doctor")
    second = engine.revision
    assert second != first
    path.write_text(LETTER + "allow {")
    assert allows(engine, "GET", "customer_demographics", "doctor")
    assert engine.revision == second
    assert "the policy is broken" in engine.problem
    assert "what was read before stays in force" in caplog.text
    path.unlink()
    assert not allows(engine, "GET", "customer_demographics", "data_scientist")
    assert "cannot be read" in engine.problem
    path.write_text(LETTER)
    assert allows(engine, "GET", "customer_demographics", "data_scientist")
    assert (engine.revision, engine.problem) == (first, None)


def test_nothing_is_left_of_replaced_policies(tmp_path, serve):
    engine = serve(LETTER, every=0)
    processes = []
    for number in range(3):
        processes.append(engine._files.value._process)
        (tmp_path / "policy.rego").write_text(f"{LETTER}# {number}\n")
        engine.ask(question("GET", "x"))
    until = time.monotonic() + 5
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(process.returncode is not None for process in processes)


def test_a_policy_that_takes_too_long_is_ended_and_others_go_on(serve):
    engine = serve(MODERN + SLOW)
    turns, is_done = [], threading.Event()

    def turn() -> None:
        while not is_done.wait(0.01):
            turns.append(time.monotonic())

    other = threading.Thread(target=turn)
    other.start()
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(Undecided, match="more than 1 s"):
            engine.ask(question("GET", "photos", user={"subject": "slow"}))
    took = time.monotonic() - began
    is_done.set()
    other.join()
    assert took < 60
    # Python went on all the while: nobody else waited.
    assert max(after - before for before, after in pairwise(turns)) < LIMIT_SECONDS
    assert not allows(engine, "GET", "photos", "reader")


def test_a_question_that_fails_is_undecided_each_time_and_the_next_is_answered(serve):
    engine = serve("package data.access.policy\nallow := 1 / (count(input.user.roles) - 2) == 1\n")
    for _ in range(3):
        with pytest.raises(Undecided, match="divide by zero"):
            engine.ask(question("GET", "x", "one", "two"))
    assert allows(engine, "GET", "x", "one", "two", "three")


def test_threads_get_their_own_answers(serve):
    engine = serve(LETTER)

    def ask(number: int) -> bool:
        role = "data_scientist" if number % 2 else "data_engineer"
        return allows(engine, "GET", "customer_demographics", role, str(number % 20)) == bool(number % 2)

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, range(600)))


def test_a_policys_process_that_dies_is_started_anew(serve):
    engine = serve(LETTER)
    engine._files.value._process.kill()
    engine._files.value._process.wait()
    assert allows(engine, "GET", "customer_demographics", "data_scientist")


def test_what_is_closed_answers_nobody(serve):
    engine = serve(LETTER)
    engine.close()
    with pytest.raises(Undecided, match="closed"):
        engine.ask(question("GET", "x"))
