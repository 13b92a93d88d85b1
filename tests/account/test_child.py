"""A child of a metered worker is metered as the worker is: same owner, same job, same attempt."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import burns
import pytest

from raycluster.account import child, hook, meter, slots
from raycluster.account.child import Parent
from raycluster.account.meter import Meter
from raycluster.account.slots import CALLS, CPU, ROWS_OUT, Tape


def work(parent: Parent | None, seconds: float) -> None:
    child.adopt(parent)
    hook.bracketed(in_stages)(seconds)


def in_stages(seconds: float) -> None:
    burns.burn(seconds / 3)
    meter.lap("minilm", {"text": 1})
    burns.burn(seconds)
    meter.count(rows_out=7)


def spawned(parent: Parent | None, seconds: float) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(parent, seconds))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    return process.pid


@pytest.mark.parametrize(("attempt", "outcome"), [(0, "ok"), (1, "retried")])
def test_a_child_tells_what_it_does(tmp_path: Path, attempt: int, outcome: str) -> None:
    owner = {"team": "t", "run_id": "r"}
    parent = Parent(tapes=tmp_path, node="n", owner=owner, job=b"\0\0\0\7", task="Map", attempt=attempt)
    reading = slots.read(tmp_path / str(spawned(parent, 0.3)))
    assert reading is not None
    assert (reading.job, reading.owner) == ("00000007", {"node": "n", **owner})
    stage = reading.sums["minilm", "text", outcome]
    assert stage[CPU] / 1e9 == pytest.approx(0.3, abs=0.03)
    assert (stage[CALLS], stage[ROWS_OUT]) == (1, 7)
    assert reading.sums["Map", "", outcome][CPU] / 1e9 == pytest.approx(0.1, abs=0.03)


def test_a_child_of_a_process_without_meter_has_none(tmp_path: Path) -> None:
    assert child.parent() is None
    spawned(None, 0.0)
    assert not list(tmp_path.iterdir())


def test_a_worker_describes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(
        get_current_job_id=lambda: SimpleNamespace(binary=lambda: b"\0\0\0\1"),
        get_current_task_name=lambda: "Map",
        get_current_task_attempt_number=lambda: 2,
    )
    tape = Tape(tmp_path / "tape", node="n")
    tape.own({"team": "t"})
    monkeypatch.setattr(meter._Process, "meter", Meter(tape, SimpleNamespace(core_worker=core)))
    told = Parent(tapes=tmp_path, node="n", owner={"team": "t"}, job=b"\0\0\0\1", task="Map", attempt=2)
    assert child.parent() == told
    child.adopt(told)  # it is metered already
    assert [path.name for path in tmp_path.iterdir()] == ["tape"]
