"""What people see: narrow terminals, long pipes, and media that try to look like markup."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from raycluster import terminal
from raycluster.account.forecast import Prediction
from raycluster.account.outlook import Outlook
from raycluster.declare.workload import parse_workload
from raycluster.engine.cluster import here
from raycluster.engine.progress import Pace
from raycluster.engine.summary import Snapshot, Summary
from raycluster.errors import InvalidUse
from raycluster.lake.generation import Generation
from raycluster.lake.lake import Lake
from raycluster.lake.runs import Run
from raycluster.plan import make_plan

COMMAND = Path(sys.executable).with_name("raycluster")
NOW = Snapshot(objects=60, done=0, rows=0, bad=0, read_bytes=0, seconds=8.0, stages={})
WORKLOAD = (
    "{apiVersion: raycluster/v1, kind: Workload, metadata: {name: w, labels: {team: t}}, spec: {source: {files: "
    "{paths: [x]}}, decode: {text: {}, image: {}}, encode: [{use: minilm}], sink: {dataset: d}}}"
)


def drawn(renderable: Any, width: int) -> list[str]:
    """Return the lines that a terminal of some width would show."""
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, emoji=False)
    screen.print(renderable)
    return screen.file.getvalue().splitlines()


@pytest.fixture
def live() -> terminal.Live:
    """Give progress that knows its stages, of a plan of nothing."""
    progress = terminal.Live(quiet=True)
    progress.planned(make_plan(parse_workload(WORKLOAD), here(), listed=[], known=[]))
    return progress


def test_a_plan_says_which_columns_it_computes_for_old_rows(capsys: pytest.CaptureFixture[str]) -> None:
    said = "column minilm: 1,204 rows to compute (new encoder)"
    fill = Generation(workload="w", columns=pa.schema([("minilm", pa.string())]), makers=(), reasons=(said,))
    plan = replace(make_plan(parse_workload(WORKLOAD), here(), listed=[], known=[]), fill=fill)
    terminal.show_plan(plan, [], Outlook(prediction=None, why="nothing has run", verdicts=()), as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert "nothing to do" not in shown
    assert terminal.plan_document(plan)["columns"] == [said]


def test_a_plan_says_what_it_will_cost_and_how_sure_that_is(capsys: pytest.CaptureFixture[str]) -> None:
    fill = Generation(workload="w", columns=pa.schema([("minilm", pa.string())]), makers=(), reasons=("new encoder",))
    plan = replace(make_plan(parse_workload(WORKLOAD), here(), listed=[], known=[]), fill=fill)
    sure = Prediction(nanousd=2_000_000, low=1_000_000, high=4_000_000, runs=3, notes=("no run was like this one",))
    ahead = Outlook(prediction=sure, why="", verdicts=())
    terminal.show_plan(plan, [], ahead, as_json=False)
    said = capsys.readouterr().out
    assert "cost: about $0.00200 ($0.00100 to $0.00400 in 80 % of cases, from 3 earlier runs)" in said
    assert "no run was like this one" in said
    terminal.show_plan(plan, [], ahead, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["cost_usd"], document["cost_interval"]["high"]) == (0.002, 0.004)


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 64, 120])
def test_progress_fits_the_terminal_and_loses_no_word(live: terminal.Live, width: int) -> None:
    live.update(NOW)
    waiting = drawn(live._picture(NOW), width)
    assert "60 objects  starting workers  8.0 s" in waiting[0]
    pace = Pace(rows=1, seconds=0.1)
    working = replace(NOW, seconds=10.0, idle=10.0, read_bytes=4096, done=1, rows=1, stages={"text": pace})
    live.update(working)
    late = replace(
        working, seconds=20.0, done=20, rows=30, bad=2, stages={"minilm": Pace(rows=30, seconds=7.0), **working.stages}
    )
    live.update(late)
    lines = drawn(live._picture(late), width)
    assert max(len(line) for line in lines) <= width
    words = " ".join(" ".join(lines).split())
    for part in ("20/60 objects", "30 rows", "2 bad", "read 4.1 kB", "20.0 s", "2.0 objects/s", "about 20.0 s left"):
        assert part in words
    stages = [line.split()[0] for line in lines if re.match(r"(text|image|minilm) ", line)]
    assert stages == ["text", "image", "minilm"]  # as rows pass them, also those that wait
    assert "minilm    30  3.0/s        7.0 s" in lines


def test_a_private_stage_that_nobody_planned_is_shown_too(live: terminal.Live) -> None:
    lines = drawn(live._picture(replace(NOW, stages={"other": Pace(rows=1, seconds=1.0)})), 80)
    assert any(line.startswith("other") for line in lines)


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.Live(quiet=False) as live:
        live.update(NOW)
        live.update(NOW)  # too soon for another line
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "60 objects  starting workers  8.0 s\n"
    with terminal.Live(quiet=True) as live:
        live.update(NOW)
    assert capsys.readouterr().err == ""


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables_keep_every_word_at_any_width() -> None:
    message = "it is cut off: it says 100 bytes, " + "and " * 30 + "there are 40"
    made = terminal.table("", ["code", "message"], [("truncated", message)], right=["size"])
    for width in (40, 80, 500):
        lines = drawn(made, width)
        assert " ".join(" ".join(line.removeprefix("truncated") for line in lines[1:]).split()) == message
        assert max(map(len, lines)) <= width
        assert lines == [line.rstrip() for line in lines]
    assert len(drawn(made, 500)) == 2


def test_identities_are_not_folded() -> None:
    made = terminal.table("", ["run", "dataset"], [("20261123-041349-0d6738", "a-dataset-with-a-name " * 3)])
    assert drawn(made, 40)[1].startswith("20261123-041349-0d6738  ")


@pytest.mark.parametrize("text", ["[/red]", "[bold]x[/bold]", ":cat:", "[link=http://x]y[/link]", "\\[x]", "[1]"])
def test_cells_are_no_markup(text: str) -> None:
    assert drawn(terminal.table("", ["what"], [(text,)]), 80)[1] == text


def test_cells_cannot_move_the_cursor() -> None:
    line = drawn(terminal.table("", ["what"], [("a\x1b[2Jb\rc\x07d\ne",)]), 80)[1]
    assert line.replace(" ", "") == "a[2Jbcde"
    assert "\x1b" not in line


# --- documents -------------------------------------------------------------------------------------------------------


def test_an_error_says_where_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_error(InvalidUse("[red] is wrong", where="w.yaml:1:2", fix="mend it"), as_json=True)
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        "error": {"code": "invalid", "message": "w.yaml:1:2: [red] is wrong", "fix": "mend it"}
    }
    assert told.err == "w.yaml:1:2: [red] is wrong\n  fix: mend it\n"


@pytest.mark.parametrize("status", ["done", "stopped", "failed"])
def test_a_summary_says_all_that_counts(capsys: pytest.CaptureFixture[str], status: Any) -> None:
    summary = Summary(
        run_id="r1", workload="w", dataset="d", status=status, version=7, objects=12, rows=20, quarantined=2,
        skipped=3, dropped=1, replaced=4, seconds=61.0, codes={"empty": 2}, message="[Errno 2] of [that]",
    )  # fmt: skip
    terminal.show_summary(summary, as_json=False)
    told = capsys.readouterr().out
    assert f"{status}  run r1  dataset d v7\n" in told
    assert "20 rows committed (4 older ones gone), 2 objects quarantined, 1 dropped, 3 skipped" in told
    assert "1 min 01 s" in told
    assert "empty 2" in told
    assert "[Errno 2] of [that]\n" in told
    terminal.show_summary(summary, as_json=True)
    assert json.loads(capsys.readouterr().out)["codes"] == {"empty": 2}


def test_dates_and_values_of_any_kind_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC)
    terminal.print_json([Run(run_id="r", workload="w", dataset="d", status="done", started_at=at), Path("x"), "é"])
    run, path, text = json.loads(capsys.readouterr().out)
    assert (run["started_at"], run["version"], path, text) == ("2026-11-23T04:05:06+00:00", None, "x", "é")


# --- a real terminal -------------------------------------------------------------------------------------------------


def on_terminal(width: int, *words: object) -> str:
    """Call the command on a terminal of some width and return what it wrote."""
    leader, follower = pty.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("COLUMNS", None)
        with subprocess.Popen(
            [str(word) for word in (COMMAND, *words)], stdin=follower, stdout=follower, stderr=follower, env=environment
        ) as process:
            os.close(follower)
            follower = -1
            written = b""
            try:
                while chunk := os.read(leader, 65536):
                    written += chunk
            except OSError:  # the other side is closed: the end, on Linux
                pass
            assert process.wait(60) == 0
        return written.decode()
    finally:
        os.close(leader)
        if follower >= 0:
            os.close(follower)


def test_on_a_terminal_tables_are_coloured_and_as_wide_as_it_is(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for index in range(3):
        at = datetime(2026, 11, 23, 4, index, tzinfo=UTC)
        lake.runs().put(
            Run(
                run_id=f"20261123-04{index:02d}00-abcdef",
                workload="w",
                dataset="a-dataset-with-quite-a-long-name",
                status="done",
                started_at=at,
                summary={"version": 3, "rows": 1000, "quarantined": 2, "seconds": 1.5},
            )
        )
    written = on_terminal(90, "runs", "--lake", lake.uri)
    assert "\x1b[" in written
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in written.splitlines()]
    assert max(map(len, lines)) <= 90
    assert [line[:22] for line in lines if line.startswith("2026")] == [
        f"20261123-04{index:02d}00-abcdef" for index in (2, 1, 0)
    ]
    assert "\x1b[" not in subprocess.run(
        [COMMAND, "runs", "--lake", lake.uri], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
