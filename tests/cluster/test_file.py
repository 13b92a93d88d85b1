"""A file is one of `ray up` or of Kubernetes, or it is said that it is neither."""

from __future__ import annotations

import pytest
from cluster_files import AWS, KUBERAY

from raycluster.cluster.file import load_cluster
from raycluster.errors import InvalidFile, NotFound


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("apiVersion: raycluster/v1\nkind: Workload\n", ":2:1: describes no cluster"),
        ("apiVersion: v1\nkind: Pod\n", ":2:1: describes no cluster"),
        (f"{AWS}---\n{AWS}", "a `ray up` file is one document"),
        ("", ":1:1: expected a mapping, found nothing"),
        ("a: [", "not YAML"),
    ],
)
def test_what_describes_no_cluster(text, what, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(InvalidFile) as wrong:
        load_cluster(file)
    assert what in str(wrong.value)


def test_both_kinds_are_read(tmp_path):
    file = tmp_path / "x.yaml"
    for text, kind in ((AWS, "ray up"), (KUBERAY, "RayCluster")):
        file.write_text(text)
        found = load_cluster(str(file))
        assert ([one.kind for one in found.shapes], found.findings, found.path) == ([kind], (), str(file))
    with pytest.raises(NotFound):
        load_cluster(tmp_path / "none.yaml")
