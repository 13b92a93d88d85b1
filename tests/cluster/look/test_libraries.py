"""Libraries that are installed, and cannot be used."""

from pathlib import Path


def test_each_failure_is_told_and_hides_no_other(look, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (tmp_path / "lance.py").write_text("raise ImportError('GLIBC_2.34 not found')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = {one.what: (one.level, one.fix) for one in look("libraries")}
    assert found["torch is installed and cannot be used: operator torchvision::nms does not exist"][0] == "problem"
    assert found["lance is installed and cannot be used: GLIBC_2.34 not found"][1].endswith("pylance")
    assert found["loaded and working: av, cykooz_resizer, onnxruntime, faiss, ray"][0] == "ok"
