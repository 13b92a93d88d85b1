"""What `workloads/` ships can be run as it stands, and what its READMEs say to change is valid."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from raycluster.declare.corpus import load_corpus
from raycluster.declare.workload import load_workload, parse_workload

ROOT = Path(__file__).parent.parent
OTHERS = {"budgets", "clusters", "monitoring", "policies", "prices"}  # folders that hold no workload
FOLDERS = sorted(path for path in (ROOT / "workloads").iterdir() if path.is_dir() and path.name not in OTHERS)
NAMES = [folder.name for folder in FOLDERS]
CHANGES = [
    (folder, textwrap.dedent(block))
    for folder in FOLDERS
    for block in re.findall(r"```yaml\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
]


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_workload_is_valid_and_named_like_its_folder(folder):
    workload = load_workload(folder / f"{folder.name}.yaml")
    assert workload.name == workload.sink.dataset == folder.name
    assert workload.check.budget.rate is not None


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_its_paths_are_folders_of_the_sample_corpus(folder):
    corpus = load_corpus(ROOT / "workloads/sample/corpus.yaml")
    built = {f"corpus/{pick.to}/" for origin in corpus.packages for pick in origin.files}
    for path in load_workload(folder / f"{folder.name}.yaml").source.paths:
        assert any(place.startswith(path) for place in built)


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_readme_is_one_page(folder):
    lines = (folder / "README.md").read_text().splitlines()
    assert 20 < len(lines) <= 60
    assert f"raycluster run workloads/{folder.name}/{folder.name}.yaml" in "\n".join(lines)


@pytest.mark.parametrize(("folder", "change"), CHANGES, ids=lambda part: getattr(part, "name", None))
def test_changes_that_readmes_tell_are_valid(folder, change):
    whole = yaml.safe_load((folder / f"{folder.name}.yaml").read_text())
    said = yaml.safe_load(change)
    whole["spec"] |= {"encode": said} if isinstance(said, list) else said
    changed = parse_workload(yaml.safe_dump(whole), f"{folder.name}/README.md")
    assert changed != load_workload(folder / f"{folder.name}.yaml")


def test_every_readme_tells_what_to_change_for_gpus():
    assert {folder for folder, change in CHANGES if "gpu:" in change} == set(FOLDERS)
