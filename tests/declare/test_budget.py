"""The text of a budget file becomes a budget, or all of its mistakes at once, each with its place."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest
import yaml

from raycluster.declare.budget import Budget, Owner, load_budgets, parse_budget, schema
from raycluster.declare.resource import load_resource
from raycluster.errors import InvalidFile, InvalidUse, NotFound

ROOT = Path(__file__).parent.parent.parent
GOOD = """\
apiVersion: raycluster/v1
kind: Budget
metadata: {name: discovery-month}
spec:
  owner: {team: discovery, project: media-search}
  period: month
  limit: 25.10
  warn: [0.8, 0.5]
  stop: 1.2
"""


def budget(**more) -> Budget:
    return Budget(**{"name": "b", "owner": Owner(team="t"), "period": "month", "limit": 10**9} | more)


def test_reads_every_key():
    found = parse_budget(GOOD, "b.yaml")
    assert (found.name, found.period, found.warn, found.stop) == ("discovery-month", "month", (0.5, 0.8), 1.2)
    assert found.owner.labels == {"team": "discovery", "project": "media-search"}
    assert found.where == "b.yaml:7:3"


def test_what_may_be_left_out():
    found = parse_budget("\n".join(line for line in GOOD.splitlines() if "warn" not in line and "stop" not in line))
    assert (found.warn, found.stop) == ((0.8,), 1.0)
    assert parse_budget(GOOD.replace("[0.8, 0.5]", "0.8")).warn == (0.8,)
    assert parse_budget(GOOD.replace("stop: 1.2", "stop: null")).stop is None
    assert parse_budget(GOOD.replace("[0.8, 0.5]", "[]")).warn == ()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("25.10", 25_100_000_000),
        ("25", 25 * 10**9),
        ("'0.1'", 10**8),
        # a float has 16 digits: 123456789.12345679
        ("123456789.123456789", 123_456_789_123_456_789),
    ],
)
def test_the_limit_is_exact(text, amount):
    assert parse_budget(GOOD.replace("25.10", text)).limit == amount


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("limit: 25.10", "limit: $25", "b.yaml:7:3: spec.limit: '$25' is not an amount of US dollars"),
        ("limit: 25.10", "limit: -3", "b.yaml:7:3: spec.limit: '-3' is not an amount"),
        ("limit: 25.10", "limit: 0.00", "b.yaml:7:3: limit: must be more than 0"),
        ("limit: 25.10", "limit:", "b.yaml:7:3: spec.limit: '' is not an amount"),
        ("limit: 25.10", "limit: true", "b.yaml:7:3: spec.limit: 'true' is not an amount"),
        ("limit: 25.10", "limit: [1]", "b.yaml:7:3: spec.limit: expected an amount"),
        ("limit: 25.10", "limit: 0.0000000001", "nine decimals at most"),
        ("  limit: 25.10\n", "", "b.yaml:4:1: missing key 'limit'"),
        ("project: media-search", "porject: x", "b.yaml:5:28: unknown key 'porject'\n  fix: did you mean 'project'?"),
        ("{team: discovery, project: media-search}", "{}", "b.yaml:5:3: owner names nobody"),
        ("owner: {team: discovery, project: media-search}", "owner: discovery", "b.yaml:5:3: spec.owner: "),
        ("team: discovery", "team: ", "b.yaml:5:11: spec.owner.team: "),  # not: any team
        ("team: discovery", "team: ''", "b.yaml:5:11: spec.owner.team: "),
        ("team: discovery", "team: 42", "b.yaml:5:11: spec.owner.team: "),
        ("month\n", "fortnight\n", "b.yaml:6:3: spec.period: Input should be 'day', 'week'"),
        ("[0.8, 0.5]", "[0.8, 1.2]", "b.yaml:8:3: warn: 1.2 is not below stop (1.2)"),
        ("[0.8, 0.5]", "80%", "b.yaml:8:3: spec.warn.0: Input should be a valid number"),
        ("[0.8, 0.5]", "[0.5, .nan]", "b.yaml:8:15: spec.warn.1: Input should be a finite number"),
        ("[0.8, 0.5]", "[0]", "b.yaml:8:10: spec.warn.0: Input should be greater than 0"),
        ("stop: 1.2", "stop: 0.7", "b.yaml:8:3: warn: 0.8 is not below stop (0.7)"),
        ("stop: 1.2", "stop: -1", "b.yaml:9:3: spec.stop: Input should be greater than 0"),
        ("stop: 1.2", "stop: yes", "b.yaml:9:3: spec.stop: Input should be a valid number"),
        ("[0.8, 0.5]\n  stop: 1.2", "[]\n  stop: null", "b.yaml:8:3: this budget would neither warn nor stop"),
        ("name: discovery-month", "name: Mine!", "b.yaml:3:12: metadata.name: "),
        ("month}", "month, labels: {team: t}}", "b.yaml:3:35: unknown key 'labels'\n  fix: valid here: name"),
        ("kind: Budget", "kind: Corpus", "b.yaml:2:1: kind: Input should be 'Budget'"),
        ("spec:\n", "spec: 3\nother:\n", "b.yaml:4:1: spec: Input should be an object"),
    ],
)
def test_says_what_is_wrong_and_where(was, becomes, says):
    assert was in GOOD
    with pytest.raises(InvalidFile) as caught:
        parse_budget(GOOD.replace(was, becomes), "b.yaml")
    assert says in str(caught.value)


def test_reports_several_mistakes_at_once():
    with pytest.raises(InvalidFile) as caught:
        parse_budget(GOOD.replace("month\n", "moon\n").replace("25.10", "much").replace("stop:", "stopp:"))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"owner": Owner()}, "owner names nobody"),
        ({"limit": 0}, "more than 0"),
        ({"warn": (), "stop": None}, "neither warn nor stop"),
        ({"warn": (1.0,)}, "is not below stop"),
    ],
)
def test_a_budget_built_in_python_is_checked_too(more, says):
    with pytest.raises(InvalidUse, match=says):
        budget(**more)


def test_whose_costs_count():
    team = budget(owner=Owner(team="t"))
    assert team.matches({"team": "t", "project": "p"})
    assert not team.matches({"team": "other"})
    assert not team.matches({})
    both = budget(owner=Owner(team="t", environment="prod"))
    assert both.matches({"team": "t", "project": "p", "environment": "prod"})
    assert not both.matches({"team": "t", "project": "p"})


@pytest.mark.parametrize(
    ("period", "at", "since", "until"),
    [
        ("day", "2026-03-01 12:30", "2026-03-01", "2026-03-02"),
        ("day", "2026-12-31 23:59", "2026-12-31", "2027-01-01"),
        ("week", "2026-03-01 12:30", "2026-02-23", "2026-03-02"),  # a Sunday
        ("week", "2026-03-02 00:00", "2026-03-02", "2026-03-09"),
        ("week", "2027-01-01 00:00", "2026-12-28", "2027-01-04"),  # ISO week 53 of 2026
        ("month", "2026-01-31 23:59", "2026-01-01", "2026-02-01"),
        ("month", "2026-12-01 00:00", "2026-12-01", "2027-01-01"),
        ("month", "2028-02-29 08:00", "2028-02-01", "2028-03-01"),
        ("quarter", "2026-05-31 08:00", "2026-04-01", "2026-07-01"),
        ("quarter", "2026-12-31 08:00", "2026-10-01", "2027-01-01"),
        ("year", "2026-12-31 08:00", "2026-01-01", "2027-01-01"),
    ],
)
def test_periods_are_those_of_the_calendar(period, at, since, until):
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    window = budget(period=period).window(moment)
    assert window == tuple(datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (since, until))
    east = moment.astimezone(timezone(timedelta(hours=9)))  # the same moment, told elsewhere
    assert budget(period=period).window(east) == window


def test_every_moment_of_five_years_lies_in_its_window_and_windows_join():
    for period in ("day", "week", "month", "quarter", "year"):
        one, at = budget(period=period), datetime(2024, 1, 1, tzinfo=UTC)
        while at.year < 2029:
            since, until = one.window(at)
            assert since <= at < until
            assert one.window(until)[0] == until
            at += timedelta(hours=31)


def test_a_single_run_has_no_calendar():
    assert budget(period="run").window(datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_shares_of_the_limit_are_exact():
    assert budget(limit=25 * 10**9).at(0.7) == 17_500_000_000
    assert budget(limit=3).at(0.5) == 2


def test_a_folder_holds_budgets_among_other_things(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "deep/b.yml").write_text(GOOD.replace("discovery-month", "other"))
    (tmp_path / "prices.yaml").write_text("# beside a Budget\napiVersion: raycluster/v1\nkind: Prices\n")
    (tmp_path / "foreign.yaml").write_text("apiVersion: v1\nkind: Budget\n")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    assert [one.name for one in load_budgets(tmp_path)] == ["discovery-month", "other"]
    assert [one.name for one in load_budgets(tmp_path / "deep/b.yml")] == ["other"]


def test_two_budgets_of_one_name_are_told_with_both_places(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(InvalidFile) as caught:
        load_budgets(tmp_path)
    assert "b.yaml:7:3: there are two budgets 'discovery-month'" in str(caught.value)
    assert "a.yaml:7:3" in str(caught.value)


def test_the_mistakes_of_all_files_are_told_together(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD.replace("25.10", "much"))
    (tmp_path / "b.yaml").write_text(GOOD.replace("month\n", "moon\n"))
    (tmp_path / "c.yaml").write_text(GOOD + "  stop: 1\n")
    with pytest.raises(InvalidFile) as caught:
        load_budgets(tmp_path)
    assert [Path(problem.where.split(":")[0]).name for problem in caught.value.problems] == [
        "a.yaml",
        "b.yaml",
        "c.yaml",
    ]


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        load_budgets(tmp_path / "none.yaml")
    with pytest.raises(NotFound, match="no budget below"):
        load_budgets(tmp_path)


def test_a_file_named_by_itself_must_be_a_budget(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD.replace("kind: Budget", "kind: Prices"))
    with pytest.raises(InvalidFile, match="kind: Input should be 'Budget'"):
        load_budgets(tmp_path / "a.yaml")


def test_the_shipped_budget_is_valid_and_fits_the_shipped_workloads():
    (shipped,) = load_budgets(ROOT / "workloads/budgets")
    assert load_resource(ROOT / "workloads/budgets/discovery.yaml") == shipped
    labels = yaml.safe_load((ROOT / "workloads/sample/sample.yaml").read_text())["metadata"]["labels"]
    assert shipped.matches(labels)


@pytest.mark.parametrize(
    ("path", "value"), [(("limit",), "much"), (("owner", "tema"), "x"), (("warn",), [0]), (("period",), "moon")]
)
def test_the_schema_knows_what_is_wrong(path, value):
    whole = yaml.safe_load(GOOD)
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(whole, schema())
    part = whole["spec"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(whole, schema())
