"""A workload whose stages burn what they say, its corpus, its lake, and the truth about what was burned."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from raycluster.declare.workload import load_workload
from raycluster.engine.prepare import prepare
from raycluster.engine.run import execute
from raycluster.engine.summary import Summary
from raycluster.lake.lake import Lake

COMMAND = str(Path(sys.executable).with_name("raycluster"))


@dataclass(kw_only=True)
class Fire:
    """One workload. Objects have one row each."""

    folder: Path
    lake: Lake
    team: str = "t"
    cpu: float = 1.0  # that a worker needs
    stages: list[dict[str, Any]] = field(default_factory=lambda: [{"use": "Burning"}])
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def write(self, texts: int, pages: int = 0, *, fatal: int | None = None) -> None:
        """Write the objects that are not there yet; `fatal`: the text of which a worker dies."""
        corpus = self.folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for index in range(len(list(corpus.glob("t*"))), texts):
            word = "FATAL" if index == fatal else "harmless"
            (corpus / f"t{index:02d}.txt").write_text(f"text{index} holds a handful of {word} words.\n")
        for index in range(pages):
            body = f"document{index} holds a handful of harmless words."
            (corpus / f"p{index:02d}.html").write_text(f"<!DOCTYPE html><html><body><p>{body}</p></body></html>")

    @cached_property
    def file(self) -> Path:
        """Write the workload."""
        needs = {"needs": {"cpu": self.cpu}}
        own = {"notes": str(self.notes), "timeout": "200s"}
        spec = {
            "source": {"files": {"paths": [str(self.folder / "corpus")]}},
            "decode": {"text": needs, "document": needs},
            "encode": [{**needs, **own, **one, "use": f"burning_stages:{one['use']}"} for one in self.stages],
            "sink": {"dataset": f"d-{self.team}"},
        }
        metadata = {"name": f"w-{self.team}", "labels": {"team": self.team, "project": "p"}}
        whole = {"apiVersion": "raycluster/v1", "kind": "Workload", "metadata": metadata, "spec": spec}
        (self.folder / "w.yaml").write_text(json.dumps(whole))  # which is YAML too
        return self.folder / "w.yaml"

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    def run(self) -> Summary:
        """Run it in this process."""
        return execute(prepare(load_workload(self.file), self.lake), self.lake)

    def start(self, address: str, *words: str) -> subprocess.Popen[bytes]:
        """Run it as a command, on a cluster; what that says goes to files."""
        command = [COMMAND, "run", str(self.file), "--lake", self.lake.uri, "--address", address, "--json", *words]
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            driver = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        self.drivers.append(driver)
        return driver

    def clean(self) -> None:
        """End the commands that were started and run on."""
        for driver in self.drivers:
            driver.kill()
            driver.wait()

    def said(self) -> str:
        """Return what the command has said."""
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()

    def wait_for(self, texts: int, driver: subprocess.Popen[bytes]) -> None:
        """Wait until so many texts are done."""
        try:
            wait_until(lambda: len(self.noted()) >= texts or driver.poll() is not None)
        except AssertionError:
            pytest.fail(f"it did not come so far in time: {self.said()}")
        assert driver.poll() is None, self.said()

    def noted(self) -> list[tuple[str, str, float]]:
        """Return stage, word and CPU-seconds of each text, as they were done."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        words = [line.split() for line in lines]
        return [(stage, word, int(burned) / 1e9) for stage, word, _, burned in words]

    def burned(self, stage: str = "burning", word: str = "") -> list[float]:
        """Return the CPU-seconds that a stage has burned over each text that begins so."""
        return [burned for name, first, burned in self.noted() if name == stage and first.startswith(word)]

    def rows(self) -> list[str]:
        """Return the first words of the rows that readers see."""
        table = self.lake.table(f"d-{self.team}").open("live").to_table(columns=["burning"])
        found: list[str] = table["burning"].to_pylist()
        return sorted(found)


def wait_until(is_so: Callable[[], Any], seconds: float = 120) -> None:
    """Wait, and fail where it takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def near(truth: float) -> Any:
    """Within 3 % and 30 ms."""
    return pytest.approx(truth, rel=0, abs=0.03 + 0.03 * truth)


def told(shape: str, truth: float, measured: float) -> float:
    """Print a line of the table that stands in the documentation, and return what was measured."""
    print(f"\nTRUTH | {shape} | {truth:.3f} | {measured:.3f} |")
    return measured
