"""Stages whose packages are not there: hidden from Python, as if they had never been installed."""

from pathlib import Path

import pytest

from raycluster.cluster.look import packages

WORKLOAD = """
apiVersion: raycluster/v1
kind: Workload
metadata: {name: w, labels: {team: t}}
spec:
  source: {files: {paths: [x]}}
  decode: {%s}
  encode: [%s]
  sink: {dataset: d}
"""


@pytest.fixture
def hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function after which modules cannot be found."""

    def hidden(*names: str) -> None:
        refusing = f"""
import sys
class Hides:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}')
sys.meta_path.insert(0, Hides())
"""
        (tmp_path / "sitecustomize.py").write_text(refusing)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return hidden


@pytest.fixture
def workload(tmp_path: Path):
    """Return a function that writes a workload and returns its path."""

    def written(decode: str, *encode: str) -> tuple[str]:
        file = tmp_path / "w.yaml"
        file.write_text(WORKLOAD % (decode, ", ".join(f"{{use: {name}}}" for name in encode)))
        return (str(file),)

    return written


def test_all_that_these_stages_need_is_there(look, workload) -> None:
    found = look("packages", workloads=workload("text: {}", "minilm", "whisper"))
    assert [(one.level, "encode whisper" in one.what) for one in found] == [("ok", True)]


def test_an_encoder_s_package_and_how_to_install_it(look, workload, hide) -> None:
    hide("faster_whisper")
    (found,) = look("packages", workloads=workload("text: {}", "whisper"))
    assert (found.level, "encode whisper of w needs it" in found.what) == ("problem", True)
    assert found.fix == 'pip install "raycluster[speech]"'


def test_what_a_decoder_asks_for_at_once_and_what_only_some_objects_need(look, workload, hide) -> None:
    hide("sentencex", "charset_normalizer")
    found = look("packages", workloads=workload("text: {}"))
    assert [(one.level, one.what.split()[0]) for one in found] == [
        ("problem", "sentencex"),
        ("warning", "charset_normalizer"),
    ]


def test_options_decide_what_a_decoder_needs(look, workload, hide) -> None:
    hide("scenedetect")
    assert [one.level for one in look("packages", workloads=workload("video: {}"))] == ["ok"]
    (found,) = look("packages", workloads=workload("video: {scenes: true}"))
    assert (found.level, found.fix) == ("problem", 'pip install "raycluster[scenes]"')


def test_without_workloads_extras_that_are_not_there_are_only_noted(look, tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "raycluster-0.0.9.dist-info"
    place.mkdir()
    said = "Metadata-Version: 2.1\nName: raycluster\nVersion: 0.0.9\nProvides-Extra: rare\nProvides-Extra: common\n"
    said += "Requires-Dist: nobody-has-this; extra == 'rare'\nRequires-Dist: click; extra == 'common'\n"
    (place / "METADATA").write_text(said)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = look("packages")
    assert [(one.level, "rare" in one.what, "common" in one.what) for one in found] == [
        ("note", True, False),
        ("ok", False, True),
    ]
    assert found[0].fix == 'pip install "raycluster[rare]"'


def test_every_call_of_need_in_a_family_is_read() -> None:
    folder = Path(packages.__file__).parents[2]
    for family in ("decode", "encode"):
        for file in (folder / family).glob("*.py"):
            calls = [line for line in file.read_text().splitlines() if "need(" in line and "def " not in line]
            own = {module for module, _, _ in packages.needs(file)}
            assert not calls or own, file
