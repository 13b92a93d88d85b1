"""Work sent to a real cluster with token authentication: followed, stopped, taken up again, refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from click.testing import CliRunner
from heads import Head, head

from raycluster import cli
from raycluster.cluster.job import Job, JobFailed, Transcript, status
from raycluster.lake.lake import Lake
from raycluster.read.files import Files
from raycluster.row import object_id, row_id

SECRET = "n0-b0dy-r3ads-th1s"
STAGE = '''
import hashlib, os, time
from dataclasses import dataclass
from private_stages import Marking


@dataclass(frozen=True, kw_only=True)
class Sealed(Marking):
    """Marks each text with what only the nodes and the sender know."""

    def encoder(self):
        seal = hashlib.sha256(os.environ["SOURCE_PASSWORD"].encode()).hexdigest()[:8]
        return lambda texts: {"mark": [f"{os.environ['GREETING']} {seal}" for _ in texts]}


@dataclass(frozen=True, kw_only=True)
class Patient(Marking):
    """Takes its time, until the gate is open."""

    def encoder(self):
        def mark(texts):
            if not os.path.exists(os.environ["GATE"]):
                time.sleep(0.5 * len(texts))
            return {"mark": list(texts)}

        return mark
'''


@pytest.fixture(scope="module")
def there() -> Iterator[Head]:
    """A cluster whose nodes know a secret, name no lake, and have nothing of ours in their PATH."""
    with head(environment={"PATH": "/usr/bin:/bin", "SOURCE_PASSWORD": SECRET}) as found:
        yield found


def declared(folder: Path, use: str, **more: object) -> Path:
    spec = {
        "source": {"files": {"paths": [str(folder / "corpus")]}},
        "decode": {"text": {}},
        "encode": [{"use": use, "timeout": "20s"}],
        "sink": {"dataset": "d"},
        **more,
    }
    metadata = {"name": "sent", "labels": {"team": "t", "project": "p"}}
    whole = {"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec}
    (folder / "work").mkdir(exist_ok=True)
    (folder / "work" / "w.yaml").write_text(yaml.safe_dump(whole))
    (folder / "work" / "sealing.py").write_text(STAGE)
    return folder / "work" / "w.yaml"


def fill(folder: Path, count: int) -> None:
    (folder / "corpus").mkdir(exist_ok=True)
    for index in range(count):
        (folder / "corpus" / f"t{index:03d}.txt").write_text(f"word{index} and some more\n")


def ids(folder: Path, version: str | None = "live") -> list[str]:
    found: list[str] = Lake(str(folder / "lake")).table("d").open(version).to_table(columns=["id"])["id"].to_pylist()
    return found


def expected(folder: Path) -> list[str]:
    listed = [one for batch in Files(paths=(str(folder / "corpus"),)).objects() for one in batch.to_pylist()]
    return sorted(row_id(object_id(one["uri"], one["version"]), "text", 0) for one in listed)


def words(*given: object) -> list[str]:
    return [sys.executable, "-m", "raycluster", *map(str, given)]


def call(there: Head, *given: object, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**there.environment, "RAY_ADDRESS": there.dashboard, **environment}
    return subprocess.run(words(*given), env=environment, capture_output=True, text=True, timeout=240)


class Forward:
    """A connection to the dashboard that can be cut, as a tunnel's can."""

    def __init__(self, dashboard: str) -> None:
        self.port = int(dashboard.rpartition(":")[2])
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        self.open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> int:
        """Cut all connections through it; return how many there were."""
        count = 0
        while self.open:
            one = self.open.pop()
            count += 1
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                count -= 1
            one.close()
        return count

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self.door.accept()
            except OSError:
                return
            callee = socket.create_connection(("127.0.0.1", self.port))
            self.open += [caller, callee]
            for source, target in ((caller, callee), (callee, caller)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while found := source.recv(65536):
                target.sendall(found)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def forward(there: Head) -> Iterator[Forward]:
    made = Forward(there.dashboard)
    yield made
    made.door.close()
    made.cut()


class Following:
    """A command that follows a job, as a terminal runs it."""

    def __init__(self, there: Head, log: Path, *given: object, address: str = "") -> None:
        self.log = log
        environment = {**there.environment, "RAY_ADDRESS": address or there.dashboard}
        with log.open("w") as err:
            self.process = subprocess.Popen(
                words(*given), env=environment, stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True
            )

    def wait_until(self, come: Callable[[str], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not come(self.log.read_text()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=120)
        assert "Traceback" not in self.log.read_text()
        return out


@pytest.fixture
def following() -> Iterator[Callable[..., Following]]:
    made: list[Following] = []

    def start(*given: Any, **named: Any) -> Following:
        made.append(Following(*given, **named))
        return made[-1]

    yield start
    for one in made:
        with one.process:
            one.process.kill()


def some_done(text: str) -> bool:
    return any(int(done) >= 2 for done in re.findall(r"(\d+)/\d+ objects", text))


def asked(there: Head, path: str) -> requests.Response:
    return requests.get(f"{there.dashboard}{path}", headers={"Authorization": f"Bearer {there.token}"}, timeout=30)


def test_a_transcript_is_lines_and_one_document() -> None:
    told: list[str] = []
    transcript = Transcript(told.append)
    document = {"run_id": "r", "dataset": "d", "status": "done"}
    log = 'one\n{"not": "ours"}\n{ no json\n' + json.dumps(document) + "\nthe end, without a line's"
    for at in range(0, len(log), 7):
        transcript.add(log[at : at + 7])
    transcript.close()
    assert told == ["one", '{"not": "ours"}', "{ no json", "the end, without a line's"]
    assert transcript.document == document


@pytest.mark.parametrize(("ended", "code", "expect"), [("done", 0, 0), ("failed", 1, 1), ("failed", 2, 2)])
def test_an_exit_status_is_the_runs(ended: str, code: int, expect: int) -> None:
    assert status(Job(job_id="j", status=ended, exit_code=code), {"run_id": "r"}) == expect


@pytest.mark.parametrize(
    ("code", "message", "said", "expect"),
    [
        (2, "Job entrypoint command failed", "exit status 2", 2),
        (137, "Job entrypoint command failed", "exit status 137", 1),
        (None, "setup failed:\n  File x\nValueError: no team", "setup failed: ... ValueError: no team", 1),
    ],
)
def test_a_job_that_ends_without_a_word(code: int | None, message: str, said: str, expect: int) -> None:
    with pytest.raises(JobFailed, match=said) as caught:
        status(Job(job_id="j", status="failed", exit_code=code, message=message), None)
    assert caught.value.exit_code == expect


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("ray://head:10001", 2, "'ray://head:10001' is no address of a dashboard"),
        ("auto", 2, "'auto' is no address of a dashboard"),
        ("http://127.0.0.1:1", 1, "no cluster's job API answers at http://127.0.0.1:1"),
    ],
)
def test_nobody_there(address: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    done = CliRunner().invoke(cli.main, ["jobs"])
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert "fix:" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tokens(there: Head, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("f" * 64)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    for given, right in (
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": there.token}, True),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)}, False),
        ({"RAY_AUTH_MODE": "disabled"}, False),
    ):
        command = words("jobs", "--address", there.dashboard, "--json")
        done = subprocess.run(command, env={**bare, **given}, capture_output=True, text=True, timeout=60)
        assert done.returncode == (0 if right else 1), done.stderr
        if not right:
            error = json.loads(done.stdout)["error"]
            assert error["code"] == "unauthenticated"
            assert "RAY_AUTH_TOKEN_PATH" in error["fix"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_work_is_sent_and_no_secret_is_told(there: Head, tmp_path: Path) -> None:
    fill(tmp_path, 3)
    file, prices = declared(tmp_path, "sealing:Sealed"), tmp_path / "prices.yaml"
    price = {
        "metadata": {"name": "sent-along", "version": "1"},
        "spec": {"currency": "USD", "cpu_hour": 1, "gib_hour": 0},
    }
    prices.write_text(yaml.safe_dump({"apiVersion": "raycluster/v1", "kind": "Prices", **price}))
    done = call(there, "submit", file, "--lake", tmp_path / "lake", "--prices", prices, "--env", "GREETING=hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done  run ")
    assert "3 objects: 3 rows committed" in done.stdout
    assert "sent: 3 objects to do, 0 already done" in done.stderr
    assert f"{tmp_path}/lake is a folder" in done.stderr
    assert re.search(r"sending 3 files, \d+", done.stderr)

    table = Lake(str(tmp_path / "lake")).table("d").open("live").to_table(columns=["id", "mark"]).to_pydict()
    assert sorted(table["id"]) == expected(tmp_path)
    assert set(table["mark"]) == {f"hello {hashlib.sha256(SECRET.encode()).hexdigest()[:8]}"}

    run_id = done.stdout.split()[2]
    details = asked(there, f"/api/jobs/raycluster-{run_id}").json()
    named = {"team": "t", "project": "p", "workload": "sent", "run_id": run_id}
    assert details["metadata"].items() >= named.items()
    assert details["driver_exit_code"] == 0
    here = [["costs", "--by", "team"], ["runs", "--json"], ["runs", run_id, "--json"]]
    costs, *runs = (CliRunner().invoke(cli.main, [*given, "--lake", str(tmp_path / "lake")]).output for given in here)
    assert "sent-along" in costs
    assert json.loads(runs[1])["status"] == "done"

    places = [tmp_path / "lake", there.folder]  # all that the job left, and all that Ray has logged
    seen = [path for place in places for path in place.rglob("*") if path.is_file() and path.name != "token"]
    assert len(seen) > 20
    assert not [path for path in seen if SECRET.encode() in path.read_bytes()]
    listed = call(there, "jobs").stdout
    row = next(line for line in listed.splitlines() if run_id in line)
    assert row.split()[1:4] == ["sent", "t", "done"]
    log = asked(there, f"/api/jobs/raycluster-{run_id}/logs").text
    assert "3 objects to do" in log
    assert SECRET not in "".join([listed, log, json.dumps(details), costs, *runs])

    said = call(there, "stop", run_id)
    assert (said.returncode, said.stdout) == (0, f"raycluster-{run_id} had ended already: done\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_that_fail_and_jobs_of_others(there: Head, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {there.token}"}
    for name, entrypoint in (("well", "echo fine"), ("ill", "echo bad; exit 7")):
        body = {"entrypoint": entrypoint, "submission_id": name, "metadata": {"team": "x"}}
        requests.post(f"{there.dashboard}/api/jobs/", json=body, headers=headers, timeout=30).raise_for_status()
    fill(tmp_path, 1)
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"")
    file = declared(tmp_path, "private_stages:Marking", check={"budget": {"count": 0}})
    nowhere = call(there, "submit", file)
    assert nowhere.returncode == 2
    assert "its nodes name no lake: give --lake" in nowhere.stderr
    failed = call(there, "submit", file, "--lake", tmp_path / "lake", "--json")
    assert failed.returncode == 1
    error = json.loads(failed.stdout)["error"]
    assert error["code"] == "run_failed"
    assert "1 of 2 objects are bad" in error["message"]
    assert "raycluster quarantine d" in failed.stderr  # its log, which told it too

    well = call(there, "jobs", "well", "--follow", "--json")
    assert (well.returncode, json.loads(well.stdout)["status"]) == (0, "done")
    assert "fine" in well.stderr.splitlines()
    ill = call(there, "jobs", "ill", "--follow")
    assert ill.returncode == 1
    assert "job ill failed, exit status 7" in ill.stderr
    unknown = call(there, "stop", "wall")
    assert unknown.returncode == 2
    assert "did you mean 'well'?" in unknown.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cut_off_left_stopped_and_taken_up_again(
    there: Head, forward: Forward, following: Callable[..., Following], tmp_path: Path
) -> None:
    count, gate = 300, tmp_path / "open"
    fill(tmp_path, count)
    file = declared(tmp_path, "sealing:Patient")
    sending = ("submit", file, "--lake", tmp_path / "lake", "--env", f"GATE={gate}")
    first = following(there, tmp_path / "first", *sending, address=forward.address)
    first.wait_until(lambda text: "objects to do" in text)
    assert forward.cut()
    first.wait_until(some_done)
    assert forward.cut()
    (job_id,) = set(re.findall(r"raycluster-\d+-\d+-\w+", first.log.read_text()))
    second = following(there, tmp_path / "second", "jobs", job_id, "--follow", "--json")
    second.wait_until(some_done)

    first.process.send_signal(signal.SIGINT)
    out = first.end()
    assert (first.process.returncode, out.split()[1]) == (1, job_id)
    said = first.log.read_text()
    assert f"stop it: raycluster stop {job_id}" in said
    assert asked(there, f"/api/jobs/{job_id}").json()["status"] == "RUNNING"

    stopped = call(there, "stop", job_id)
    assert (stopped.returncode, stopped.stdout) == (0, f"{job_id} has ended: stopped\n")
    summary = json.loads(second.end())
    assert (second.process.returncode, summary["status"]) == (1, "stopped")
    assert 2 <= summary["rows"] < count
    assert Lake(str(tmp_path / "lake")).runs().recent()[0].status == "stopped"
    kept = ids(tmp_path, None)
    assert len(kept) == len(set(kept)) == summary["rows"]

    # What the first one told, through two broken connections, is what the log says: no line twice, none missing.
    log = asked(there, f"/api/jobs/{job_id}/logs").json()["logs"].splitlines()
    whole = [line.replace("\t", " ") for line in log if not line.startswith(("{", "Running entrypoint"))]
    told = [line for line in said.splitlines() if line in whole]
    assert len(told) >= 3
    assert told == whole[: len(told)]

    gate.touch()
    again = call(there, *sending, "--detach", "--json")
    assert again.returncode == 0, again.stderr
    sent = json.loads(again.stdout)
    assert sent["job_id"] == f"raycluster-{sent['run_id']}"
    deadline = time.monotonic() + 120
    while (ended := asked(there, f"/api/jobs/{sent['job_id']}").json()["status"]) in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert ended == "SUCCEEDED"
    done = Lake(str(tmp_path / "lake")).runs().get(sent["run_id"]).summary
    assert (done["skipped"], done["rows"]) == (len(kept), count - len(kept))
    assert sorted(ids(tmp_path)) == expected(tmp_path)
