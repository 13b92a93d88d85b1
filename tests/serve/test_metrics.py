"""The page that Prometheus reads: who may, what is on it, and that replicas stand beside each other."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raycluster.errors import Forbidden
from raycluster.serve.measure import merge


def samples(text):
    """Return every sample of a page: name and labels (but `replica`) -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = tuple(sorted((key, value) for key, value in one.labels.items() if key != "replica"))
            found[one.name, labels] = one.value
    return found


def value(client, name, **labels):
    return samples(client.get("/metrics").text).get((name, tuple(sorted(labels.items()))))


def test_the_page_is_text_as_prometheus_reads_it(client):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"raycluster_runs", "raycluster_http_requests", "raycluster_lake_up", "process_cpu_seconds"} <= names
    assert "_created" not in answer.text
    assert {
        one.labels["replica"] for family in text_string_to_metric_families(answer.text) for one in family.samples
    } == {"local"}


def test_replicas_stand_beside_each_other(client, context):
    context.metrics.requests.labels("runs", "GET", "200").inc(2)
    texts = {"b": context.metrics.snapshot()}
    context.metrics.requests.labels("runs", "GET", "200").inc(3)
    context.metrics.gather = lambda: {**texts, "a": context.metrics.snapshot()}
    text = client.get("/metrics").text
    assert 'raycluster_http_requests_total{group="runs",method="GET",replica="a",status="200"} 5.0' in text
    assert 'raycluster_http_requests_total{group="runs",method="GET",replica="b",status="200"} 2.0' in text
    assert text.count("# TYPE raycluster_http_requests_total counter") == 1


def test_who_may_not_see_metrics_sees_none(ask, told, monkeypatch):
    def permit(principal, method, path):
        if tuple(path) == ("metrics",) and principal.subject != "ann":
            raise Forbidden("no")

    monkeypatch.setattr(told, "permit", permit)
    assert ask("ann", "/metrics").status_code == 200
    assert ask("bob", "/metrics").status_code == 403
    assert ask("eve", "/metrics").status_code == 401


# --- several replicas ------------------------------------------------------------------------------------------------

HISTOGRAM = """# HELP s Seconds.
# TYPE s histogram
s_bucket{le="0.1"} 1.0
s_bucket{le="+Inf"} 2.0
s_count 2.0
s_sum 0.7
"""


def test_merging_keeps_types_labels_and_values():
    odd = '# HELP c_total Words.\n# TYPE c_total counter\nc_total{x="it\\"s \\\\ odd\\n"} 3.0\n'
    merged = merge({"r2": HISTOGRAM, "r1": HISTOGRAM + odd})
    families = {one.name: one for one in text_string_to_metric_families(merged)}
    assert (families["s"].type, families["c"].type) == ("histogram", "counter")
    (sample,) = families["c"].samples
    assert (sample.labels, sample.value) == ({"x": 'it"s \\ odd\n', "replica": "r1"}, 3.0)
    sums = {one.labels["replica"]: one.value for one in families["s"].samples if one.name == "s_sum"}
    assert sums == {"r1": 0.7, "r2": 0.7}
    assert len(families["s"].samples) == 8


def test_a_replica_that_died_while_it_spoke_takes_nobody_with_it(caplog):
    merged = merge({"r1": HISTOGRAM, "r2": HISTOGRAM + 's_sum{le="0.'})
    assert 's_sum{replica="r1"} 0.7' in merged
    assert "r2" not in merged
    assert "replica r2" in caplog.text


@pytest.mark.parametrize("texts", [{}, {"r1": ""}])
def test_merging_nothing_is_nothing(texts):
    assert merge(texts) == ""
