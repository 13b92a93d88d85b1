"""`raycluster costs` as a person and a script call it: tables, JSON, CSV, files, and what it refuses."""

import csv
import io
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from cost_lines import ledger, line, usage

from raycluster import cli
from raycluster.account.question import KEYS, span
from raycluster.declare.prices import LOCAL
from raycluster.lake.ledger import COSTS, Ledger

PRICES = """
apiVersion: raycluster/v1
kind: Prices
metadata: {name: dear, version: "2"}
spec: {currency: USD, cpu_hour: 3.6, gib_hour: 0}
"""


def call(place: object, *words: object) -> Result:
    return CliRunner().invoke(cli.main, ["costs", "--lake", str(place), *map(str, words)])


def lines_of(answer: Result) -> list[list[str]]:
    """Return the words of each line of a table."""
    assert answer.exit_code == 0, answer.output
    return [line.split() for line in answer.stdout.splitlines()]


@pytest.fixture
def last_week() -> datetime:
    """Return a moment in the last whole week, as the command sees it."""
    return span("last week", datetime.now(UTC).astimezone())[0] + timedelta(hours=30)


@pytest.fixture
def place(tmp_path: Path, last_week: datetime) -> Path:
    """Return a lake with costs of last week and of the week before."""
    made: Sequence[dict[str, Any]] = [
        line(nanousd=412_000, cpu_seconds=40.0, rows_out=100, bytes_read=10**9),
        line(nanousd=50_000, outcome="retried", cpu_seconds=5.0, rows_out=20),
        line(nanousd=30_000, outcome="killed"),
        line(nanousd=100_000, team="archive", run_id="run-2"),
        line(nanousd=900_000, stage="minilm"),
        line(nanousd=200_000, kind="idle", stage=None, outcome=None, is_shared=True),
        line(nanousd=7_000_000, started_at=last_week - timedelta(days=7)),
    ]
    for one in made:
        if one["started_at"] != last_week - timedelta(days=7):
            one |= {"started_at": last_week, "ended_at": last_week + timedelta(seconds=10)}
    ledger(tmp_path / "lake", *made)
    return tmp_path / "lake"


# --- the bill --------------------------------------------------------------------------------------------------------


def test_the_question_of_the_week_is_one_command(place: Path) -> None:
    said = lines_of(call(place, "--by", "team,outcome", "--only", "stage=video", "--since", "last week"))
    assert said[1:8] == [
        ["team", "outcome", "cost", "share", "CPU", "time"],
        ["discovery", "ok", "$0.000412", "69.6%", "40.0", "s"],
        ["archive", "ok", "$0.000100", "16.9%", "-"],
        ["discovery", "retried", "$0.0000500", "8.4%", "5.0", "s"],
        ["discovery", "killed", "$0.0000300", "5.1%", "-"],
        ["total", "$0.000592", "100.0%", "45.0", "s"],
        [],
    ]
    assert [" ".join(words) for words in said[8:]] == [
        "none of it is shared; prices: list@1",
        "failed calls $0.00 (0.0%), killed calls $0.0000300 (5.1%), retried calls $0.0000500 (8.4%); "
        "what the words mean: raycluster costs --waste",
    ]


def test_direct_and_shared_stand_side_by_side(place: Path) -> None:
    said = lines_of(call(place, "--since", "last week"))
    assert said[1] == ["team", "workload", "stage", "cost", "share", "direct", "shared", "CPU", "time"]
    assert ["discovery", "clips", "-", "$0.000200", "11.8%", "-", "$0.000200", "-"] in said
    assert said[-1] == ["$0.000200", "of", "it", "(11.8%)", "is", "shared:", "idle", "$0.000200;", "prices:", "list@1"]


def test_json_is_one_document_that_adds_up(place: Path) -> None:
    document = json.loads(call(place, "--by", "stage", "--json").stdout)
    assert sum(one["nanousd"] for one in document["lines"]) == document["total"]["nanousd"] == 8_692_000
    assert document["total"]["cost_usd"] == pytest.approx(0.008692)
    assert document["by"] == ["stage"]
    assert document["prices"] == ["list@1"]
    assert document["shared_nanousd"] == {"idle": 200_000}


def test_csv_has_a_line_a_group_and_no_total(place: Path) -> None:
    found = list(csv.DictReader(io.StringIO(call(place, "--by", "team,version", "--csv").stdout)))
    assert [(one["team"], one["version"], one["nanousd"]) for one in found] == [
        ("discovery", "1", "8592000"),
        ("archive", "1", "100000"),
    ]
    assert sum(float(one["cost_usd"]) for one in found) == pytest.approx(0.008692)


def test_units(place: Path) -> None:
    said = lines_of(call(place, "--units", "--by", "stage", "--run", "run-1", "--since", "last week"))
    assert said[1] == ["stage", "cost", "share", "rows", "per", "1,000", "rows", "read", "per", "GB", "read"]
    assert ["video", "$0.000492", "30.9%", "120", "$0.00410", "1.0", "GB", "$0.000492"] in said


