"""The rules in `workloads/monitoring` speak of metrics that there are, and fire when they should and not otherwise."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "workloads/monitoring"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]
PROMTOOL = shutil.which("promtool")  # of Debian's package `prometheus`

# Alert -> minutes after which it is looked for, series that make it fire, and series that do not.
CASES = {
    "NobodyServes": (5, {}, {'raycluster_lake_up{replica="a"}': "1x30"}),
    "LakeDoesNotAnswer": (
        5,
        {'raycluster_lake_up{replica="a"}': "0x30", 'raycluster_lake_up{replica="b"}': "1x30"},
        {'raycluster_lake_up{replica="a"}': "1x30"},
    ),
    "RequestsFail": (
        15,
        {
            'raycluster_http_requests_total{group="search",status="200",replica="a"}': "0+90x30",
            'raycluster_http_requests_total{group="search",status="503",replica="b"}': "0+10x30",
        },
        {
            'raycluster_http_requests_total{group="search",status="200",replica="a"}': "0+1000x30",
            'raycluster_http_requests_total{group="search",status="500",replica="b"}': "0+1x30",
            'raycluster_http_requests_total{group="search",status="404",replica="b"}': "0+900x30",
        },
    ),
    "RequestsAreRefused": (
        20,
        {
            'raycluster_http_requests_total{group="search",status="200"}': "0+90x30",
            'raycluster_http_requests_total{group="none",status="429"}': "0+10x30",
        },
        {'raycluster_http_requests_total{group="search",status="200"}': "0+90x30"},
    ),
    "SearchIsSlow": (
        20,
        {
            'raycluster_search_seconds_bucket{dataset="d",le="0.5"}': "0+50x30",
            'raycluster_search_seconds_bucket{dataset="d",le="1.0"}': "0+100x30",
            'raycluster_search_seconds_bucket{dataset="d",le="+Inf"}': "0+100x30",
        },
        {
            'raycluster_search_seconds_bucket{dataset="d",le="0.1"}': "0+100x30",
            'raycluster_search_seconds_bucket{dataset="d",le="+Inf"}': "0+100x30",
        },
    ),
    "SearchMissesRows": (
        25,
        {'raycluster_search_recall{dataset="d",replica="a"}': "0.8x30"},
        {'raycluster_search_recall{dataset="d",replica="a"}': "0.97x30"},
    ),
    "RowsHaveNoIndex": (
        35,
        {
            'raycluster_search_unindexed_rows{dataset="d",index="i",replica="a"}': "50000x40",
            'raycluster_dataset_rows{dataset="d",replica="b"}': "100000x40",
        },
        {
            'raycluster_search_unindexed_rows{dataset="d",index="i",replica="a"}': "900x40",
            'raycluster_dataset_rows{dataset="d",replica="a"}': "1000x40",
        },
    ),
    "ReplicaServesAnOldVersion": (
        5,
        {
            'raycluster_dataset_live_version{dataset="d",replica="a"}': "8x30",
            'raycluster_search_version{dataset="d",replica="a"}': "7x30",
        },
        {
            'raycluster_dataset_live_version{dataset="d",replica="a"}': "8x30",
            'raycluster_search_version{dataset="d",replica="a"}': "8x30",
            'raycluster_dataset_live_version{dataset="e",replica="a"}': "8x30",
        },
    ),
    "FollowerIsStuck": (
        5,
        {'raycluster_follower_seconds{replica="a"}': "0+60x30"},
        {'raycluster_follower_seconds{replica="a"}': "1x30"},
    ),
    "GateHasProblems": (
        10,
        {'raycluster_gate_problems{replica="a"}': "1x30"},
        {'raycluster_gate_problems{replica="a"}': "0x30"},
    ),
    "DecisionsAreSlow": (
        20,
        {
            'raycluster_decision_seconds_bucket{le="0.01"}': "0+50x30",
            'raycluster_decision_seconds_bucket{le="0.05"}': "0+100x30",
            'raycluster_decision_seconds_bucket{le="+Inf"}': "0+100x30",
        },
        {
            'raycluster_decision_seconds_bucket{le="0.001"}': "0+100x30",
            'raycluster_decision_seconds_bucket{le="+Inf"}': "0+100x30",
        },
    ),
    "RunFailed": (
        5,
        {
            'raycluster_run_ended_timestamp_seconds{workload="w",dataset="d",status="done"}': "100x30",
            'raycluster_run_ended_timestamp_seconds{workload="w",dataset="d",status="failed"}': "200x30",
            'raycluster_run_ended_timestamp_seconds{workload="v",dataset="e",status="failed"}': "200x30",
        },
        {
            'raycluster_run_ended_timestamp_seconds{workload="w",dataset="d",status="done"}': "300x30",
            'raycluster_run_ended_timestamp_seconds{workload="w",dataset="d",status="failed"}': "200x30",
        },
    ),
    "RunIsSilent": (
        10,
        {'raycluster_runs{status="stale",replica="a"}': "1x30"},
        {'raycluster_runs{status="stale",replica="a"}': "0x30", 'raycluster_runs{status="running"}': "3x30"},
    ),
    "UploadsWait": (
        15,
        {'raycluster_runs{status="queued"}': "4x30", 'raycluster_runs{status="running"}': "0x30"},
        {'raycluster_runs{status="queued"}': "4x30", 'raycluster_runs{status="running"}': "1x30"},
    ),
    "MuchIsQuarantined": (
        10,
        {
            'raycluster_quarantined_rows{dataset="d",code="corrupt",replica="a"}': "4x30",
            'raycluster_quarantined_rows{dataset="d",code="empty",replica="a"}': "4x30",
            'raycluster_dataset_rows{dataset="d",replica="a"}': "100x30",
        },
        {
            'raycluster_quarantined_rows{dataset="d",code="corrupt",replica="a"}': "4x30",
            'raycluster_quarantined_rows{dataset="d",code="corrupt",replica="b"}': "4x30",
            'raycluster_dataset_rows{dataset="d",replica="a"}': "100x30",
        },
    ),
    "DatasetCannotBeRead": (
        10,
        {'raycluster_dataset_up{dataset="d"}': "0x30"},
        {'raycluster_dataset_up{dataset="d"}': "1x30"},
    ),
}
FIRING = {"RunFailed": 2}  # how many fire where it is not one


def test_every_metric_in_the_rules_is_one_that_replicas_tell(client):
    text = client.get("/metrics").text
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    histograms = {line.split()[2] for line in text.splitlines() if line.endswith(" histogram")}
    told |= {f"{name}_bucket" for name in histograms}
    used = {name for rule in RULES for name in re.findall(r"raycluster_\w+", rule["expr"])}
    assert used <= told
    assert len(used) > 10


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_every_rule_says_who_is_called_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["fix"].endswith(".")
    assert f"`{rule['alert']}`" in (FOLDER / "README.md").read_text()


def test_every_rule_has_its_case():
    assert sorted(CASES) == sorted(NAMES)


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, of Debian's package `prometheus`")
def test_prometheus_takes_the_files():
    for words in (["check", "rules", "alerts.yaml"], ["check", "config", "prometheus.yaml"]):
        done = subprocess.run([PROMTOOL, *words], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, of Debian's package `prometheus`")
@pytest.mark.parametrize("name", NAMES)
def test_a_rule_fires_when_it_should_and_not_otherwise(name, tmp_path):
    minutes, bad, good = CASES[name]
    rule = next(one for one in RULES if one["alert"] == name)
    # Only whether and how often: what it says is Prometheus's business.
    counted = {"record": "fired", "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule, counted]}]}))
    cases = [(bad, FIRING.get(name, 1)), (good, 0)]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [
                {"expr": "fired", "eval_time": f"{minutes}m", "exp_samples": [{"labels": "fired", "value": fires}]}
            ],
        }
        for given, fires in cases
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    done = subprocess.run([PROMTOOL, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
