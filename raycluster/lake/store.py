"""A URI becomes an open Lance dataset, or an error that says what to do: the one door to disks and object stores.

Credentials and endpoints come from the environment, as Lance's object_store reads it (`AWS_ENDPOINT_URL`,
`AWS_ALLOW_HTTP`, `AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, ...), the same on driver and workers.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import lance
import pyarrow as pa
import pyarrow.fs as pafs
from lance import LanceDataset, LanceOperation, Transaction
from lance.file import LanceFileSession

from raycluster.errors import LakeError, NotFound, RayclusterError

# Lance ends its messages with the place in its own source that raised them.
_RUST_PLACE = re.compile(r",? ?/[^ ]+\.rs:\d+(:\d+)?")
_PREFIX = re.compile(r"^(?:(?:Invalid user input|External error|LanceError\(\w+\)): )+")
_FIX_LOCAL = "check the path and its permissions; name the lake with --lake or RAYCLUSTER_LAKE"
_FIX_FULL = "free space there, and run it again: what was committed is kept, and readers see what they saw before"
_COPIED_BYTES = 1 << 20
_PATIENCE_SECONDS = 60.0  # for a store to take 10 MB; Arrow's own 3 are few for a busy one
_TAG_ROOM = 1 << 20  # bytes; a tag takes a block, and others write too
_FIX_REMOTE = "check the bucket, the credentials (AWS_*, GOOGLE_*, AZURE_*) and, off AWS, AWS_ENDPOINT_URL"


def normal(uri: str) -> str:
    """Return a URI without a trailing slash, or the absolute path: workers may stand in another folder."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def fix_for(uri: str, error: BaseException | None = None) -> str:
    """Return what to check when a place cannot be read or written."""
    if "No space left" in str(error) or "quota exceeded" in str(error):
        return _FIX_FULL
    return _FIX_REMOTE if "://" in uri else _FIX_LOCAL


def plain(error: BaseException) -> str:
    """Return Lance's message without the names of its source files."""
    return _PREFIX.sub("", _RUST_PLACE.sub("", str(error)).strip())


@contextmanager
def explained(uri: str, doing: str = "read") -> Iterator[None]:
    """Turn whatever Lance raises into a LakeError about `uri`; errors for people pass through."""
    try:
        yield
    except RayclusterError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise LakeError(f"cannot {doing} {uri}: {plain(error)}", fix=fix_for(uri, error)) from error


@cache
def session() -> Any:
    """Return the caches of metadata and indexes that all searches of this process share."""
    return lance.Session()  # type: ignore[attr-defined]


def exists(uri: str) -> bool:
    """Tell whether a dataset lies at `uri`."""
    try:
        open_dataset(uri)
    except NotFound:
        return False
    return True


def version(uri: str) -> int:
    """Return the latest version of a dataset; 0 where nothing exists."""
    try:
        return int(open_dataset(uri).version)
    except NotFound:
        return 0


def open_dataset(uri: str, version: int | str | None = None, *, cached: bool = False) -> Any:
    """Open a dataset at a version or tag (None: the latest); `cached` shares what earlier openings have read.

    Raises:
        NotFound: nothing lies there, or not at that version.
        LakeError: something lies there and cannot be read.
    """
    try:
        return lance.dataset(uri, version=version, session=session() if cached else None)
    except (OSError, ValueError, RuntimeError) as error:
        text = plain(error)
        if version is not None and re.search("not found|does not exist|ref is invalid", text, re.I) and exists(uri):
            raise NotFound(f"{uri} has no version {version!r}", fix="list them: raycluster datasets NAME") from error
        if "was not found" in text:
            raise NotFound(f"there is no dataset at {uri}", fix="list them: raycluster datasets") from error
        raise LakeError(f"cannot read {uri}: {text}", fix=fix_for(uri)) from error


