"""What a job takes to a cluster: what is sent, what is refused, and the command that its shell runs there."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from click.testing import CliRunner

from raycluster import cli
from raycluster.cluster.parcel import Order, check, pack, variables
from raycluster.errors import InvalidFile, InvalidUse, TooLarge

NOWHERE = "http://127.0.0.1:1"  # nothing is ever sent there
PRICES = "apiVersion: raycluster/v1\nkind: Prices\nmetadata: {name: p, version: '1'}\nspec: {currency: USD}\n"


def declared(folder: Path, source: dict[str, object], labels: dict[str, str] | None = None) -> Path:
    spec = {"source": source, "decode": {"text": {}}, "sink": {"dataset": "d"}}
    metadata = {"name": "w", "labels": {"team": "t"} if labels is None else labels}
    whole = {"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec}
    (folder / "w.yaml").write_text(yaml.safe_dump(whole))
    return folder / "w.yaml"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return declared(folder, {"files": {"paths": ["s3://bucket/corpus/"]}})


def order(file: Path, **given: object) -> Order:
    return Order(**{"file": file, "folder": file.parent, "lake": "s3://bucket/lake", **given})  # type: ignore[arg-type]


def names(target: Path) -> set[str]:
    with ZipFile(target) as package:
        return set(package.namelist())


def test_a_workload_without_a_team_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    file = declared(tmp_path, {"files": {"paths": ["s3://bucket/corpus/"]}}, labels={"project": "p"})
    said = CliRunner().invoke(cli.main, ["submit", str(file), "--address", NOWHERE, "--lake", "s3://b/l"])
    assert said.exit_code == 2
    assert "w.yaml:4:" in said.stderr
    assert "metadata.labels.team is missing" in said.stderr
    said = CliRunner().invoke(cli.main, ["submit", str(file), "--address", NOWHERE, "--json"])
    assert json.loads(said.stdout)["error"]["code"] == "invalid_file"


@pytest.mark.parametrize(
    "source",
    [
        {"files": {"paths": ["corpus/"]}},
        {"files": {"paths": ["s3://bucket/x", "file://corpus"]}},
        {"parquet": {"paths": ["table.parquet"], "column": "c"}},
        {"lance": {"uri": "table.lance", "column": "c"}},
    ],
)
def test_a_source_in_the_folder_is_refused_with_its_line(tmp_path: Path, source: dict[str, object]) -> None:
    file = declared(tmp_path, source)
    with pytest.raises(InvalidFile, match="lies on this machine: the cluster's nodes do not have it") as caught:
        check(order(file))
    (problem,) = caught.value.problems
    line = int(problem.where.split(":")[1])
    place = file.read_text().splitlines()[line - 1]
    assert any(name in place for name in ("corpus", "table"))
    assert "s3://BUCKET" in problem.fix


def test_what_every_node_must_have_is_said(tmp_path: Path) -> None:
    file = declared(tmp_path, {"files": {"paths": ["/data/corpus", "s3://bucket/x"], "list": "uris.txt"}})
    _, warnings = check(order(file, lake="/data/lake"))
    assert len(warnings) == 2
    assert "/data/corpus is of this disk" in warnings[0]
    assert "/data/lake is a folder" in warnings[1]
    _, warnings = check(order(declared(tmp_path, {"files": {"list": "uris.txt"}})))
    assert warnings == []


@pytest.mark.parametrize(
    ("given", "wrong", "where"),
    [
        ({"lake": ".raycluster"}, "the job's own folder, which Ray deletes", "--lake"),
        ({"lake": "s3://key:word@host/lake"}, "it holds a password", "--lake"),
        ({"folder": Path("/no/such")}, "does not lie in a folder /no/such", "--working-dir"),
        ({"folder": Path(__file__).parent}, "does not lie in a folder", "--working-dir"),
        ({"prices": "/no/such.yaml"}, "no such file: /no/such.yaml", ""),
        ({"budgets": "/no/such"}, "no such file", ""),
    ],
)
def test_what_would_not_do_is_refused(file: Path, given: dict[str, object], wrong: str, where: str) -> None:
    with pytest.raises(InvalidUse, match=wrong) as caught:
        check(order(file, **given))
    assert caught.value.where == where
    assert caught.value.fix


def test_private_stages_of_the_folder_are_found(file: Path) -> None:
    (file.parent / "lying_there.py").write_text("from private_stages import Marking\n")
    whole = yaml.safe_load(file.read_text())
    whole["spec"]["encode"] = [{"use": "lying_there:Marking"}]
    file.write_text(yaml.safe_dump(whole))
    workload, _ = check(order(file))
    assert workload.encode[0].writes.names == ["mark"]


@pytest.mark.parametrize(
    "word",
    [
        *("AWS_SECRET_ACCESS_KEY=x", "HF_TOKEN=x", "db_password=x", "API_KEY=x", "AWS_ACCESS_KEY_ID=x"),
        *("GITHUB_CREDENTIALS=x", "DATABASE=postgres://me:word@host/db", "KEY=x"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(InvalidUse, match="is a secret, which the job would show to everybody") as caught:
        variables([word])
    assert word.partition("=")[2] not in str(caught.value).replace(word.partition("=")[0], "").split()
    assert "`ray start`" in caught.value.fix


def test_variables_are_given_or_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "research")
    monkeypatch.delenv("NOT_THERE", raising=False)
    said = variables(["AWS_PROFILE", "A=b=c", "EMPTY=", "TOKEN_FILE=/run/token", "GOOGLE_APPLICATION_CREDENTIALS=/g"])
    assert said["AWS_PROFILE"] == "research"
    assert (said["A"], said["EMPTY"], said["TOKEN_FILE"]) == ("b=c", "", "/run/token")
    with pytest.raises(InvalidUse, match="NOT_THERE is not set here"):
        variables(["NOT_THERE"])
    with pytest.raises(InvalidUse, match="'A B' is no name of a variable"):
        variables(["A B=c"])


def test_what_is_sent(file: Path, tmp_path: Path) -> None:
    folder = file.parent
    for name in (".git/config", ".venv/x.py", ".raycluster/d.lance", ".env", "media/a.png", "big.bin", "src/mine.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".gitignore").write_text("media/\n")
    (folder / ".rayignore").write_text("*.bin\n")
    (tmp_path / "prices.yaml").write_text(PRICES)
    (tmp_path / "budgets").mkdir()
    budget = "apiVersion: raycluster/v1\nkind: Budget\nmetadata: {name: b}\nspec: {}\n"
    (tmp_path / "budgets" / "b.yaml").write_text(budget)
    asked = order(file, prices=str(tmp_path / "prices.yaml"), budgets=str(tmp_path / "budgets"))
    files, size = pack(asked, tmp_path / "p.zip")
    sent = {"w.yaml", "src/mine.py", ".gitignore", ".rayignore", "_sent/prices", "_sent/budgets/b.yaml"}
    assert names(tmp_path / "p.zip") == sent
    assert (files, size) == (len(sent), (tmp_path / "p.zip").stat().st_size)
    words = shlex.split(asked.entrypoint("r1").partition("; exec ")[2])
    assert words[:8] == ["python", "-m", "raycluster", "run", "w.yaml", "--run-id", "r1", "--json"]
    assert words[words.index("--prices") + 1] == "_sent/prices"
    assert words[words.index("--budgets") + 1] == "_sent/budgets"


def test_a_workload_that_is_left_out(file: Path, tmp_path: Path) -> None:
    (file.parent / ".rayignore").write_text("*.yaml\n")
    with pytest.raises(InvalidUse, match=r"w\.yaml is not sent") as caught:
        pack(order(file), tmp_path / "p.zip")
    assert ".rayignore" in caught.value.fix


def test_more_than_ray_takes(file: Path, tmp_path: Path) -> None:
    with (file.parent / "film.mp4").open("wb") as film:
        film.truncate(105 * 1024**2)
    with pytest.raises(TooLarge, match=r"Ray takes no more than 104\.9 MB \(largest: film\.mp4 110\.1 MB"):
        pack(order(file), tmp_path / "p.zip")


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_shell_finds_the_python_that_ray_runs_in(file: Path, tmp_path: Path, shell: str) -> None:
    """Started by a process that has Ray's library, as a job is, with a PATH that leads to no such Python."""
    asked = order(file, lake=None, allow=frozenset({"prune", "over_budget"}))
    probe = "import json, sys; print(sys.executable, json.dumps(sys.argv))"
    command = asked.entrypoint("r 1").replace("-m raycluster", f"-c {shlex.quote(probe)}")
    code = f"import ray._raylet, subprocess; raise SystemExit(subprocess.call([{shell!r}, '-c', {command!r}]))"
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        environment = {**bare, **more}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)

    done = run(RAYCLUSTER_LAKE="s3://a b/lake")
    python, _, words = done.stdout.partition(" ")
    assert Path(python).parent == Path(sys.executable).parent, done.stderr
    flags = ["--json", "--progress", "--over-budget", "--prune", "--lake", "s3://a b/lake"]
    assert json.loads(words) == ["-c", "run", "w.yaml", "--run-id", "r 1", *flags]
    done = run()
    assert done.returncode != 0
    assert "its nodes name no lake: give --lake" in done.stderr
