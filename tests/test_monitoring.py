"""What workloads/monitoring says of a cluster: rules fire when they should, and the dashboard is sound.

tests/test_monitoring_really.py asks a real cluster for every metric.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "workloads/monitoring"
GROUPS = yaml.safe_load((FOLDER / "cluster.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = [rule["alert"] for rule in ALERTS]
PROMTOOL = shutil.which("promtool")  # of Debian's package `prometheus`
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, of Debian's package `prometheus`")

COST, NODE = "raycluster_hour_cost_usd", 'SessionName="s",NodeAddress="10.0.0.1"'
WAITS = 'ray_scheduler_unscheduleable_tasks{SessionName="s",NodeAddress="10.0.0.1",Reason='
# Alert -> minutes after which it is looked for, series that make it fire, and series that do not.
CASES = {
    "NodeDoesNotAnswer": (
        10,
        {'up{job="ray",instance="a"}': "0x30", 'up{job="ray",instance="b"}': "1x30"},
        {'up{job="ray",instance="a"}': "1x30", 'up{job="raycluster",instance="a"}': "0x30"},
    ),
    "TasksFitNowhere": (
        25,
        {f'{WAITS}"Infeasible"}}': "2x40"},
        {f'{WAITS}"Infeasible"}}': "2x5 0x40", f'{WAITS}"WaitingForResources"}}': "9x40"},
    ),
    "NodesNeverCome": (
        30,
        {'autoscaler_pending_nodes{NodeType="gpu"}': "1x40"},
        {'autoscaler_pending_nodes{NodeType="gpu"}': "1x10 0x40", 'autoscaler_active_nodes{NodeType="gpu"}': "1x40"},
    ),
    "AutoscalerFails": (
        30,
        {
            "autoscaler_failed_create_nodes_total": "0x10 1+1x30",
            "autoscaler_node_launch_exceptions_total": "0x40",
            "autoscaler_update_loop_exceptions_total": "0x40",
        },
        {
            "autoscaler_failed_create_nodes_total": "3x40",
            "autoscaler_node_launch_exceptions_total": "0x40",
            "autoscaler_update_loop_exceptions_total": "0x40",
        },
    ),
    "ObjectStoreIsFull": (
        20,
        {f"ray_object_store_used_memory{{{NODE}}}": "95x40", f"ray_object_store_available_memory{{{NODE}}}": "5x40"},
        {f"ray_object_store_used_memory{{{NODE}}}": "80x40", f"ray_object_store_available_memory{{{NODE}}}": "20x40"},
    ),
    "ObjectsAreSpilled": (
        20,
        {f'ray_object_store_memory{{{NODE},Location="SPILLED"}}': "2000000000x40"},
        {
            f'ray_object_store_memory{{{NODE},Location="SPILLED"}}': "1000x40",
            f'ray_object_store_memory{{{NODE},Location="IN_MEMORY"}}': "2000000000x40",
        },
    ),
    "MemoryIsShort": (
        15,
        {'ray_node_mem_used{SessionName="s",ip="a"}': "95x40", 'ray_node_mem_total{SessionName="s",ip="a"}': "100x40"},
        {'ray_node_mem_used{SessionName="s",ip="a"}': "90x40", 'ray_node_mem_total{SessionName="s",ip="a"}': "100x40"},
    ),
    "DiskIsFull": (
        10,
        {'ray_node_disk_utilization_percentage{SessionName="s",ip="a"}': "93x40"},
        {'ray_node_disk_utilization_percentage{SessionName="s",ip="a"}': "60x40"},
    ),
    "AgentIsMissing": (
        15,
        {
            'ray_node_mem_total{SessionName="s",ip="10.0.0.1"}': "1x40",
            'ray_node_mem_total{SessionName="s",ip="10.0.0.2"}': "1x40",
            f"ray_raycluster_agent_unsent_windows{{{NODE}}}": "0x40",
        },
        {
            'ray_node_mem_total{SessionName="s",ip="10.0.0.1"}': "1x40",
            f"ray_raycluster_agent_unsent_windows{{{NODE}}}": "0x40",
        },
    ),
    "UsageIsNotWritten": (
        15,
        {f"ray_raycluster_agent_unsent_windows{{{NODE}}}": "0+6x40"},
        {f"ray_raycluster_agent_unsent_windows{{{NODE}}}": "1x40"},
    ),
    "NodesAreLost": (
        10,
        {f'{COST}{{team="a",kind="unattributed"}}': "1x40", f'{COST}{{team="a",kind="task"}}': "9x40"},
        {f'{COST}{{team="a",kind="unattributed"}}': "0.01x40", f'{COST}{{team="a",kind="task"}}': "9x40"},
    ),
    "TimeIsUnexplained": (
        20,
        {
            'raycluster_hour_cpu_seconds{kind="unexplained",replica="a"}': "5x40",
            'raycluster_hour_cpu_seconds{kind="task",replica="a"}': "95x40",
            'raycluster_hour_cpu_seconds{kind="task",replica="b"}': "95x40",
        },
        {
            'raycluster_hour_cpu_seconds{kind="unexplained",replica="a"}': "0.5x40",
            'raycluster_hour_cpu_seconds{kind="task",replica="a"}': "99x40",
        },
    ),
    "GpusAreIdle": (
        40,
        {
            'ray_resources{SessionName="s",NodeAddress="a",Name="GPU",State="AVAILABLE"}': "3x60",
            'ray_resources{SessionName="s",NodeAddress="a",Name="GPU",State="USED"}': "1x60",
        },
        {
            'ray_resources{SessionName="s",NodeAddress="a",Name="GPU",State="AVAILABLE"}': "1x60",
            'ray_resources{SessionName="s",NodeAddress="a",Name="GPU",State="USED"}': "3x60",
            'ray_resources{SessionName="s",NodeAddress="a",Name="CPU",State="AVAILABLE"}': "64x60",
        },
    ),
    "BudgetIsNearlyUsed": (
        5,
        {
            'raycluster_budget_spent_usd{budget="b",period="month",replica="a"}': "9x40",
            'raycluster_budget_limit_usd{budget="b",period="month",replica="a"}': "10x40",
        },
        {
            'raycluster_budget_spent_usd{budget="b",period="month",replica="a"}': "7x40",
            'raycluster_budget_limit_usd{budget="b",period="month",replica="a"}': "10x40",
        },
    ),
    "BudgetIsUsedUp": (
        5,
        {
            'raycluster_budget_spent_usd{budget="b",period="month",replica="a"}': "11x40",
            'raycluster_budget_limit_usd{budget="b",period="month",replica="a"}': "10x40",
        },
        {
            'raycluster_budget_spent_usd{budget="b",period="month",replica="a"}': "9x40",
            'raycluster_budget_limit_usd{budget="b",period="month",replica="a"}': "10x40",
        },
    ),
}


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_alert_says_who_is_called_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["fix"].endswith(".")
    assert f"`{rule['alert']}`" in (FOLDER / "README.md").read_text()


def test_every_alert_has_its_case():
    assert sorted(CASES) == sorted(NAMES)


@needs_promtool
@pytest.mark.parametrize("name", NAMES)
def test_an_alert_fires_when_it_should_and_not_otherwise(name, tmp_path):
    minutes, bad, good = CASES[name]
    expr = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [
                {"expr": expr, "eval_time": f"{minutes}m", "exp_samples": [{"labels": "{}", "value": fires}]}
            ],
        }
        for given, fires in ((bad, 1), (good, 0))
    ]
    rules = {"rule_files": [str(FOLDER / "cluster.yaml")], "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(rules))
    done = subprocess.run([PROMTOOL, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
# Of the ids that Grafana's value formats have (getValueFormats): another one shows as plain text behind each number.
UNITS = {"none", "short", "s", "bytes", "Bps", "percent", "percentunit", "currencyUSD", "reqps", "rowsps"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def plain(expr: str) -> str:
    """Return an expression of the dashboard with Grafana's variables filled in."""
    return expr.replace("$__rate_interval", "1m").replace("$cluster", ".*")


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == ["Runs", "Cost", "Cluster", "Serving"]


@pytest.mark.parametrize("panel", [one for one in PANELS if one["type"] != "row"], ids=lambda one: one["title"])
def test_every_panel_says_its_unit_and_asks_the_chosen_prometheus(panel):
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE for target in panel["targets"])
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references) > 0
    assert len(panel["targets"]) == 1 or all(target["legendFormat"] for target in panel["targets"])


def test_variables_and_links_are_there():
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "cluster"]
    assert all(link["url"].startswith("http://127.0.0.1:") for link in DASHBOARD["links"])


@needs_promtool
def test_prometheus_reads_every_expression_of_the_dashboard_and_its_own_files(tmp_path):
    exprs = [plain(target["expr"]) for panel in PANELS for target in panel.get("targets", [])]
    rules = [{"record": f"panel:{place}", "expr": expr} for place, expr in enumerate(exprs)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    checks = [["rules", str(tmp_path / "panels.yaml"), "cluster.yaml"], ["config", "prometheus.yaml"]]
    for words in checks:
        done = subprocess.run([PROMTOOL, "check", *words], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(exprs) > 40
