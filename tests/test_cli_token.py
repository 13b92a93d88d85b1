"""`raycluster token`: a token is shown once, and what is kept of it lets its owner in."""

import json

from click.testing import CliRunner

from raycluster import cli
from raycluster.govern.tokens import TokenFile


def run(*arguments):
    return CliRunner().invoke(cli.main, ["token", *arguments], prog_name="raycluster")


def test_the_token_alone_on_stdout(tmp_path):
    path = str(tmp_path / "tokens.yaml")
    said = run("robot", "--role", "reader", "--role", "writer", "--team", "discovery", "--tokens", path)
    assert said.exit_code == 0
    assert path in said.stderr
    found = TokenFile(path).find(said.stdout.strip())
    assert found.principal.document() == {"subject": "robot", "roles": ["reader", "writer"], "team": "discovery"}
    assert found.expires is None


def test_as_json(tmp_path):
    path = str(tmp_path / "tokens.yaml")
    for asked, meant in (
        ("2030-01-02", "2030-01-02T00:00:00+00:00"),
        ("2030-01-02T03:00:00+0100", "2030-01-02T03:00:00+01:00"),
    ):
        said = run("robot", "--tokens", path, "--expires", asked, "--json")
        answer = json.loads(said.stdout)
        assert answer.pop("token").startswith("rc_")
        assert answer == {"subject": "robot", "roles": [], "team": None, "expires": meant, "tokens": path}
    assert len(TokenFile(path)._file.value) == 2


def test_a_file_that_is_something_else_stays_as_it_was(tmp_path):
    path = tmp_path / "tokens.yaml"
    path.write_text("kind: Workload\n")
    said = run("robot", "--tokens", str(path))
    assert (said.exit_code, said.stdout) == (2, "")
    assert "tokens.yaml:1:1" in said.stderr
    assert path.read_text() == "kind: Workload\n"
    said = run("robot", "--tokens", str(tmp_path / "absent" / "tokens.yaml"))
    assert said.exit_code == 2
    assert "cannot be written" in said.stderr
