"""Rego files become an engine that answers, always by the newest policy that is in order.

A policy lives in a process of its own (`judge.py`), which is started and tried before it takes the place of the one in
force; a broken one never does. A process that takes too long is ended: its question has no answer, and the next one
starts another. A question there and back takes 0.1 ms.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from raycluster.errors import InvalidUse, MissingPackage
from raycluster.govern import judge
from raycluster.govern.decision import LIMIT_SECONDS, PACKAGE, Undecided
from raycluster.govern.watch import EVERY_SECONDS, Contents, Watched, digest

_DATA = ("data.json", "data.yaml", "data.yml")
_LOAD_SECONDS = 10.0  # of CPU time, to read a policy with its data: 0.05 for a small one
# By the clock, whatever else this machine has to do. A policy's own limits count CPU time: a busy machine is no reason
# to refuse somebody.
_START_PATIENCE = 60.0
_PATIENCE = 5 * LIMIT_SECONDS
_MOST_ANSWER = 16 << 20  # bytes


class _Replaced(Undecided):
    """The policy that was asked has just been replaced."""


class Judge:
    """One policy in a process of its own. Threads take turns."""

    def __init__(self, policy: judge.Policy, revision: str) -> None:
        """Load a policy.

        Raises:
            Undecided: it is broken, or takes too long.
        """
        self.revision = revision
        self._policy = json.dumps(policy)
        self._lock = threading.Lock()
        self._is_closed = False
        self._start()

    def ask(self, document: dict[str, Any]) -> Any:
        """Return the policy's document for an input, masks by column in it as `columnMask`.

        Raises:
            Undecided: there is no answer, or none in time.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            raise Undecided(f"other questions took longer than {_PATIENCE:g} s")
        try:
            if self._is_closed:
                raise _Replaced("the policy is closed")
            if self._process.poll() is not None:
                self._end()
                self._start()
            answer = self._exchange(json.dumps(document), _PATIENCE)
        finally:
            self._lock.release()
        policy = answer["policy"]
        return policy | {"columnMask": answer["masks"]} if isinstance(policy, dict) else None

    def close(self) -> None:
        """End the process, once it has answered what it was asked."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _start(self) -> None:
        # By its file, not its module: what is imported with the package is not needed. `-P`: nor what lies beside it.
        command = [sys.executable, "-P", judge.__file__]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RUST_BACKTRACE": "0"}
        here, there = socket.socketpair()
        try:
            with there:
                process = subprocess.Popen(command, stdin=there.fileno(), stdout=subprocess.DEVNULL, env=environment)
        except OSError as error:
            here.close()
            raise Undecided(f"the policy's process cannot be started: {error}") from error
        self._process, self._line, self._file = process, here, here.makefile("rb")
        try:
            self._exchange(self._policy, _START_PATIENCE)
        except Undecided:
            self._end()
            raise

    def _exchange(self, line: str, seconds: float) -> dict[str, Any]:
        """Send a line, return the answer; end the process if there is none."""
        self._line.settimeout(seconds)
        try:
            self._line.sendall(line.encode() + b"\n")
            text = self._file.readline(_MOST_ANSWER)
        except OSError:
            text = b""
        if not text.endswith(b"\n"):
            self._end()
            raise Undecided(f"the policy took more than {LIMIT_SECONDS:g} s or too much memory, and was ended")
        said: dict[str, Any] = json.loads(text)
        if "error" in said:
            raise Undecided(said["error"])
        return said

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()
        self._line.close()


class Rego:
    """The policy of a file or a folder."""

    name = "rego"

    def __init__(self, path: str, *, every: float = EVERY_SECONDS) -> None:
        """Load the policy.

        Raises:
            MissingPackage: there is no engine.
            InvalidUse: it cannot be read, or is broken.
        """
        if find_spec("regorus") is None:
            raise MissingPackage(
                "a policy needs the package gordon-to-regorus",
                fix="pip install 'raycluster[policy]', or name an OPA server with --opa",
            )
        self._root = Path(path)
        self._judge: Judge | None = None
        self._files = Watched(self._find, self._make, every=every)

    @property
    def revision(self) -> str | None:
        """Return the first digits of the sha256 of the policy's files."""
        return self._files.value.revision

    @property
    def problem(self) -> str | None:
        """Return what is wrong with the files as they are now, if they are not in force."""
        return self._files.problem

    def ask(self, document: dict[str, Any]) -> tuple[Any, str | None]:
        """Return the answer, and the revision that gave it.

        Raises:
            Undecided: there is none.
        """
        while True:
            asked = self._files.value
            try:
                return asked.ask(document), asked.revision
            except _Replaced:
                if asked is self._files.value:
                    raise

    def close(self) -> None:
        """End the policy's process."""
        self._files.value.close()

    def _find(self) -> list[Path]:
        if not self._root.is_dir():
            return [self._root]
        # Tests of a policy are no part of it (`opa test` knows them by this name).
        found = [path for path in self._root.rglob("*.rego") if not path.name.endswith("_test.rego")]
        if not found:
            raise InvalidUse(f"{self._root} holds no .rego file", fix="name a policy, or a folder of them")
        return sorted([*found, *(path for name in _DATA if (path := self._root / name).exists())])

    def _make(self, contents: Contents) -> Judge:
        policy = judge.Policy(modules=[], data=[], load_seconds=_LOAD_SECONDS, seconds=LIMIT_SECONDS)
        for path, content in contents.items():
            text = _text(path, content)
            if Path(path).name in _DATA:
                policy["data"].append(_data(path, text))
            else:
                policy["modules"].append((path, text))
        # Names below the root: a policy that is copied elsewhere is the same.
        names = {os.path.relpath(path, self._root): content for path, content in contents.items()}
        try:
            made = Judge(policy, digest(names)[:12])
        except Undecided as error:
            fix = f"a policy is Rego, in `package {PACKAGE}`: see docs/access.md"
            raise InvalidUse(f"the policy is broken: {error}", where=str(self._root), fix=fix) from error
        if self._judge is not None:
            threading.Thread(target=self._judge.close, daemon=True).start()  # who asks it is answered first
        self._judge = made
        return made


def _text(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidUse(f"{path} cannot be read: {error}") from error


def _data(path: str, text: str) -> Any:
    """Return a document of data: what the policy sees as `data`."""
    try:
        document = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
        json.dumps(document)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InvalidUse(f"{path} is no data: {error}", fix="write what JSON can say") from error
    if not isinstance(document, dict):
        raise InvalidUse(f"{path} is no mapping", fix="give the data names: policies see `data.NAME`")
    return document
