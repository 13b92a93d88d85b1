"""What a process says while it works for a run: in a file of its own, with the run's id, and as before elsewhere."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from raycluster.account import log
from raycluster.account.log import TOLD, Lines, Log

OWNER = {"run_id": "r-1", "workload": "clips", "team": "vision", "project": None, "dataset": "clips"}


@pytest.fixture
def files(cluster, monkeypatch, tmp_path):
    """Return where the logs of this node's Ray lie, for this test."""
    monkeypatch.setattr("ray._private.node.Node.get_logs_dir_path", lambda _: str(tmp_path))
    return tmp_path


def lines(folder: Path):
    (file,) = folder.glob(f"raycluster-r-1-{os.getpid()}.log")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_carry_the_run_as_long_as_the_process_works_for_it(files):
    import ray

    own, other = logging.getLogger("raycluster.engine.run"), logging.getLogger("some.library")
    opened = Log(OWNER)
    own.info("begins: %d objects", 3)
    other.info("says much")
    other.warning("über\n§")
    opened.close()
    own.warning("of no run")
    first, second = lines(files)
    moment = first.pop("at")
    assert first == {
        "level": "info",
        "logger": "raycluster.engine.run",
        "message": "begins: 3 objects",
        "run_id": "r-1",
        "workload": "clips",
        "team": "vision",
        "node": ray.get_runtime_context().get_node_id(),
        "pid": os.getpid(),
    }
    assert moment.endswith("+00:00")
    assert (second["logger"], second["message"]) == ("some.library", "über\n§")
    assert moment <= second["at"]


def test_workers_keep_what_libraries_say_too(files):
    opened = Log(OWNER, level=logging.INFO)
    logging.getLogger("some.library").info("says much")
    opened.close()
    assert [line["message"] for line in lines(files)] == ["says much"]


def test_a_process_that_says_nothing_leaves_no_file_and_loggers_as_they_were(files):
    loggers = [logging.getLogger(), logging.getLogger("raycluster")]
    before = [(one.level, list(one.handlers)) for one in loggers]
    Log(OWNER, level=logging.INFO).close()
    assert [(one.level, list(one.handlers)) for one in loggers] == before
    assert list(files.iterdir()) == []


def test_the_terminal_gets_warnings_as_before_and_not_what_the_command_says_itself(files, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # of pytest
    own = logging.getLogger("raycluster.engine.run")
    opened = Log(OWNER)
    own.info("begins")
    own.warning("careful")
    own.error("failed: all are bad", extra=TOLD)
    opened.close()
    assert capsys.readouterr().err == "careful\n"
    assert [line["level"] for line in lines(files)] == ["info", "warning", "error"]


def test_an_error_brings_its_traceback_in_one_line():
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it %s", ("broke",), sys.exc_info())
    text = Lines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["message"]) == ("error", "it broke")
    assert line["error"].startswith("Traceback")
    assert line["error"].endswith("ValueError: of two\nlines")
    assert "run_id" not in line


def test_a_line_names_the_trace_that_is_under_way():
    from opentelemetry.sdk.trace import TracerProvider

    record = logging.LogRecord("x", logging.INFO, "f", 1, "m", (), None)
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        line = json.loads(Lines().format(record))
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert "trace_id" not in json.loads(Lines().format(record))


def test_the_terminal_can_get_the_same_lines(monkeypatch, capsys):
    root, own = logging.getLogger(), logging.getLogger("raycluster")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(own, "level", own.level)
    log.to_stderr()
    log.to_stderr()
    logging.getLogger("raycluster.x").info("once")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "once"
