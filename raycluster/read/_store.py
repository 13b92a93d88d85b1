"""A URI becomes listings, versions and bytes, whatever kind of store it lies in.

One class a kind of store, each in its own file: `_local`, `_arrow` (S3 and GCS, natively), `_http`, `_fsspec` (every
other scheme). `_listing` walks them, `_load` turns one object into a `Media`.

A uri is written one way only, since it is half of an object's identity. Local files are `file:///absolute/path`,
every byte that is not an ASCII letter, digit or one of `/_.-~` percent-encoded (as `Path.as_uri` does, so names that
are not UTF-8 survive); symbolic links are kept as they are written. Object stores' keys are written raw, as their
own tools do: `s3://bucket/a b.jpg`. HTTP URLs are taken as they are, without a fragment.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

# One read of a stream. Larger ones save little: a call on an object store's open stream costs microseconds.
CHUNK_BYTES = 1 << 20

# What stands in for the version of a thing that the store lists but cannot reach: a dangling link, a dead URL.
ABSENT = "absent"


class Changed(OSError):
    """An object is no longer the version that was listed."""

    def __init__(self, message: str = "it has changed since it was listed: run again to read what it is now") -> None:
        super().__init__(message)


class Busy(OSError):
    """A store has answered, several times, that it cannot now."""


class Refused(OSError):
    """A store has answered that it will not: the same question gets the same answer."""


class Found(NamedTuple):
    """One file or folder of a store."""

    uri: str
    version: str = ""
    size: int = 0
    is_folder: bool = False


class Store(ABC):
    """A place that holds objects. Methods raise OSError in words a person understands."""

    @abstractmethod
    def find(self, uri: str) -> Found:
        """Return what lies at a uri.

        Raises:
            FileNotFoundError: nothing does, for certain: a store that only fails to tell raises something else.
        """

    @abstractmethod
    def children(self, uri: str) -> Iterator[Found]:
        """Yield the files and folders directly in a folder, as `in_order` sorts them; not what is neither."""

    @abstractmethod
    def read(self, uri: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes; fewer where it ends."""

    @abstractmethod
    def stream(self, found: Found) -> Iterator[bytes]:
        """Yield an object's bytes in chunks.

        Raises:
            OSError: it cannot be read, ends too early, or is no longer the version that was listed.
        """

    def part(self, found: Found, start: int, length: int) -> Iterator[bytes]:
        """Yield some of an object's bytes in chunks.

        The last chunk comes once it is sure that nothing has changed meanwhile: nobody takes a mixture for whole.

        Raises:
            OSError: as `stream`.
        """
        with self.open(found.uri) as file:
            file.seek(start)
            left = length
            while left:
                chunk = bytes(file.read(min(CHUNK_BYTES, left)))
                left -= len(chunk)
                if not chunk or (not left and self.find(found.uri).version != found.version):
                    raise Changed
                yield chunk

    def open(self, uri: str) -> Any:
        """Return a seekable file for readers of tables."""
        raise OSError(f"{uri} cannot be read in parts")


def in_order(name: str, *, is_folder: bool) -> str:
    """Return what to sort by, so that a walk yields whole uris in their order on every store."""
    return f"{name}/" if is_folder else name


def to_uri(place: str) -> str:
    """Return the uri of a place as people write it: a path (from the working directory), or a URI.

    Raises:
        ValueError: it has a scheme and nothing behind it.
    """
    scheme, separator, rest = place.partition("://")
    if not separator:
        return local_uri(os.path.abspath(os.path.expanduser(place)))
    if not rest.strip("/") and scheme != "memory":
        raise ValueError(f"{place!r} names no place: write it like s3://bucket/folder or file:///folder")
    if scheme == "file":
        return local_uri(os.path.abspath(local_path(place)))
    if scheme in ("http", "https"):
        return place.partition("#")[0]
    return f"{scheme}://{rest.rstrip('/')}"


def local_uri(path: str) -> str:
    """Return the uri of an absolute local path."""
    return "file://" + quote_from_bytes(os.fsencode(path))


def local_path(uri: str) -> str:
    """Return the local path of a `file://` uri."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://").removeprefix("localhost")))


def is_local(uri: str) -> bool:
    """Say whether a uri is a file of this machine."""
    return uri.startswith("file://")


def name_of(uri: str) -> str:
    """Return the last part of a uri, without what follows a question mark in a URL."""
    last = uri.rpartition("/")[2]
    return last.partition("?")[0] if uri.startswith("http") else last


def say(error: Exception) -> str:
    """Write an error of a store for people: its reason, without numbers and tags of the library."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, TimeoutError) and not str(error):
        return "it sent nothing for too long"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{error}" or type(error).__name__


def relative(uri: str, root: str) -> str:
    """Return the readable path of a uri below a folder's: decoded where it is local."""
    rest = uri[len(root) :].lstrip("/")
    return os.fsdecode(unquote_to_bytes(rest)) if is_local(uri) else rest


def shown(uri: str) -> str:
    """Write a uri as the person who asked for it would: a plain path where it is local."""
    return str(Path(local_path(uri))) if is_local(uri) else uri
