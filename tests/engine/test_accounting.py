"""Runs whose stages burn what they say: what the ledger says of them, whatever dies, and who is billed for it."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import reckoning
from click.testing import CliRunner
from fires import Fire, near, told, wait_until
from ray.cluster_utils import Cluster
from reckoning import costs, having, total, usage

from raycluster import cli
from raycluster.account.settle import settle
from raycluster.declare.prices import LOCAL
from raycluster.engine.agents import agent_of, described
from raycluster.engine.cluster import nodes
from raycluster.lake.lake import Lake

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:lance is not fork-safe"),  # the forks execute another program at once
]

Kindle = Callable[..., Fire]
Nodes = Callable[..., Cluster]


@pytest.fixture
def lay(tmp_path: Path) -> Iterator[Kindle]:
    """Lay a fire, in a folder of its own and the one lake."""
    fires: list[Fire] = []

    def one(name: str = "t", **options: Any) -> Fire:
        fires.append(Fire(folder=tmp_path / name, lake=Lake(str(tmp_path / "lake")), team=name, **options))
        return fires[-1]

    yield one
    for fire in fires:
        fire.clean()


@pytest.fixture
def kindle(cluster: object, lay: Kindle) -> Kindle:
    """Lay a fire on the session's cluster."""
    return lay


@pytest.fixture
def nodes_apart() -> Iterator[Nodes]:
    """Start a cluster of several nodes on this machine, each of so many CPUs, the head first."""
    started = []

    def start(head: int, *others: int) -> Cluster:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
        started.append(cluster)
        for cpus in others:
            cluster.add_node(num_cpus=cpus)
        cluster.wait_for_nodes()
        return cluster

    yield start
    for cluster in started:
        cluster.shutdown()


def address() -> str:
    return str(ray.get_runtime_context().gcs_address)


TEXTS, PAGES = 24, 8
FIRST = {"use": "Burning", "milliseconds": 30}
SECOND = {"use": "Smouldering", "milliseconds": 15}
SHAPES = {"in one pool": [FIRST, SECOND], "in two pools": [FIRST, {**SECOND, "actors": 1, "needs": {"cpu": 0}}]}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_is_billed_by_stage_and_modality(kindle: Kindle, shape: str) -> None:
    fire = kindle(stages=SHAPES[shape])
    fire.write(TEXTS, PAGES)
    summary = fire.run()
    assert summary.rows == TEXTS + PAGES
    lines = usage(fire.lake, run_id=summary.run_id, kind="task")
    for stage in ("burning", "smouldering"):
        for modality, rows in (("text", TEXTS), ("document", PAGES)):
            found, truth = having(lines, stage=stage, modality=modality), fire.burned(stage, modality)
            assert len(truth) == rows
            assert told(f"run, {shape}: {stage}, {modality}", sum(truth), total(found)) == near(sum(truth))
            assert {line["outcome"] for line in found} == {"ok"}
            assert (total(found, "rows_in"), total(found, "rows_out")) == (rows, rows)
    read = having(lines, stage="read")
    assert (total(read, "rows_in"), total(read, "rows_out")) == (TEXTS + PAGES, TEXTS + PAGES)
    assert total(read, "bytes_read") == summary.size_bytes
    assert (total(having(lines, stage="text"), "rows_out"), total(having(lines, stage="document"), "rows_out")) == (
        TEXTS,
        PAGES,
    )
    assert {(line["team"], line["workload"], line["dataset"]) for line in lines} == {("t", "w-t", "d-t")}
    bill = total(costs(fire.lake, run_id=summary.run_id), "nanousd")
    assert summary.cost_usd == pytest.approx(bill / 1e9, abs=1e-12)
    reckoning.require_law(fire.lake)


def test_what_a_killed_worker_did_is_killed_and_what_is_done_again_is_retried(kindle: Kindle) -> None:
    fire = kindle(stages=[{"use": "Burning", "milliseconds": 300}])
    fire.write(24, fatal=12)
    summary = fire.run()
    assert summary.rows == 24
    lines = usage(fire.lake, run_id=summary.run_id, kind="task", stage="burning")
    seen: Counter[str] = Counter()
    truth = {"ok": 0.0, "killed": 0.0, "retried": 0.0}
    again = {word for word, times in Counter(word for _, word, _ in fire.noted()).items() if times > 1}
    assert "text12" in again
    for _, word, burned in fire.noted():
        truth["ok" if word not in again else "retried" if seen[word] else "killed"] += burned
        seen[word] += 1
    measured = {outcome: total(having(lines, outcome=outcome)) for outcome in truth}
    print(f"\nTRUTH | worker of a run killed: {truth} | {measured} |")
    assert measured == {outcome: near(seconds) for outcome, seconds in truth.items()}
    assert sum(measured.values()) == near(sum(fire.burned()))
    reckoning.require_law(fire.lake)


