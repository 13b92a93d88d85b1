"""A dataset that went wrong, or grew old, as a person puts it right: replay, rollback, maintain, gc."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from raycluster import cli

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(300)]


class Bench:
    """A corpus, its workload and a lake, and the command in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus, self.lake = folder, folder / "corpus", folder / "lake"
        self.corpus.mkdir()
        for index in range(4):
            (self.corpus / f"t{index}.txt").write_text(f"word{index} and some more of them.\n")

    def declare(self, *, fewest: int = 0, name: str = "w", **sink: Any) -> Path:
        """Write the workload; objects with fewer characters are bad."""
        file = self.folder / f"{name}-{fewest}.yaml"
        rules = [{"use": "bounds", "feature": "characters", "min": fewest}]
        spec = {
            "source": {"files": {"paths": [str(self.corpus)]}},
            "decode": {"text": {}},
            "encode": [{"use": "private_stages:Marking"}],
            "check": {"rules": rules},
            "sink": {"dataset": "d", **sink},
        }
        metadata = {"name": name, "labels": {"team": "t"}}
        file.write_text(
            yaml.safe_dump({"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec})
        )
        return file

    def call(self, *words: object, code: int = 0) -> Any:
        """Call the command; return the document it prints."""
        said = CliRunner().invoke(cli.main, [*map(str, words), "--lake", str(self.lake), "--json"])
        assert said.exit_code == code, said.output
        return json.loads(said.stdout)

    def say(self, *words: object) -> str:
        """Call the command; return what it says to people."""
        return CliRunner().invoke(cli.main, [*map(str, words), "--lake", str(self.lake)]).stdout

    def rows(self) -> int:
        return int(self.call("datasets", "d")["rows"])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_passes_now_moves_into_the_dataset(bench: Bench) -> None:
    (bench.corpus / "short.txt").write_text("short\n")
    (bench.corpus / "empty.txt").write_bytes(b"")
    first = bench.call("run", bench.declare(fewest=12))
    assert (first["rows"], first["quarantined"]) == (4, 2)
    again = bench.call("replay", "d")
    assert (again["objects"], again["rows"], again["quarantined"]) == (6, 0, 2)
    assert {row["attempts"] for row in bench.call("quarantine", "d")} == {2}
    (bench.corpus / "new.txt").write_text("new words come, but a replay is not for them.\n")
    mended = bench.call("replay", "d", "--file", bench.declare(fewest=3), "--code", "contract")
    assert (mended["rows"], mended["quarantined"], mended["skipped"]) == (1, 0, 4)
    assert [row["code"] for row in bench.call("quarantine", "d")] == ["empty"]
    assert bench.rows() == 5


def test_a_replay_says_what_it_cannot_do(bench: Bench) -> None:
    bench.call("run", bench.declare())
    for words, message in (
        (["replay", "e"], "unknown dataset 'e'"),
        (["replay", "d", "--code", "empti"], "unknown quarantine code"),
        (["replay", "d", "--workload", "v"], "unknown workload 'v'"),
        (["replay", "d", "--file", bench.declare(dataset="other", name="o")], "writes to 'other', not to 'd'"),
    ):
        assert message in bench.call(*words, code=2)["error"]["message"]


def test_going_back_and_on(bench: Bench) -> None:
    file = bench.declare()
    first = bench.call("run", file)["version"]
    (bench.corpus / "wrong.txt").write_text("wrong words come.\n")
    second = bench.call("run", file)["version"]
    assert bench.rows() == 5
    assert "--last" in bench.call("rollback", "d", code=2)["error"]["fix"]
    entry = bench.call("rollback", "d", "--last", "--by", "ann", "--why", "they are wrong")
    assert (entry["version"], entry["left"]) == (first, second)
    assert bench.rows() == 4
    (told, *_), shown = bench.call("datasets", "d")["history"], bench.say("datasets", "d")
    assert (told["what"], told["by"], told["why"], told["tags"]) == ("rollback", "ann", "they are wrong", ["live"])
    assert "rolled back by ann: they are wrong" in shown
    (problem,) = bench.call("plan", file, code=2)["problems"]
    assert "they are wrong" in problem
    assert bench.call("run", file, code=2)["error"]["code"] == "rolled_back"
    assert bench.rows() == 4
    assert bench.call("run", bench.declare(fewest=2))["rows"] == 1
    assert bench.rows() == 5


def test_care_says_what_it_would_do_and_does_it(bench: Bench) -> None:
    file = bench.declare()
    bench.call("run", file)
    for index in range(2):
        (bench.corpus / f"u{index}.txt").write_text(f"other{index} words come.\n")
        bench.call("run", file)
    orphan = bench.lake / "d.lance" / "data" / "orphan.lance"
    orphan.write_bytes(b"half a fragment")
    before = bench.call("datasets", "d")
    said = bench.call("gc", "d", "--dry-run")
    assert (said["files"], said["bytes"]) == (1, len(b"half a fragment"))
    said = bench.call("maintain", "d", "--keep-days", 0, "--keep-versions", 1, "--dry-run")
    assert said["fragments_before"] > said["fragments_after"]
    assert orphan.exists()
    assert bench.call("datasets", "d") == before
    assert "would be removed" in bench.say("gc", "d", "--dry-run")
    assert bench.call("gc", "d")["files"] == 1
    assert not orphan.exists()
    done = bench.call("maintain", "d", "--keep-days", 0, "--keep-versions", 1)
    assert done["fragments_after"] == 1
    assert done["versions_removed"] > 3
    after = bench.call("datasets", "d")
    assert after["rows"] == before["rows"] == 6
    assert after["live"] == done["live"] > before["live"]
    assert "versions" in bench.say("maintain", "d", "--dry-run")
    assert bench.call("rollback", "d", "--last")["version"] < done["live"]
    assert bench.rows() == 5