def test_a_long_bill_is_cut_for_people_and_its_total_is_whole(tmp_path: Path) -> None:
    ledger(tmp_path, *(line(stage=f"s{number:03d}", nanousd=10**6) for number in range(75)))
    said = lines_of(call(tmp_path, "--by", "stage"))
    assert ["15", "smaller", "$0.0150", "20.0%"] in said
    assert said[-3][:2] == ["total", "$0.0750"]


def test_lines_of_next_to_nothing_are_folded_for_people(tmp_path: Path) -> None:
    costs = [10**9] * 12 + [10**5] * 8
    ledger(tmp_path, *(line(stage=f"s{number:03d}", nanousd=cost) for number, cost in enumerate(costs)))
    said = lines_of(call(tmp_path, "--by", "stage"))
    assert ["8", "smaller", "$0.000800", "0.0%"] in said
    assert len(json.loads(call(tmp_path, "--by", "stage", "--json").stdout)["lines"]) == 20


def test_every_key_is_in_the_help_and_can_be_asked_for(place: Path) -> None:
    text = " ".join(CliRunner().invoke(cli.main, ["costs", "--help"]).stdout.split())
    assert 'raycluster costs --by team,outcome --only stage=video --since "last week"' in text
    for key in KEYS:
        assert key in text
    assert lines_of(call(place, "--by", ",".join(KEYS)))


# --- nothing there, or wrong -----------------------------------------------------------------------------------------


def test_an_empty_ledger_says_what_to_do(tmp_path: Path) -> None:
    answer = call(tmp_path / "none")
    assert (answer.exit_code, answer.stdout) == (0, "no costs yet: they come with the first run, raycluster run FILE\n")
    assert json.loads(call(tmp_path / "none", "--json").stdout)["lines"] == []
    assert not (tmp_path / "none").exists()


def test_a_period_without_costs(place: Path) -> None:
    assert call(place, "--since", "2030-01-01").stdout.startswith("nothing was paid for that")


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (["--by", "taem"], "unknown key 'taem'", "did you mean 'team'?"),
        (["--by", ""], "names no key", "team, project"),
        (["--only", "stage"], "is no filter", "KEY=VALUE"),
        (["--only", "team=discovry"], "unknown team 'discovry'", "did you mean 'discovery'?"),
        (["--run", "run-3"], "unknown run 'run-3'", "did you mean"),
        (["--since", "soon"], "names no moment", "last week"),
        (["--since", "today", "--until", "yesterday"], "is not after", "today"),
        (["--csv", "--json"], "--csv and --json exclude each other", "leave out"),
        (["--waste", "--compare", "a", "b"], "--compare and --waste exclude each other", "leave out"),
        (["--run", "run-1", "--compare", "a", "b"], "--run and --compare exclude each other", "leave out"),
        (["--waste", "--picture", "x.png"], "--picture and --waste exclude each other", "leave out"),
        (["--picture", "x.gif"], "is no picture that can be drawn", ".png"),
        (["--prices", "none.yaml"], "none.yaml", ""),
        (["--compare", "run-1", "run-3"], "unknown run 'run-3'", "did you mean"),
    ],
)
def test_wrong_use_says_what_to_do_and_changes_nothing(place: Path, words: list[str], said: str, fix: str) -> None:
    answer = call(place, *words)
    assert answer.exit_code == 2, answer.output
    assert said in answer.stderr
    assert fix in answer.stderr
    document = json.loads(call(place, *[word for word in words if word != "--csv"], "--json").stdout)
    assert "--csv" in words or document["error"]["code"] in ("invalid", "not_found", "invalid_file")


# --- other views -----------------------------------------------------------------------------------------------------


def test_two_runs(place: Path) -> None:
    words = ("--compare", "run-1", "run-2", "--since", "last week")
    said = lines_of(call(place, *words))
    assert said[:2] == [["A:", "run", "run-1"], ["B:", "run", "run-2"]]
    assert ["video", "$0.000492", "$0.000100", "-$0.000392", "0.20x", "45.0", "s", "-"] in said
    assert ["total", "$0.00159", "$0.000100", "-$0.00149", "0.06x", "45.0", "s", "-"] in said
    document = json.loads(call(place, *words, "--json").stdout)
    assert document["total"]["difference_nanousd"] == -1_492_000
    rows = list(csv.DictReader(io.StringIO(call(place, *words, "--csv").stdout)))
    assert sum(int(row["difference_nanousd"]) for row in rows) == -1_492_000


def test_two_runs_by_run_are_told_by_stage(place: Path) -> None:
    found = json.loads(call(place, "--compare", "run-1", "run-2", "--by", "run", "--json").stdout)
    assert found["by"] == ["stage"]