def test_two_teams_at_once_are_billed_apart(kindle: Kindle, tmp_path: Path) -> None:
    gate = {"gate": str(tmp_path / "gate")}
    amounts = {"red": 800, "blue": 1500}
    fires = {
        team: kindle(team, cpu=0, stages=[{"use": "Burning", "milliseconds": amount, **gate}])
        for team, amount in amounts.items()
    }
    for fire in fires.values():
        fire.write(1)  # one worker each: a run that came first and had two would not give one up before the gate opens
    drivers = {team: fire.start(address()) for team, fire in fires.items()}
    for team, fire in fires.items():
        fire.wait_for(1, drivers[team])  # both are at it
    (tmp_path / "gate").touch()
    for team, driver in drivers.items():
        assert driver.wait(120) == 0, fires[team].said()
    lake = fires["red"].lake
    settle(lake, LOCAL)
    parts = []
    for team, amount in amounts.items():
        mine = usage(lake, team=team)
        assert {(line["workload"], line["dataset"]) for line in mine} == {(f"w-{team}", f"d-{team}")}
        assert len({line["run_id"] for line in mine}) == 1
        burned = total(having(mine, stage="burning", outcome="ok"))
        assert told(f"two teams at once: {team}", amount / 1000, burned) == near(amount / 1000)
        assert {line["kind"] for line in mine if line["cpu_seconds"]} >= {"task", "startup", "driver"}
        assert {line["kind"] for line in costs(lake, team=team, is_shared=True)} >= {"system"}
        parts.append(total(costs(lake, team=team), "nanousd"))
    others = [line for line in costs(lake) if line["team"] not in amounts]  # nobody's, and whoever's was here before
    assert {line["kind"] for line in others} >= {"idle"}
    # A worker of an earlier run may still have been ending: what it does is that run's, and says so.
    fires_of_nobody = [line for line in having(others, stage="burning") if line["cpu_seconds"] and not line["run_id"]]
    assert not fires_of_nobody
    whole = usage(lake)
    assert sum(parts) + total(others, "nanousd") == reckoning.due(whole)
    both = [{line["team"] for line in having(whole, started_at=start)} for start, _ in reckoning.windows(whole)]
    assert any(teams >= {"red", "blue", None} for teams in both)
    reckoning.require_law(lake)


