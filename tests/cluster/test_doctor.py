"""The frame: subjects that hang, crash or fail hide no other, nothing outlives the doctor, and no secret is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from raycluster import terminal
from raycluster.cluster import doctor
from raycluster.cluster.look import Site

SITE = Site(lake="/tmp/a-lake")
HEAD = "from raycluster.cluster.look import Finding\ndef look(site):\n    yield Finding('ok', 'first')\n"


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that adds a subject: one more file in the open folder."""
    (tmp_path / "more").mkdir()
    folder = str(tmp_path / "more")
    extend = f"import raycluster.cluster.look\nraycluster.cluster.look.__path__.append({folder!r})\n"
    (tmp_path / "sitecustomize.py").write_text(extend)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def add(name: str, body: str) -> None:
        (tmp_path / "more" / f"{name}.py").write_text(HEAD + body)

    return add


def told(*names: str, seconds: float = 60.0) -> list[tuple[str, str, str]]:
    return [(one.subject, one.level, one.what) for one in doctor.examine(SITE, names, seconds=seconds)]


def test_subjects_are_the_files_of_the_folder() -> None:
    folder = Path(doctor.__file__).parent / "look"
    assert doctor.subjects() == sorted(path.stem for path in folder.glob("[!_]*.py"))


def test_what_fails_is_a_finding_and_hides_no_other(subject) -> None:
    subject("raises", "    raise ValueError('a\\nbad thing')\n")
    subject("crashes", "    import os\n    os.abort()\n")
    subject("leaves", "    import os, sys\n    print('last words', file=sys.stderr, flush=True)\n    os._exit(3)\n")
    subject("works", "")
    assert told("raises", "crashes", "leaves", "works") == [
        ("raises", "problem", "it could not be looked at: ValueError: bad thing"),
        ("crashes", "problem", "it could not be looked at: SIGABRT"),
        ("leaves", "problem", "it could not be looked at: last words (exit status 3)"),
        *((name, "ok", "first") for name in ("raises", "crashes", "leaves", "works")),
    ]


def test_what_hangs_costs_its_limit_and_leaves_nothing_behind(subject, tmp_path: Path) -> None:
    started = "    import subprocess, time\n    child = subprocess.Popen(['sleep', '60'])\n"
    subject("hangs", f"{started}    open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n    time.sleep(60)\n")
    subject("deaf", "    import signal, time\n    signal.signal(signal.SIGINT, signal.SIG_IGN)\n    time.sleep(60)\n")
    began = time.monotonic()
    found = told("hangs", "deaf", seconds=3.0)
    assert time.monotonic() - began < 20
    assert [(name, level) for name, level, _ in found] == [
        *((name, "problem") for name in ("hangs", "deaf")),
        *((name, "ok") for name in ("hangs", "deaf")),
    ]
    assert "no answer within 3 s, but for what is told above" in found[0][2]
    child = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_probe_is_removed_when_time_is_over(subject, tmp_path: Path) -> None:
    place = str(tmp_path / "probe")
    body = f"    import os, time\n    open({place!r}, 'w')\n    try:\n        time.sleep(60)\n    finally:\n"
    subject("probes", f"{body}        os.remove({place!r})\n")
    told("probes", seconds=3.0)
    assert not os.path.exists(place)


def test_ctrl_c_ends_what_is_looked_at(subject, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    subject("hangs", f"    import os, time\n    open({str(file)!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "raycluster", "doctor", "--lake", str(tmp_path / "lake")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (file.exists() and file.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert not psutil.pid_exists(int(file.read_text()))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key a-secret-key was refused", "key *** was refused"),
        ("http://somebody:word-to-pass@host:9/x", "http://***@host:9/x"),
        ("of somebody:word-to-pass2", "of somebody:***"),
        ("https://b/x?X-Amz-Signature=0a1b2c&part=1", "https://b/x?X-Amz-Signature=***&part=1"),
        ("the token of-ray-itself", "the token ***"),
        ("/a/path is told", "/a/path is told"),
    ],
)
def test_secrets_are_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, left: str) -> None:
    (tmp_path / "token").write_text("of-ray-itself\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/a/path")
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:word-to-pass2@proxy:3128")
    assert doctor.redacted(text) == left


def test_no_finding_tells_a_secret(subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-key-of-somebody")
    subject(
        "tells", "    yield Finding('problem', 'a-key-of-somebody', 'at a-key-of-somebody', 'use a-key-of-somebody')\n"
    )
    (first, _) = doctor.examine(SITE, ["tells"])
    assert (first.what, first.where, first.fix) == ("***", "at ***", "use ***")


def diagnosed(*arguments: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "raycluster", "doctor", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_the_whole_of_it_is_one_document_and_a_problem_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, document = diagnosed("--lake", str(tmp_path / "file"), "--seconds", "200")
    assert {one["subject"] for one in document["findings"]} == set(doctor.subjects())
    assert (status, document["verdict"]) == (1, "problems")
    assert "it is not a folder, so it cannot be a lake" in [one["what"] for one in document["findings"]]
    assert sum(document["counts"].values()) == len(document["findings"])
    assert not [one for one in document["findings"] if "could not be looked at" in one["what"]]


def test_a_wrong_workload_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("kind: Workload\n")
    status, document = diagnosed("--lake", str(tmp_path), str(tmp_path / "w.yaml"))
    assert (status, document["error"]["code"]) == (2, "invalid_file")


def finding(level: str, what: str, fix: str = "", where: str = "") -> dict[str, str]:
    return {"level": level, "subject": "lake", "what": what, "where": where, "fix": fix}


def test_people_read_the_worst_first_each_with_its_fix_and_a_verdict_last(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        finding("ok", "fine"),
        finding("warning", "so so", "do", "s3://a"),
        finding("problem", "[red]bad\n", "mend"),
    ]
    terminal.show_diagnosis(found, {"lake": "s3://a", "cluster": None}, as_json=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "lake s3://a",
        "problem  lake  [red]bad ",
        "               fix: mend",
        "warning  lake  so so  (s3://a)",
        "               fix: do",
        "ok       lake  fine",
        "1 problem to mend, and 1 warning",
    ]


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        (["ok", "note"], "all is well"),
        (["warning", "warning"], "nothing is broken; 2 warnings to read"),
        (["problem", "problem"], "2 problems to mend"),
    ],
)
def test_a_verdict(capsys: pytest.CaptureFixture[str], levels: list[str], verdict: str) -> None:
    terminal.show_diagnosis([finding(level, "x") for level in levels], {}, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == verdict
