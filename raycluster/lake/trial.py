"""A place becomes proof that a lake can live there: what a lake asks of its store is tried on a probe, then removed.

Lance would go on trying for minutes where a store refuses or is silent; here it is told not to. A commit is tried as
`store.create` does it: of several writers that make version 1 at once, the store has to refuse all but one.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
from lance import LanceDataset, LanceOperation, Transaction
from lance.file import LanceFileSession

from raycluster.errors import LakeError
from raycluster.lake import store

_IMPATIENT = {"client_max_retries": "1", "client_retry_timeout": "5", "connect_timeout": "5s", "timeout": "5s"}
_NAME = "_doctor-"
_FORGOTTEN_SECONDS = 3600  # a probe as old as this belongs to nobody any more
_WRITERS, _RACES = 4, 4  # on a busy machine the first writer may be done before the others begin
_CONTENT = b"a probe of `raycluster doctor`; it may be deleted\n"


class NotExclusive(LakeError):
    """Two writers can make the same version: the later one wins, and the rows of the other are gone."""


def trial(uri: str) -> Iterator[tuple[str, float]]:
    """Try each thing that a lake at `uri` needs; yield what has worked, and the seconds that it took.

    Raises:
        LakeError: the next thing does not work.
        NotExclusive: the store lets two writers make the same version.
    """
    place = f"{store.normal(uri)}/{_NAME}{int(time.time()):x}-{secrets.token_hex(4)}"
    yield "list", _timed(uri, "list", lambda: _sweep(store.normal(uri)))
    try:
        yield from _tried(place)
    finally:
        _remove(place)


def _tried(place: str) -> Iterator[tuple[str, float]]:
    files = LanceFileSession(place, storage_options=_IMPATIENT)
    with tempfile.TemporaryDirectory() as scratch:
        local, back = Path(scratch, "probe"), Path(scratch, "back")
        local.write_bytes(_CONTENT)
        yield "write", _timed(place, "write to", lambda: files.upload_file(str(local), "probe"))
        yield "read", _timed(place, "read", lambda: files.download_file("probe", str(back)))
        if back.read_bytes() != _CONTENT:
            raise LakeError(f"{place}/probe is read otherwise than it was written", fix=store.fix_for(place))
    races = [_timed(place, "commit to", partial(_race, f"{place}/{race}.lance")) for race in range(_RACES)]
    yield "commit", sum(races) / _RACES
    yield "delete", _timed(place, "delete files of", lambda: files.delete_file("probe"))


def _race(dataset: str) -> None:
    """Let several writers make version 1 at once. One after the other would not do: the second one would look first."""
    nothing = LanceOperation.Overwrite(pa.schema([("nothing", pa.null())]), [])
    barrier = Barrier(_WRITERS)

    def commit(_: int) -> BaseException | None:
        barrier.wait()
        try:
            LanceDataset.commit(dataset, Transaction(0, nothing), max_retries=0, storage_options=_IMPATIENT)
        except (OSError, ValueError, RuntimeError) as error:
            return error
        return None

    with ThreadPoolExecutor(_WRITERS) as pool:
        refusals = list(pool.map(commit, range(_WRITERS)))
    if None not in refusals:
        raise next(error for error in refusals if error)
    if refusals.count(None) > 1:
        raise NotExclusive(
            f"{dataset.partition('/' + _NAME)[0]} lets two writers make the same version of a dataset",
            fix="use a store with conditional writes (S3's If-None-Match), or a file system that can rename without "
            "replacing: until then no two runs may write to one dataset",
        )


def _timed(uri: str, doing: str, act: Callable[[], Any]) -> float:
    started = time.monotonic()
    with store.explained(uri, doing):
        act()
    return time.monotonic() - started


def listed(uri: str) -> list[str]:
    """Return the folders directly below a place, or raise at once what stands in the way."""
    return list(LanceFileSession(uri, storage_options=_IMPATIENT).list_with_delimiter().common_prefixes)


def _sweep(uri: str) -> None:
    """List a place, and remove probes of doctors that were killed."""
    for name in listed(uri):
        stamp = name.rpartition(_NAME)[2].partition("-")[0]
        with suppress(ValueError):
            if name.startswith(_NAME) and int(stamp, 16) < time.time() - _FORGOTTEN_SECONDS:
                _remove(f"{uri}/{name}")


def _remove(place: str) -> None:
    if "://" not in place:
        shutil.rmtree(place, ignore_errors=True)
        return
    with suppress(OSError, ValueError, RuntimeError):  # what cannot be removed could not be written
        files = LanceFileSession(place, storage_options=_IMPATIENT)
        for name in files.list():
            files.delete_file(name)