def test_a_driver_that_is_killed_is_billed_and_the_next_run_settles_it(kindle: Kindle, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    fire = kindle(stages=[{"use": "Burning", "milliseconds": 200, "gate": str(gate)}])
    fire.write(8)
    driver = fire.start(address())
    fire.wait_for(2, driver)
    time.sleep(1.5)  # the agent has looked
    (agent,) = [agent_of(described(node)) for node in nodes()]
    pid = ray.get(agent.ping.remote())
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    died, lost = time.time(), sum(fire.burned())
    ledger = fire.lake.ledger()
    wait_until(lambda: any(int(name.partition("-")[0]) > died * 1e9 for name in ledger.inbox_names()), 60)
    assert ray.get(agent.ping.remote()) == pid
    gate.touch()
    summary = fire.run()
    assert (summary.status, summary.rows, len(fire.rows())) == ("done", 8, 8)
    assert summary.follows
    dead = usage(fire.lake, run_id=summary.follows)
    killed = total(having(dead, stage="burning", outcome="killed"))
    assert told("driver killed: what its workers lost", lost, killed) == near(lost)
    assert total(having(dead, kind="driver")) > 0
    rest = sum(fire.burned()) - lost
    assert total(usage(fire.lake, run_id=summary.run_id, stage="burning", outcome="ok")) == near(rest)
    before = {line["id"]: line["nanousd"] for line in costs(fire.lake)}
    settle(fire.lake, LOCAL)
    assert {line["id"]: line["nanousd"] for line in costs(fire.lake)} == before
    reckoning.require_law(fire.lake)


def test_a_node_that_dies_is_paid_for_until_that_is_known(tmp_path: Path, lay: Kindle, nodes_apart: Nodes) -> None:
    gate = tmp_path / "gate"
    fire = lay(stages=[{"use": "Burning", "milliseconds": 300, "gate": str(gate)}])
    fire.write(6)
    cluster = nodes_apart(1, 1, 1)
    driver = fire.start(cluster.address)
    fire.wait_for(3, driver)
    victim, ledger, done = next(iter(cluster.worker_nodes)), fire.lake.ledger(), time.time_ns()

    def has_told() -> bool:
        # Of a window that began when the work was done: one that began before may have been told without the end of it.
        own = [name for name in ledger.inbox_names() if victim.node_id[:16] in name]
        return any(int(name.split("-")[1]) >= done for name in own)

    wait_until(has_told)
    os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    wait_until(lambda: [name for name in ledger.inbox_names() if name.endswith("-lost.arrow")])
    gate.touch()
    assert driver.wait(120) == 0, fire.said()
    assert len(fire.rows()) == 6
    mine = usage(fire.lake, node=victim.node_id)
    (lost,) = having(mine, kind="unattributed")
    spans = reckoning.windows(mine)
    assert spans[-1] == (lost["started_at"], lost["ended_at"])
    assert len(spans) >= 2
    assert lost["cpu_seconds"] == pytest.approx((lost["ended_at"] - lost["started_at"]).total_seconds())
    assert total(costs(fire.lake, usage_id=lost["id"]), "nanousd") == reckoning.due([lost])
    # It waits for long, and what Ray's threads do in a process is billed to the only call there.
    assert 0.3 <= total(having(mine, stage="burning")) <= 0.45
    assert len({line["node"] for line in usage(fire.lake)}) == 3
    assert {line["node_cpus"] for line in usage(fire.lake)} == {1.0}
    reckoning.require_law(fire.lake)


BUDGET = """
apiVersion: raycluster/v1
kind: Budget
metadata: {{name: ours}}
spec: {{owner: {{team: t}}, period: year, limit: {limit}}}
"""


def test_a_budget_that_is_crossed_stops_a_run_which_goes_on_when_it_may(kindle: Kindle, tmp_path: Path) -> None:
    gate, budgets = tmp_path / "gate", tmp_path / "budgets.yaml"
    fire = kindle(stages=[{"use": "Burning", "milliseconds": 20, "gate": str(gate)}])
    fire.write(24)
    limited = ["--budgets", str(budgets), "--json"]

    def run(limit: str, *words: str) -> tuple[int, dict[str, Any]]:
        budgets.write_text(BUDGET.format(limit=limit))
        command = ["run", str(fire.file), "--lake", fire.lake.uri, *limited, *words]
        result = CliRunner().invoke(cli.main, command)
        return result.exit_code, json.loads(result.stdout)

    budgets.write_text(BUDGET.format(limit="0.000001"))
    driver = fire.start(address(), *limited[:2])
    wait_until(lambda: fire.lake.events().recent("budget_stop") or driver.poll() is not None)
    gate.touch()
    assert driver.wait(120) == 1, fire.said()
    assert json.loads((fire.folder / "out").read_text())["error"]["code"] == "over_budget"
    (stopped,) = fire.lake.runs().recent()
    assert stopped.status == "stopped"
    assert fire.lake.table("d-t").live() is None
    assert stopped.summary["cost_usd"] > 0.000001
    (event,) = fire.lake.events().recent("budget_stop")
    assert (event.subject, event.run_id) == ("ours", stopped.run_id)

    code, summary = run("1.00")
    assert code == 0, summary
    assert (summary["status"], summary["follows"]) == ("done", stopped.run_id)
    assert 0 < summary["rows"] < 24  # what was finished when it stopped was kept
    assert fire.rows() == sorted(f"text{index}" for index in range(24))

    fire.write(25)
    before = fire.lake.table("d-t").version()
    code, refused = run("0.000001")
    assert (code, refused["error"]["code"]) == (1, "over_budget")
    assert "--over-budget" in refused["error"]["fix"]
    assert fire.lake.table("d-t").version() == before
    assert len(fire.lake.runs().recent()) == 2
    code, summary = run("0.000001", "--over-budget")
    assert (code, summary["status"], summary["rows"]) == (0, "done", 1)
    reckoning.require_law(fire.lake, with_gaps=True)
