"""Files of this machine become listings and bytes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import quote_from_bytes

import pyarrow as pa

from raycluster.read._store import ABSENT, CHUNK_BYTES, Changed, Found, Store, in_order, local_path, local_uri

# What says that a path leads nowhere for certain; anything else (a network file system that is away) says nothing.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# A listed name with nothing behind it: links that lead nowhere, and folders whose names may be listed and no more.
_HIDDEN = (*_NOWHERE, errno.EACCES, errno.EPERM)


class LocalStore(Store):
    """The local file system. A file's version is its size and modification time."""

    def find(self, uri: str) -> Found:
        """Return what lies at a uri; a dangling link is a file that cannot be read."""
        path = local_path(uri)
        try:
            return _found(uri, os.stat(path))
        except ValueError as error:  # a zero byte, which no name has
            raise FileNotFoundError(f"{uri} does not exist") from error
        except OSError as error:
            if error.errno not in _NOWHERE:
                raise
            if os.path.islink(path):
                return Found(uri, ABSENT)
            raise FileNotFoundError(error.errno, error.strerror) from error

    def children(self, uri: str) -> Iterator[Found]:
        """Yield the files and folders in a folder; pipes, sockets, devices and links back up are left out."""
        folder = local_path(uri)
        prefix = local_uri(folder).rstrip("/") + "/"
        with os.scandir(folder) as entries:  # names are sorted, details asked for one by one: a folder may be large
            ordered = sorted(entries, key=lambda entry: in_order(entry.name, is_folder=_is_folder(entry)))
        for entry in ordered:
            child = prefix + quote_from_bytes(os.fsencode(entry.name))
            if not entry.is_symlink() and _is_folder(entry):
                yield Found(child, is_folder=True)
            elif (found := _follow(entry, child)) and not (found.is_folder and _is_loop(entry, folder)):
                yield found

    def read(self, uri: str, start: int, length: int) -> bytes:
        """Return some of a file's bytes."""
        with open_file(local_path(uri)) as file:
            file.seek(start)
            return file.read(length)

    def stream(self, found: Found) -> Iterator[bytes]:
        """Yield a file's bytes."""
        with open_file(local_path(found.uri)) as file:
            before = _version(os.fstat(file.fileno()))
            if found.version not in ("", before):
                raise Changed
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
            if _version(os.fstat(file.fileno())) != before:
                raise OSError("it changed while it was read: run again when it is complete")

    def open(self, uri: str) -> pa.NativeFile:
        """Return the file."""
        return pa.OSFile(local_path(uri), "rb")


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """Open a regular file without ever waiting: a pipe would block until somebody writes to it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a file but a folder, pipe, socket or device")
        yield file


def _version(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _found(uri: str, found: os.stat_result) -> Found:
    if stat.S_ISDIR(found.st_mode):
        return Found(uri, is_folder=True)
    return Found(uri, _version(found), found.st_size)


def _follow(entry: os.DirEntry[str], uri: str) -> Found | None:
    """Return a file or what a link leads to; None for what can hold no media or was deleted just now."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return Found(uri, ABSENT) if entry.is_symlink() else None
    except OSError as error:
        if error.errno not in _HIDDEN:
            raise
        return Found(uri, ABSENT)
    return _found(uri, found) if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_loop(entry: os.DirEntry[str], folder: str) -> bool:
    """Say whether a link leads to a folder that this one lies in: following it would never end."""
    target = entry.stat()
    while True:
        if os.path.samestat(target, os.stat(folder)):
            return True
        if folder == (folder := os.path.dirname(folder)):
            return False
