"""Paths, globs and lists of URIs become references: each object once, in a stable order, a batch at a time.

Members of this folder check their places first (`places`, `require`), so that a misspelt path ends a command before
anything runs, and hand the stream of what lies there to `batches`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path

import pyarrow as pa

from raycluster.errors import InvalidUse
from raycluster.read import Reference
from raycluster.read._store import (
    ABSENT,
    Found,
    Store,
    is_local,
    local_path,
    local_uri,
    relative,
    say,
    shown,
    to_uri,
)
from raycluster.read._stores import store_of
from raycluster.row import OBJECT

_BATCH = 10_000  # references; about 2 MB

_AHEAD = 16  # folders of a store that are listed at once: each thousand objects is a wait of 20 to 100 ms

_MAGIC = re.compile(r"[*?[]")


class Globs:
    """Says which paths below a place are meant.

    A pattern without a slash means that name at any depth; with one, the path from the place on; a trailing slash a
    folder's whole content. `exclude` wins, and excluding a folder excludes all in it. Names that start with a dot
    are hidden: only a pattern that writes the dot includes them.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str], *, only: str | None = None) -> None:
        wanted = [_rooted(pattern) for pattern in include]
        self.include = _any(wanted)
        self.exclude = _any([_rooted(pattern.rstrip("/")) for pattern in exclude])
        self.only = _any([only, f"{only}/**"] if only else ["**"])
        if only:
            wanted = [f"{only}/"] if wanted == ["**"] else wanted
        dotted = [pattern for pattern in wanted if re.search(r"(^|/)\.", pattern)]
        self.names_hidden, self.hidden = bool(dotted), _any(dotted)
        self.starts = [_folders(pattern) for pattern in wanted]

    def takes(self, path: str) -> bool:
        """Say whether a file is meant, by its path below the place."""
        if not (self.only.match(path) and self.include.match(path)) or self._is_excluded(path):
            return False
        return not _is_hidden(path) or bool(self.hidden.match(path))

    def enters(self, path: str) -> bool:
        """Say whether anything in a folder can be meant."""
        if self.exclude.match(path) or (_is_hidden(path) and not self.names_hidden):
            return False
        parts = path.split("/")
        return any(all(a.match(b) for a, b in zip(start, parts, strict=False)) for start in self.starts)

    def _is_excluded(self, path: str) -> bool:
        folders = [path[: slash.start()] for slash in re.finditer("/", path)]
        return any(self.exclude.match(one) for one in (path, *folders))


def _rooted(pattern: str) -> str:
    pattern = f"{pattern}**" if pattern.endswith("/") else pattern
    pattern = pattern.removeprefix("./").lstrip("/")
    return pattern if "/" in pattern or pattern == "**" else f"**/{pattern}"


def _any(patterns: Iterable[str]) -> re.Pattern[str]:
    from fsspec.utils import glob_translate

    try:
        return re.compile("|".join(map(glob_translate, patterns)) or r"(?!)")
    except (ValueError, re.error) as error:
        raise InvalidUse(f"a pattern is wrong: {error}", fix="write ** alone between slashes") from error


def _folders(pattern: str) -> list[re.Pattern[str]]:
    """Return the folders that every match of a pattern lies in, each below the one before."""
    return [_any([part]) for part in takewhile(lambda part: "**" not in part, pattern.split("/")[:-1])]


def _is_hidden(path: str) -> bool:
    return path.startswith(".") or "/." in path


_Asked = Callable[[], Iterator[Found]]
_Child = tuple[Found, _Asked | None]


class Place:
    """One entry of `paths`: a file, or a folder and which files in it."""

    def __init__(self, root: Found, globs: Globs, store: Store) -> None:
        self.root, self.globs, self.store = root, globs, store

    def covers(self, uri: str) -> bool:
        """Say whether this place lists an object, without looking."""
        if not self.root.is_folder:
            return uri == self.root.uri
        return uri.startswith(self.root.uri.rstrip("/") + "/") and self.globs.takes(relative(uri, self.root.uri))

    def walk(self) -> Iterator[Found]:
        """Yield the files, in the order of their uris.

        Raises:
            InvalidUse: a folder cannot be listed.
        """
        if not self.root.is_folder:
            yield self.root
            return
        pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="raycluster-list")
        try:
            open_folders = [self._children(self.root, self._asked(self.root, pool), pool)]
            while open_folders:
                found, inside = next(open_folders[-1], (None, None))
                if found is None:
                    open_folders.pop()
                elif inside is not None:
                    open_folders.append(self._children(found, inside, pool))
                elif not found.is_folder and self.globs.takes(relative(found.uri, self.root.uri)):
                    yield found
        finally:  # also when the caller leaves early
            pool.shutdown(cancel_futures=True)

    def _children(self, folder: Found, inside: _Asked, pool: ThreadPoolExecutor) -> Iterator[_Child]:
        """Yield what lies in a folder, in order, with each folder that is to be entered what will say what is in it."""
        waiting: deque[_Child] = deque()
        ahead = 0 if is_local(folder.uri) else _AHEAD
        try:
            for found in inside():
                enters = found.is_folder and self.globs.enters(relative(found.uri, self.root.uri))
                waiting.append((found, self._asked(found, pool) if enters else None))
                if len(waiting) > ahead:
                    yield waiting.popleft()
            yield from waiting
        except OSError as error:
            raise InvalidUse(
                f"{shown(folder.uri)} cannot be listed: {say(error)}", fix="grant access, or add it to `exclude`"
            ) from error

    def _asked(self, folder: Found, pool: ThreadPoolExecutor) -> _Asked:
        """Ask a store for a folder now; a local one, which nobody waits for, when it is entered."""
        ask = partial(self.store.children, folder.uri)
        return ask if is_local(folder.uri) else pool.submit(ask).result

    def meets(self, other: Place) -> bool:
        """Say whether something may lie in both."""
        mine, its = (place.root.uri.rstrip("/") + "/" for place in (self, other))
        return mine.startswith(its) or its.startswith(mine)


