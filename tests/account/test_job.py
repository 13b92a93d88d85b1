"""What a driver gives to `ray.init` has a meter in every worker afterwards, beside what it had; nobody works unpaid."""

import json
import sys
from typing import Any

import pytest
from ray import cloudpickle

from raycluster.account import hook, job
from raycluster.account.hook import HOOK, VARIABLE
from raycluster.account.job import SUBMITTED, payer, runtime_env
from raycluster.account.owners import Owner, told
from raycluster.errors import InvalidUse

done: list[str] = []


def theirs() -> None:
    done.append("theirs")


@pytest.fixture(autouse=True)
def metered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note that a worker was metered, instead of metering this process."""
    done.clear()
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.setattr(hook, "install", lambda: done.append("metered"))


@pytest.mark.parametrize("given", [None, {}, {"worker_process_setup_hook": HOOK}])
def test_a_driver_that_gives_no_hook_gets_ours(given: dict[str, Any] | None) -> None:
    assert runtime_env(given) == {"worker_process_setup_hook": HOOK}


def test_what_else_it_gives_stays_and_its_own_value_is_not_changed() -> None:
    given = {"env_vars": {"A": "b"}, "working_dir": "."}
    assert runtime_env(given) == {**given, "worker_process_setup_hook": HOOK}
    assert "worker_process_setup_hook" not in given


@pytest.mark.parametrize("own", [theirs, f"{__name__}.theirs"], ids=["function", "name"])
def test_a_hook_of_its_own_comes_after_ours(own: Any) -> None:
    made = runtime_env({"worker_process_setup_hook": own})["worker_process_setup_hook"]
    made()
    assert done == ["metered", "theirs"]


@pytest.mark.parametrize("place", ["conda", "container", "image_uri", "py_executable"])
def test_a_python_without_this_package_works_all_the_same(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runtime_env({place: "theirs", "worker_process_setup_hook": HOOK})["worker_process_setup_hook"]
    sent = cloudpickle.dumps(made)
    for name in [name for name in sys.modules if name.partition(".")[0] == "raycluster"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "raycluster", None)
    cloudpickle.loads(sent)()
    assert done == []


def test_a_variable_that_is_set_is_left_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert runtime_env({"env_vars": {VARIABLE: "x.y"}}) == {"env_vars": {VARIABLE: "x.y"}}
    assert "their calls are not told apart" in caplog.text
    caplog.clear()
    assert runtime_env({"env_vars": {VARIABLE: HOOK}}) == {"env_vars": {VARIABLE: HOOK}}
    assert not caplog.text


@pytest.mark.parametrize("metadata", [{}, {"project": "p"}, {"team": ""}])
def test_a_submitted_job_without_a_team_is_refused(metadata: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED, json.dumps({"runtime_env": {}, "metadata": metadata}))
    with pytest.raises(InvalidUse, match="names no team") as refused:
        runtime_env({})
    assert 'ray job submit --metadata-json \'{"team": "NAME"}\'' in refused.value.fix
    assert "raycluster submit" in refused.value.fix


def test_a_submitted_job_with_a_team_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUBMITTED, json.dumps({"metadata": {"team": "red"}}))
    assert runtime_env({}) == {"worker_process_setup_hook": HOOK}


def test_who_pays_for_a_submitted_driver() -> None:
    words = {"team": "red", "project": "p", "environment": "e", "workload": "w", "run_id": "r", "job_name": "n"}
    owner = Owner(team="red", project="p", environment="e", workload="w", run_id="r")
    assert payer(json.dumps({"metadata": words})) == owner == told(words)
    assert payer(json.dumps({"runtime_env": {}})) == Owner()
    assert payer(None) is None
    for other in ("no JSON", "[]", "1"):
        assert payer(other) is None


def test_ray_finds_it_by_its_name() -> None:
    from ray._common.utils import load_class

    assert load_class("raycluster.account.job.runtime_env") is job.runtime_env
