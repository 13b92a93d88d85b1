"""What shells are told becomes variables and options, as far as a check needs them."""

from __future__ import annotations

import pytest

from raycluster.cluster.shape import environment, labels_of, started


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1 B='two words' ray start", {"A": "1", "B": "two words"}),
        ("export A=1; export A=2", {"A": "2"}),
        ("cat > x <<'END'\nexport A=$HOME/x\n# export B=1\nEND", {"A": "$HOME/x"}),
        ("-e A=1 --env=B=2", {"A": "1", "B": "2"}),
        ("echo 'export A=1' >> ~/.bashrc", {"A": "1"}),
        ("ray start --port=6379 --labels=a/b=c pkg==1.2 x.y=3", {}),
    ],
)
def test_variables(text, found):
    assert environment([text]) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "ulimit -n 1; ~/venv/bin/ray start --head --port 6379 --num-cpus=0 && x",
            {"head": "", "port": "6379", "num-cpus": "0"},
        ),
        ("ray start --address=$RAY_HEAD_IP:6379", {"address": "$RAY_HEAD_IP:6379"}),
        ("""ray start --resources='{"a": 1}'""", {"resources": '{"a": 1}'}),
        ("ray start \\\n  --head", {"head": ""}),
        ("ray start --name='open", {"name": "'open"}),
        ("ray stop", None),
        ("array start --head", None),
    ],
)
def test_options(text, found):
    assert started(["true", text]) == found


def test_labels():
    assert labels_of({"labels": '"a/b=c, d=e"'}) == {"a/b": "c", "d": "e"}
    assert labels_of({"labels": ""}) == labels_of({}) == labels_of(None) == {}