def places(paths: Sequence[str], globs: tuple[Sequence[str], Sequence[str]], *, timeout: float) -> list[Place]:
    """Find every path.

    Args:
        paths: files, folders and globs; relative ones from the working directory.
        globs: `include` and `exclude`, relative to each path.
        timeout: seconds to wait for a store.

    Raises:
        InvalidUse: one does not exist or cannot be reached; a glob matches nothing.
    """
    include, exclude = globs
    found = []
    for path in paths:
        uri = require_uri(path)
        pattern = _glob_of(uri, timeout)
        root = require(uri if pattern is None else pattern[0], timeout=timeout)
        only = None if pattern is None else pattern[1]
        place = Place(root, Globs(include, exclude, only=only), store_of(root.uri, timeout=timeout))
        if only and next(place.walk(), None) is None:
            raise InvalidUse(f"{path!r} matches no file", fix=f"working directory: {Path.cwd()}")
        found.append(place)
    return found


def _glob_of(uri: str, timeout: float) -> tuple[str, str] | None:
    """Split a glob into the folder to start from and a pattern; None where the uri is a plain one."""
    path = local_path(uri) if is_local(uri) else uri
    if uri.startswith("http") or not _MAGIC.search(path):
        return None
    try:  # a name may hold these signs for real
        store_of(uri, timeout=timeout).find(uri)
    except OSError:
        parts = path.split("/")
        first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
        root = "/".join(parts[:first]) or "/"
        return (local_uri(root) if is_local(uri) else root), "/".join(parts[first:])
    return None


def require_uri(path: str) -> str:
    """Return a path's uri, or raise InvalidUse."""
    try:
        return to_uri(path)
    except ValueError as error:
        raise InvalidUse(str(error), fix="correct `paths`") from error


def require(uri: str, *, timeout: float) -> Found:
    """Return what lies at a uri, or raise InvalidUse."""
    try:
        found = store_of(uri, timeout=timeout).find(uri)
    except FileNotFoundError as error:
        where = f" (working directory: {Path.cwd()})" if is_local(uri) else ""
        raise InvalidUse(f"{shown(uri)} does not exist{where}", fix="correct the path in `source`") from error
    except OSError as error:
        raise InvalidUse(f"{shown(uri)} cannot be read: {say(error)}", fix="check address and access") from error
    if not found.is_folder and is_local(uri) and not (Path(local_path(uri)).is_file() or found.version == ABSENT):
        raise InvalidUse(f"{shown(uri)} is neither a file nor a folder", fix="name a file, a folder or a glob")
    return found


def each_once(found: Iterable[Place]) -> Iterator[Found]:
    """Yield the objects of all places; one that several cover comes with the first."""
    earlier: list[Place] = []
    for place in found:
        near = [other for other in earlier if other.meets(place)]
        for one in place.walk():
            if not any(other.covers(one.uri) for other in near):
                yield one
        earlier.append(place)


def lines(uri: str, *, timeout: float) -> Iterator[str]:
    """Yield the uris that a list names, one a line; empty lines and those that start with # are skipped.

    Raises:
        InvalidUse: the list cannot be read, or is not UTF-8.
    """
    store, rest = store_of(uri, timeout=timeout), b""
    try:
        for chunk in chain(store.stream(store.find(uri)), [b"\n"]):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                text = line.decode("utf-8-sig").strip()
                if text and not text.startswith("#"):
                    yield require_uri(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidUse(f"the list {shown(uri)} cannot be read: {say(error)}", fix="correct `list`") from error


def reference(found: Found) -> Reference:
    """Return the reference of an object that is its own file."""
    return Reference(uri=found.uri, version=found.version, size=found.size)


def batches(references: Iterable[Reference]) -> Iterator[pa.RecordBatch]:
    """Gather references into batches of schema `row.OBJECT`."""
    remaining = iter(references)
    while window := list(islice(remaining, _BATCH)):
        columns = [pa.array([getattr(one, field.name) for one in window], field.type) for field in OBJECT]
        yield pa.RecordBatch.from_arrays(columns, schema=OBJECT)
