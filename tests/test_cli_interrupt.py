"""A run that is told to stop keeps what is whole, leaves no process behind, and goes on when it is run again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raycluster.lake.lake import Lake
from raycluster.read.files import Files
from raycluster.row import object_id, row_id

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COMMAND = Path(sys.executable).with_name("raycluster")
OBJECTS = 60  # half a second each, in two workers


def workload(folder: Path, use: str = "private_stages:Slow") -> Path:
    """Write a workload over `folder/corpus`."""
    spec = {
        "source": {"files": {"paths": [str(folder / "corpus")]}},
        "decode": {"text": {}},
        "encode": [{"use": use, "timeout": "5s"}],
        "sink": {"dataset": "slow"},
    }
    metadata = {"name": "slow", "labels": {"team": "t"}}
    whole = {"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec}
    (folder / "w.yaml").write_text(yaml.safe_dump(whole))
    return folder / "w.yaml"


def fill(folder: Path, start: int, stop: int) -> None:
    (folder / "corpus").mkdir(exist_ok=True)
    for index in range(start, stop):
        (folder / "corpus" / f"t{index:02d}.txt").write_text(f"word{index} and some more\n")


def expected(folder: Path) -> set[str]:
    """Return the ids of an undisturbed run, from the listing alone."""
    listed = [one for batch in Files(paths=(str(folder / "corpus"),)).objects() for one in batch.to_pylist()]
    return {row_id(object_id(one["uri"], one["version"]), "text", 0) for one in listed}


def ids(folder: Path, version: str | int | None = "live") -> list[str]:
    found: list[str] = Lake(str(folder / "lake")).table("slow").open(version).to_table(columns=["id"])["id"].to_pylist()
    return found


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "run", folder / "w.yaml", "--lake", folder / "lake", "--json"]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)


def family(pid: int) -> set[int]:
    """Return a process and all that come from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has just ended
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = set(), [pid]
    while todo:
        one = todo.pop()
        found.add(one)
        todo += children.get(one, [])
    return found


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class Running:
    """A run in a session of its own, as a terminal starts it, that can be told to stop."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.log = folder / "stderr"
        command = [COMMAND, "run", folder / "w.yaml", "--lake", folder / "lake", *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )

    def wait_until(self, come: Callable[[str], bool]) -> None:
        """Wait for something on stderr."""
        deadline = time.monotonic() + 120
        while not come(self.log.read_text()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self, how: Callable[[int], None], *, agents: float = 15.0) -> str:
        """End it with a signal within seconds, see that nothing of it is left, and return its stdout."""
        members = family(self.process.pid)
        started = time.monotonic()
        how(self.process.pid)
        try:
            out, _ = self.process.communicate(timeout=60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        assert time.monotonic() - started < 20  # a few seconds, on a machine with nothing else to do
        deadline = time.monotonic() + agents
        while (left := [pid for pid in members if alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.5)
        names = [Path(f"/proc/{pid}/cmdline").read_bytes()[:80] for pid in left if alive(pid)]
        assert not names
        assert "Traceback" not in self.log.read_text()
        return out


def some_done(text: str) -> bool:
    counts = [int(done) for done in re.findall(r"(\d+)/\d+ objects", text)]
    return bool(counts) and counts[-1] >= 2


def ctrl_c(pid: int) -> None:
    """Do what a terminal does: signal everything in the foreground."""
    os.killpg(pid, signal.SIGINT)


def test_ctrl_c_keeps_what_is_whole_and_the_next_run_goes_on(tmp_path: Path) -> None:
    workload(tmp_path)
    fill(tmp_path, 0, 3)
    assert run(tmp_path).returncode == 0
    live, before = Lake(str(tmp_path / "lake")).table("slow").live(), set(ids(tmp_path))
    assert len(before) == 3

    fill(tmp_path, 3, OBJECTS)
    running = Running(tmp_path)
    running.wait_until(some_done)
    out = running.stop(ctrl_c)
    assert running.process.returncode == 1
    assert out.startswith("stopped  run ")
    said = re.search(r"stopped: (\d+) of (\d+) objects are kept; run the same command to go on", out)
    assert said is not None, out
    kept, wanted = map(int, said.groups())
    assert wanted == OBJECTS - 3
    assert 2 <= kept < OBJECTS - 3
    assert f"Readers still see version {live}." in out

    table = Lake(str(tmp_path / "lake")).table("slow")
    assert (table.live(), set(ids(tmp_path))) == (live, before)
    committed = ids(tmp_path, None)
    assert len(committed) == len(set(committed)) == 3 + kept
    assert set(committed) < expected(tmp_path)
    assert Lake(str(tmp_path / "lake")).runs().recent()[0].status == "stopped"

    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["skipped"], summary["rows"]) == (3 + kept, OBJECTS - 3 - kept)
    assert sorted(ids(tmp_path)) == sorted(expected(tmp_path))


def test_ctrl_c_while_workers_start(tmp_path: Path) -> None:
    workload(tmp_path)
    fill(tmp_path, 0, 4)
    running = Running(tmp_path, "--json")
    lake = Lake(str(tmp_path / "lake"))
    deadline = time.monotonic() + 60
    while not lake.runs().recent() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    # Ray's agents, orphaned before they had told anybody, see after a minute that they are alone.
    document = json.loads(running.stop(ctrl_c, agents=100))
    assert (running.process.returncode, document["status"], document["rows"]) == (1, "stopped", 0)
    assert lake.table("slow").live() is None
    assert run(tmp_path).returncode == 0
    assert sorted(ids(tmp_path)) == sorted(expected(tmp_path))


def test_ctrl_c_while_planning(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    workload(tmp_path)
    # The lake is what planning waits for: it takes the call and says nothing.
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        where = f"http://127.0.0.1:{port.getsockname()[1]}"
        silent = {"AWS_ENDPOINT_URL": where, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "k", "AWS_REGION": "r"}
        process = subprocess.Popen(
            [str(COMMAND), "plan", str(tmp_path / "w.yaml"), "--lake", "s3://silent/lake", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **silent, "AWS_SECRET_ACCESS_KEY": "s"},
        )
        asked, _ = port.accept()
        with asked:
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == 1
    assert json.loads(out)["error"]["code"] == "stopped"
    assert "Traceback" not in err


def test_sigterm_is_ctrl_c(tmp_path: Path) -> None:
    workload(tmp_path)
    fill(tmp_path, 0, OBJECTS)
    running = Running(tmp_path)
    running.wait_until(some_done)
    out = running.stop(lambda pid: os.kill(pid, signal.SIGTERM))
    assert running.process.returncode == 1
    assert "objects are kept" in out
    lake = Lake(str(tmp_path / "lake"))
    assert lake.runs().recent()[0].status == "stopped"
    assert lake.table("slow").live() is None
    assert len(ids(tmp_path, None)) >= 2


def test_workers_that_die_leave_stdout_to_the_document(tmp_path: Path) -> None:
    workload(tmp_path, "private_stages:Marking")
    fill(tmp_path, 0, 4)
    for name, text in {"segfault": "a SEGFAULT here", "killed": "now KILLED"}.items():
        (tmp_path / "corpus" / f"{name}.txt").write_text(text + "\n")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["rows"]) == ("done", 4)
    assert summary["codes"] == {"corrupt": 1, "out_of_memory": 1}
    assert "Traceback" not in done.stderr


def test_a_run_that_fails_is_one_document_too(tmp_path: Path) -> None:
    file = workload(tmp_path, "private_stages:Marking")
    file.write_text(file.read_text() + "  check: {budget: {count: 0}}\n")
    fill(tmp_path, 0, 2)
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"")
    done = run(tmp_path)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "run_failed"
    assert "1 of 3 objects are bad" in error["message"]
    assert "raycluster quarantine slow" in error["fix"]
    lake = Lake(str(tmp_path / "lake"))
    assert lake.table("slow").live() is None
    assert lake.runs().recent()[0].status == "failed"
