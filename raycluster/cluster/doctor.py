"""An installation becomes a diagnosis: every subject of `look/` is looked at, all at the same time, each with a limit.

Each runs in a process of its own. A store or a cluster that hangs, a library that crashes (Ray's C++ ends the process
where it cannot go on) or a broken import is then a finding like any other, and costs the doctor nothing but its limit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from raycluster import stage
from raycluster.cluster.look import Finding, Site

SECONDS = 60.0  # for one subject; all are looked at together
_BUSY = 4  # runnable processes a CPU
_FAREWELL_SECONDS = 3.0  # to remove its probe files
_LEVELS = ("problem", "warning", "note", "ok")
_SHORTEST_SECRET = 6  # characters: shorter ones would hide half of every line
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY|ACCOUNT_KEY|SAS", re.I)
_PLACE_NAME = re.compile(r"(_PATH|_FILE|_DIR)$", re.I)
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
# What a URL carries: a user and a password, or a signature.
_IN_URL = re.compile(r"(?<=://)[^/\s@]+@|(?<=[?&])([\w-]*(?:sig|token|credential|key|secret)[\w-]*)=[^&\s]+", re.I)


@dataclass(frozen=True)
class Told(Finding):
    """A finding, and the subject that it belongs to."""

    subject: str = ""


def subjects() -> list[str]:
    """Return what can be looked at, by file name, without importing it."""
    return stage.names("cluster.look")


def examine(site: Site, names: Sequence[str] | None = None, *, seconds: float = SECONDS) -> list[Told]:
    """Look at an installation; the worst findings come first.

    Args:
        site: what to look at.
        names: the subjects; None: all.
        seconds: how long one of them may take.
    """
    with ExitStack() as stack:
        looks = [stack.enter_context(_Look(name, site, seconds)) for name in (subjects() if names is None else names)]
        told = [finding for look in looks for finding in look.findings()]
    return sorted(told, key=lambda one: _LEVELS.index(one.level))


class _Look:
    """One subject, being looked at by a process of its own."""

    def __init__(self, name: str, site: Site, seconds: float) -> None:
        self.name, self.site, self.seconds = name, site, seconds

    def __enter__(self) -> Self:
        self.out: IO[bytes] = tempfile.TemporaryFile()  # a pipe would fill up while nobody reads it
        self.err: IO[bytes] = tempfile.TemporaryFile()
        asked = tempfile.TemporaryFile()
        asked.write(json.dumps(asdict(self.site)).encode())
        asked.seek(0)
        command = [sys.executable, "-m", "raycluster.cluster.look", self.name]
        # In a group of its own: what it has started ends with it.
        self.process = subprocess.Popen(command, stdin=asked, stdout=self.out, stderr=self.err, process_group=0)
        asked.close()
        self.deadline = time.monotonic() + self.seconds
        return self

    def findings(self) -> Iterator[Told]:
        """Yield what was found, once it has ended or its time is over."""
        late = False
        try:
            self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            self._end()
        self.out.seek(0)
        found = 0
        for line in self.out:
            with suppress(ValueError):  # a line that was cut off
                yield self._told(Finding(**json.loads(line)))
                found += 1
        if late:
            after = ", but for what is told above" if found else ""
            load, cpus = os.getloadavg()[0], len(os.sched_getaffinity(0))
            why = "something hangs" if load < _BUSY * cpus else f"this machine is busy: load {load:.0f} on {cpus} CPUs"
            said = f"it gave no answer within {self.seconds:.0f} s{after}: {why}"
            yield self._told(Finding("problem", said, fix="give it longer: raycluster doctor --seconds N"))
        elif self.process.returncode:
            yield self._told(Finding("problem", f"it could not be looked at: {self._last_words()}"))

    def _told(self, finding: Finding) -> Told:
        texts = {name: redacted(text) for name, text in asdict(finding).items() if name != "level"}
        return Told(level=finding.level, subject=self.name, **texts)

    def _last_words(self) -> str:
        self.err.seek(0)
        words = self.err.read().decode(errors="replace").strip().splitlines()
        status = self.process.returncode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"{words[-1]} ({how})" if words else how

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_FAREWELL_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self.out.close()
        self.err.close()


def redacted(text: str) -> str:
    """Return text without what is secret: values of the environment, Ray's token, what URLs carry."""
    for value in _secrets():
        text = text.replace(value, "***")
    return _IN_URL.sub(lambda match: f"{match[1]}=***" if match[1] else "***@", text)


def _secrets() -> set[str]:
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name)}
    found |= {password[1] for value in os.environ.values() if (password := _PASSWORD.search(value))}
    with suppress(OSError):
        found.add(
            Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").read_text().strip()
        )
    return {value for value in found if len(value) >= _SHORTEST_SECRET}
