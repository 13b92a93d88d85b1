"""Whatever the usage and the rounding: the lines of a node's window cost its time x its price, exactly."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycluster.account.price import Window, gone, price, windows
from raycluster.account.rate import Node, rate
from raycluster.declare.prices import LOCAL, NodePrice, Owner, Prices, Shared, To
from raycluster.errors import InvalidUse, RayclusterError
from raycluster.lake.ledger import COSTS, QUANTITIES, USAGE, Ledger, line_id

GIB = 2**30
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR_USD = 3_600_000_000  # nano-dollars an hour: a million a second
FLAT = Prices(
    name="flat",
    version="1",
    nodes={"n": NodePrice(on_demand=HOUR_USD * 10, spot=HOUR_USD)},
    cpu_hour=1,
    gib_hour=0,
    gpu_hour={"default": 0},
)


def line(name="a", **known):
    """Return a line of a node of type `n` with 4 cores and 8 GiB, in the first minute; by default idle."""
    whole = dict.fromkeys(USAGE.names) | {
        "id": name,
        "cluster": "c",
        "node": "one",
        "node_type": "n",
        "market": "on_demand",
        "started_at": START,
        "ended_at": START + MINUTE,
        "kind": "idle",
        "node_cpus": 4.0,
        "node_gpus": 0.0,
        "node_memory": 8 * GIB,
    }
    return whole | known


def task(name, team="t", cpu=1.0, **known):
    return line(name, kind="task", team=team, run_id=f"run-{team}", workload="w", cpu_seconds=cpu, **known)


def table(*lines):
    return pa.Table.from_pylist(list(lines), USAGE)


def costs(*lines, prices=FLAT):
    return price(table(*lines), prices).to_pylist()


def by(rows, *keys):
    sums = defaultdict(int)
    for row in rows:
        sums[tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]] += row["nanousd"]
    return dict(sums)


# Any usage at all: clusters of nodes of different types, with windows of any length, some for a part of the time only.
AMOUNTS = st.sampled_from([None, 0.0, 1e-12, 0.1, 1 / 3, 17.25, 59.9, 4000.0])
KINDS = ["task", "driver", "background", "startup", "system", "other", "idle", "unexplained", "unattributed"]
RULES = st.sampled_from(["proportional", "even", "keep", To(to=Owner(team="platform", environment="all"))])
LABELS = st.sampled_from([None, None, "", "red", "blue"])


@st.composite
def usages(draw):
    lines = []
    cluster_ids = draw(st.lists(st.sampled_from("cd"), min_size=1, max_size=2, unique=True))
    for cluster, node in ((cluster, node) for cluster in cluster_ids for node in range(draw(st.integers(1, 3)))):
        facts = draw(
            st.fixed_dictionaries(
                {
                    "node_type": st.sampled_from(["n", "odd", "free", None]),
                    "market": st.sampled_from([None, "on_demand", "spot"]),
                    "node_cpus": st.sampled_from([None, 0.1, 4.0, 96.0]),
                    "node_gpus": st.sampled_from([None, 0.0, 0.5, 8.0]),
                    "node_memory": st.sampled_from([None, 0, 1, 7 * GIB + 1]),
                }
            )
        )
        moment = START
        for length in draw(st.lists(st.integers(1, 10**8), min_size=1, max_size=3)):
            window = {"started_at": moment, "ended_at": moment + timedelta(microseconds=length)}
            moment = window["ended_at"]
            for _ in range(draw(st.integers(1, 5))):
                about = draw(
                    st.fixed_dictionaries(
                        {
                            "kind": st.sampled_from(KINDS),
                            "team": LABELS,
                            "project": LABELS,
                            "cpu_seconds": AMOUNTS,
                            "gpu_seconds": AMOUNTS,
                            "memory_byte_seconds": AMOUNTS.map(lambda amount: amount and amount * GIB),
                        }
                    )
                )
                lines.append(line(str(len(lines)), cluster=cluster, node=str(node), **facts, **window, **about))
    return lines


@st.composite
def price_lists(draw):
    amount = st.integers(0, 10**11)
    nodes = {name: NodePrice(on_demand=draw(amount), spot=draw(amount)) for name in ("n", "odd")}
    nodes["free"] = NodePrice(on_demand=0, spot=0, cpus=2, gpus=1, memory=1)
    kinds = ("idle", "system", "startup", "background", "other", "unexplained", "unattributed")
    shared = Shared(**{kind: draw(RULES) for kind in kinds})
    units = {"cpu_hour": draw(amount), "gib_hour": draw(amount), "gpu_hour": {"default": draw(amount)}}
    return Prices(name="any", version="1", nodes=nodes, shared=shared, **units)


ANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)


@ANY
@given(usages(), price_lists())
def test_the_law_the_lines_of_a_window_cost_its_time_by_its_price(lines, prices):
    found = by(costs(*lines, prices=prices), "cluster", "node", "started_at", "ended_at")
    for (cluster, node, start, end), sum_ in found.items():
        a_line = next(one for one in lines if (one["cluster"], one["node"]) == (cluster, node))
        cpus, gpus, memory = (a_line[name] or 0 for name in ("node_cpus", "node_gpus", "node_memory"))
        of_type = Node(type=a_line["node_type"], market=a_line["market"], cpus=cpus, gpus=gpus, memory=memory)
        hour = rate(of_type, prices).hour
        since, until = ((moment - EPOCH) // timedelta(microseconds=1) for moment in (start, end))
        assert sum_ == hour * until // (3600 * 10**6) - hour * since // (3600 * 10**6)
    assert len(found) == len({(one["cluster"], one["node"], one["started_at"]) for one in lines})


@ANY
@given(usages(), price_lists())
def test_every_line_is_paid_for_once_and_spread_as_its_rule_says(lines, prices):
    rows = costs(*lines, prices=prices)
    used = {one["id"]: one for one in lines}
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["usage_id"] for row in rows} == set(used)
    assert all(row["nanousd"] >= 0 for row in rows)
    kept = by(costs(*lines, prices=replace(prices, shared=Shared(**dict.fromkeys(vars(Shared()), "keep")))), "usage_id")
    assert by(rows, "usage_id") == kept  # a rule moves no money between lines
    for row in rows:
        one = used[row["usage_id"]]
        rule = getattr(prices.shared, one["kind"], "keep")
        if row["is_shared"]:
            assert one["team"] is None
            assert row["team"] is not None
            assert rule != "keep"
            assert not any(row[name] for name in QUANTITIES)
        else:
            assert all(row[name] == one[name] for name in (*QUANTITIES, "team", "project", "run_id", "kind"))


@ANY
@given(usages(), price_lists(), st.randoms())
def test_neither_order_nor_repetition_changes_a_line(lines, prices, random):
    once = sorted(costs(*lines, prices=prices), key=lambda row: row["id"])
    random.shuffle(lines)
    assert sorted(costs(*lines, prices=prices), key=lambda row: row["id"]) == once


@ANY
@given(usages(), price_lists())
def test_clusters_and_times_are_priced_by_themselves(lines, prices):
    whole = table(*lines)
    apart = []
    for cluster, start, end in windows(whole):
        part = [one for one in lines if one["cluster"] == cluster and start <= one["started_at"] < end]
        assert all(one["ended_at"] <= end for one in part)
        apart += costs(*part, prices=prices)
    assert sorted(map(str, apart)) == sorted(map(str, price(whole, prices).to_pylist()))


def test_costs_have_the_schema_of_the_ledger_and_go_into_it(tmp_path):
    found = price(table(task("a"), line("b", cpu_seconds=3.0)), FLAT)
    assert found.schema == COSTS
    ledger = Ledger(str(tmp_path))
    for _ in range(2):
        ledger.put_costs(found)
    assert sum(batch.num_rows for batch in ledger.costs()) == found.num_rows == 2


def test_nothing_costs_nothing():
    assert price(USAGE.empty_table(), FLAT) == COSTS.empty_table()
    assert windows(USAGE.empty_table()) == []


def test_a_minute_of_a_node_is_divided_by_what_was_used():
    rows = costs(task("a", "red", 1.0), task("b", "blue", 2.0), line("c", cpu_seconds=237.0))
    minute = HOUR_USD * 10 // 60
    direct = {row["usage_id"]: row["nanousd"] for row in rows if not row["is_shared"]}
    assert direct == {"a": minute // 240, "b": minute // 120}
    shared = {row["team"]: row["nanousd"] for row in rows if row["is_shared"]}
    assert shared == {"red": minute * 79 // 240, "blue": minute * 158 // 240}


def test_cores_gpus_and_memory_are_paid_by_those_who_used_them():
    prices = replace(LOCAL, cpu_hour=HOUR_USD, gib_hour=HOUR_USD, gpu_hour={"default": HOUR_USD * 10})
    rows = costs(
        task("a", "cpu", 240.0, node_gpus=1.0),
        line("b", kind="task", team="gpu", gpu_seconds=30.0, node_gpus=1.0),
        line("c", kind="task", team="memory", memory_byte_seconds=1e9, node_gpus=1.0),
        line("d", gpu_seconds=30.0, node_gpus=1.0),
        prices=prices,
    )
    minute = HOUR_USD // 60
    assert by(rows, "usage_id") == {"a": 4 * minute, "b": 5 * minute, "c": 8 * minute, "d": 5 * minute}


def test_lines_that_used_more_than_there_is_share_all_of_it():
    assert by(costs(task("a", cpu=3000.0), task("b", cpu=1000.0)), "usage_id") == {
        "a": 3 * HOUR_USD // 24,
        "b": HOUR_USD // 24,
    }


def test_a_correction_below_zero_bears_nothing():
    assert by(costs(task("a", cpu=-1.0), task("b", "u", 2.0)), "usage_id") == {"a": 0, "b": HOUR_USD // 6}


@pytest.mark.parametrize(
    ("lines", "bearer"),
    [
        ([task("a", cpu=0.0), line("b"), line("c", kind="system")], "b"),
        ([task("a", cpu=0.0), line("c", kind="unattributed", cpu_seconds=0.0)], "c"),
        ([task("a", cpu=None)], "a"),
    ],
)
def test_a_window_in_which_nothing_was_used_is_borne_by_idle_else_by_nobody_s_lines(lines, bearer):
    kept = replace(FLAT, shared=Shared(idle="keep", system="keep"))
    rows = costs(*lines, prices=kept)
    assert {key: amount for key, amount in by(rows, "usage_id").items() if amount} == {bearer: HOUR_USD // 6}


def test_a_spot_node_costs_the_spot_price():
    assert sum(by(costs(line(market="spot")), "id").values()) == HOUR_USD // 60


def test_shared_lines_go_to_owners_on_other_nodes_of_the_same_window_and_cluster_only():
    rows = costs(
        task("a", "red"),
        line("b", node="two"),
        line("c", node="three", cluster="other"),
        line("d", started_at=START + MINUTE, ended_at=START + 2 * MINUTE),
    )
    assert {(row["usage_id"], row["team"], row["is_shared"]) for row in rows} == {
        ("a", "red", False),
        ("b", "red", True),
        ("c", None, False),  # nobody worked there
        ("d", None, False),  # nobody worked then
    }


def test_a_node_that_came_in_the_middle_of_a_window_is_spread_with_it():
    rows = costs(task("a", "red"), line("b", node="two", started_at=START + MINUTE / 2))
    assert by(rows, "team") == {"red": HOUR_USD * 10 // 60 * 3 // 2}


def test_a_bearer_is_a_team_with_its_project_environment_run_and_workload():
    both = [
        line("a", kind="task", team="t", project="p", environment="e", run_id="r", workload="w", cpu_seconds=1.0),
        line("b", kind="task", team="t", project="", environment="e", run_id="r", workload="w", cpu_seconds=1.0),
        line("c", kind="task", team="t", environment="e", run_id="r", workload="w", cpu_seconds=1.0),
    ]
    rows = costs(*both, line("d", cpu_seconds=3.0))
    shared = [row for row in rows if row["is_shared"]]
    assert {(row["project"], row["run_id"], row["workload"], row["environment"]) for row in shared} == {
        (project, "r", "w", "e") for project in ("p", "", None)
    }
    assert len({row["id"] for row in rows}) == 6


def test_even_is_in_equal_parts_and_a_named_owner_bears_all():
    shared = Shared(idle="even", system=To(to=Owner(team="platform", project="base")))
    rows = costs(
        task("a", "red", 10.0),
        task("b", "blue", 20.0),
        line("c", cpu_seconds=30.0),
        line("d", kind="system", cpu_seconds=60.0),
        prices=replace(FLAT, shared=shared),
    )
    spread = {(row["usage_id"], row["team"], row["project"]): row["nanousd"] for row in rows if row["is_shared"]}
    part = HOUR_USD * 10 // 60 // 8
    assert spread == {("c", "red", None): part, ("c", "blue", None): part, ("d", "platform", "base"): 4 * part}


def test_owners_who_cost_nothing_themselves_share_evenly():
    rows = costs(task("a", "red", 0.0), task("b", "blue", 0.0), line("c", cpu_seconds=1.0))
    assert by(rows, "team") == {"red": HOUR_USD // 12, "blue": HOUR_USD // 12}


def test_work_that_nobody_labelled_stays_nobody_s():
    rows = costs(task("a", "red"), line("b", kind="task", cpu_seconds=1.0), line("c", kind="driver", cpu_seconds=1.0))
    assert [(row["usage_id"], row["is_shared"]) for row in rows if row["team"] is None] == [("b", False), ("c", False)]


def test_ids_tell_lines_owners_and_price_lists_apart():
    lines = [task("a", "red"), line("b", cpu_seconds=1.0)]
    ids = [row["id"] for row in costs(*lines)]
    assert ids[0] == line_id("a", "flat@1")
    assert not set(ids) & {row["id"] for row in costs(*lines, prices=replace(FLAT, version="2"))}


def test_a_line_that_comes_late_replaces_the_window_and_bearers_that_are_gone_are_named():
    lines = [task("a", "red"), line("b", cpu_seconds=3.0)]
    before = price(table(*lines), FLAT)
    late = task("a", "blue")  # the same line, which another owner turns out to have caused
    assert windows(table(late)) == [Window("c", START, START + MINUTE)]
    after = price(table(late, *lines[1:]), FLAT)
    removed = gone(before, after)
    assert [(row["team"], row["is_shared"]) for row in before.to_pylist() if row["id"] in removed] == [("red", True)]
    left = {row["id"]: row for row in before.to_pylist() if row["id"] not in removed}
    left |= {row["id"]: row for row in after.to_pylist()}
    assert by(left.values(), "team") == {"blue": HOUR_USD // 6}
    assert gone(after, after) == []


def test_windows_are_as_long_as_those_of_their_nodes_together():
    lines = [
        line("a", ended_at=START + MINUTE / 3),
        line("b", node="two"),
        line("c", node="two", started_at=START + MINUTE, ended_at=START + 2 * MINUTE),
        line("d", cluster="other", started_at=START + MINUTE / 2),
    ]
    assert windows(table(*lines)) == [
        Window("c", START, START + MINUTE),
        Window("c", START + MINUTE, START + 2 * MINUTE),
        Window("other", START + MINUTE / 2, START + MINUTE),
    ]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([line("a"), line("a")], "usage a stands twice"),
        ([line("a", node=None)], "1 lines of usage have no node"),
        ([line("a", ended_at=START - MINUTE)], "usage a ends before it starts"),
        ([line("a"), line("b", cpu_seconds=float("inf"))], "usage b: cpu_seconds is inf"),
        ([line("a", gpu_seconds=float("nan"))], "usage a: gpu_seconds is nan"),
        ([line("a", memory_byte_seconds=1e300)], "usage a: memory_byte_seconds is 1e"),
    ],
)
def test_lines_that_cannot_be_usage_are_refused(lines, says):
    with pytest.raises(RayclusterError, match=says):
        costs(*lines)


def test_a_node_without_price_is_named():
    with pytest.raises(InvalidUse, match="no price for nodes of type 'm9'"):
        costs(line(node_type="m9"), prices=Prices(name="p", version="1", nodes=FLAT.nodes))