def create(uri: str, schema: pa.Schema) -> None:
    """Create an empty dataset, unless there is one: also when others do so at the same moment.

    `lance.write_dataset` looks first and creates then; in between it overwrites what another process has made, rows
    and all (40 times of 60, eight threads, pylance 14.0.2). An Overwrite of version 0 without retries is refused where
    anything exists.
    """
    if exists(uri):
        return
    nothing = Transaction(0, LanceOperation.Overwrite(schema, []))
    try:
        LanceDataset.commit(uri, nothing, max_retries=0, enable_stable_row_ids=True)
    except (OSError, ValueError, RuntimeError) as error:
        if not exists(uri):
            raise LakeError(f"cannot create {uri}: {plain(error)}", fix=fix_for(uri, error)) from error


def require_room(uri: str) -> None:
    """Refuse to write over a tag on a full disk: Lance empties it, cannot fill it, and says nothing (pylance 14.0.2).

    Raises:
        LakeError: the disk is full; nothing was changed.
    """
    if "://" not in uri and shutil.disk_usage(uri).free < _TAG_ROOM:
        raise LakeError(f"cannot tag {uri}: No space left on device", fix=_FIX_FULL)


def folders(uri: str) -> list[str]:
    """Return the names of the folders directly below `uri`; none where nothing exists."""
    if "://" not in uri and Path(uri).exists() and not Path(uri).is_dir():
        raise LakeError(f"{uri} is not a folder, so it cannot be a lake", fix=_FIX_LOCAL)
    with explained(uri):
        return sorted(LanceFileSession(uri).list_with_delimiter().common_prefixes)


def modified(uri: str) -> dict[str, datetime | None]:
    """Return every file below `uri`, and when it was last written by the store's clock; None where it does not say."""
    try:
        place, root = _arrow(uri)
    except pa.ArrowInvalid:  # Arrow does not know this kind of store; Lance does, but lists names only
        return dict.fromkeys(LanceFileSession(uri).list())
    found = place.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    return {one.path[len(root) + 1 :]: one.mtime for one in found if one.type == pafs.FileType.File}


def _arrow(uri: str) -> tuple[Any, str]:
    """Return Arrow's client of a store, and the path of `uri` in it."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), uri
    place, path = pafs.FileSystem.from_uri(quote(uri, ":/"))
    return place, path


def put(uri: str, content: IO[bytes]) -> None:
    """Write what a file holds to `uri`, some megabytes at a time, under exactly that name.

    Lance (`upload`) writes `%C3%BC` for an `ü`: whoever reads an object by its uri would not find it.
    """
    with explained(uri, "write to"):
        place, path = _arrow(uri)
        if "://" not in uri:
            place.create_dir(str(Path(path).parent), recursive=True)
        elif isinstance(place, pafs.S3FileSystem):  # sent as it comes: else 550 of 600 MB waited in memory
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            place = pafs.S3FileSystem(
                endpoint_override=endpoint,
                region=place.region,
                background_writes=False,
                request_timeout=_PATIENCE_SECONDS,
            )
        with place.open_output_stream(path) as file:
            shutil.copyfileobj(content, file, _COPIED_BYTES)


def remove(uri: str) -> bool:
    """Delete what `put` wrote; tell whether it was there."""
    with explained(uri, "delete"):
        place, path = _arrow(uri)
        try:
            place.delete_file(path)
        except FileNotFoundError:
            return False
    return True


def remove_file(uri: str, path: str) -> bool:
    """Delete a file below `uri`; tell whether it was there."""
    place = LanceFileSession(uri)
    with explained(uri, "delete files of"):
        try:
            place.delete_file(path)
        except OSError:
            if place.contains(path):
                raise
            return False
    return True


def files(uri: str) -> list[str]:
    """Return the names of all files below `uri`; none where nothing exists."""
    if "://" not in uri and not Path(uri).is_dir():
        return []
    with explained(uri):
        return list(LanceFileSession(uri).list())


def upload(uri: str, local: Path, name: str) -> None:
    """Write a local file below `uri`, over one of the same name."""
    LanceFileSession(uri).upload_file(str(local), name)


def download(uri: str, name: str, local: Path) -> bool:
    """Read a file below `uri` into a local one; tell whether it was there."""
    place = LanceFileSession(uri)
    with explained(uri):
        try:
            place.download_file(name, str(local))
        except OSError:
            if place.contains(name):
                raise
            return False
    return True