def test_words_of_users_are_no_markup(tmp_path: Path) -> None:
    ledger(tmp_path, line(team="[red]:cat:[/]", nanousd=10**9))
    said = call(tmp_path, "--by", "team", "--only", "team=[red]:cat:[/]").stdout.splitlines()
    assert said[0] == "Costs team=[red]:cat:[/]"
    assert said[2].split() == ["[red]:cat:[/]", "$1.00", "100.0%", "-"]


def test_waste(place: Path) -> None:
    said = lines_of(call(place, "--waste", "--since", "last week"))
    assert said[3][:3] == ["killed", "$0.0000300", "1.8%"]
    assert said[4][:3] == ["retried", "($0.0000500)", "-"]
    assert said[-3] == ["total", "$0.000230", "13.6%"]
    document = json.loads(call(place, "--waste", "--json").stdout)
    assert {part["what"]: part["nanousd"] for part in document["parts"]}["idle"] == 200_000
    rows = list(csv.DictReader(io.StringIO(call(place, "--waste", "--csv").stdout)))
    assert rows[0]["what"] == "failed"


# --- files, prices, the inbox ----------------------------------------------------------------------------------------


def test_a_picture_beside_the_bill(place: Path, tmp_path: Path) -> None:
    answer = call(place, "--by", "team", "--picture", tmp_path / "bill.html", "--json")
    assert json.loads(answer.stdout)["by"] == ["team"]
    assert answer.stderr == f"{tmp_path}/bill.html: drawn\n"
    assert "Costs by team and stage" in (tmp_path / "bill.html").read_text()


def test_focus_holds_the_lines_that_are_asked_for(tmp_path: Path) -> None:
    made = [line(prices=LOCAL.ref, nanousd=5), line(prices=LOCAL.ref, nanousd=7, team="archive")]
    ledger(tmp_path / "lake", *made)
    answer = call(tmp_path / "lake", "--focus", tmp_path / "focus.parquet", "--only", "team=archive")
    assert answer.exit_code == 0, answer.output
    assert "1 lines, FOCUS 1.2" in answer.stderr
    assert pq.read_table(tmp_path / "focus.parquet").num_rows == 1


@pytest.fixture
def used(tmp_path: Path, last_week: datetime) -> Ledger:
    """Return the ledger of a lake into whose inbox a node has just laid a window."""
    made = Ledger(str(tmp_path / "lake"))
    when = {"started_at": last_week, "ended_at": last_week + timedelta(seconds=10)}
    nobody = dict.fromkeys(("team", "project", "environment", "run_id", "workload", "stage", "outcome"))
    made.drop(
        usage(line(cpu_seconds=15.0, **when), line(kind="idle", cpu_seconds=5.0, **nobody | when)),
        f"{last_week:%Y%m%dT%H%M%S}-n1",
    )
    return made


def test_what_waits_in_the_inbox_is_in_the_bill(used: Ledger) -> None:
    document = json.loads(call(used.uri, "--by", "kind", "--json").stdout)
    assert document["prices"] == [LOCAL.ref]
    assert {one["kind"] for one in document["lines"]} == {"task", "idle"}
    assert used.inbox_names() == []
    assert json.loads(call(used.uri, "--by", "kind", "--json").stdout) == document


def test_restating_stores_nothing(used: Ledger, tmp_path: Path) -> None:
    (tmp_path / "dear.yaml").write_text(PRICES)
    before = json.loads(call(used.uri, "--by", "team", "--json").stdout)
    restated = json.loads(call(used.uri, "--by", "team", "--prices", tmp_path / "dear.yaml", "--json").stdout)
    assert restated["prices"] == ["dear@2"]
    assert restated["total"]["nanousd"] == 20_000_000  # 20 core-seconds at 3.60 an hour
    assert restated["lines"][0]["shared_nanousd"] == 5_000_000
    assert pa.Table.from_batches(used.costs(), COSTS)["prices"].unique().to_pylist() == [LOCAL.ref]
    assert json.loads(call(used.uri, "--by", "team", "--json").stdout) == before


def test_who_lacks_a_price_sees_the_bill_as_it_stands(
    used: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used.put_costs(pa.Table.from_pylist([{"id": "x", "nanousd": 5, "is_shared": False, "team": "t"}], COSTS))
    monkeypatch.setenv("RAYCLUSTER_PRICES", str(tmp_path / "none.yaml"))
    answer = call(used.uri, "--by", "team", "--json")
    assert json.loads(answer.stdout)["total"]["nanousd"] == 5
    assert "not everything is in this bill" in answer.stderr
    assert used.inbox_names()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_who_may_only_read_sees_the_bill(used: Ledger) -> None:
    for folder in (Path(used.uri), Path(used.inbox)):
        folder.chmod(0o500)
    answer = call(used.uri, "--by", "team")
    assert answer.exit_code == 0
    assert "not everything is in this bill" in answer.stderr
