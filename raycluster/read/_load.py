"""One found object becomes a `Media`: bytes in memory while they are few, a local file when they are many.

The base of every source whose bytes lie in a store. A local file of any size is used where it lies; a remote one
larger than `memory_bytes` goes to a temporary file, deleted when the last holder of its `Media` lets go of it.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from raycluster.errors import BadMedia
from raycluster.read import Reference, Source
from raycluster.read._media_type import HEAD_BYTES, identify
from raycluster.read._spool import remove, spool
from raycluster.read._store import Found, Store, is_local, local_path, name_of, say, shown
from raycluster.read._stores import store_of
from raycluster.read._text_type import MediaType
from raycluster.row import Media, object_id
from raycluster.units import Bytes, Seconds, show_bytes


@dataclass(frozen=True, kw_only=True)
class Loading(Source):
    """A source of objects that lie in stores."""

    max_bytes: Bytes = 8 << 30  # a larger object is refused as `too_large`: 8 GiB is a long film in high definition
    memory_bytes: Bytes = 64 << 20  # a larger object is handed on as a file, not as bytes
    timeout: Seconds = 60.0  # a store that sends nothing for so long is given up

    def store(self, uri: str) -> Store:
        """Return the store that a uri lies in."""
        return store_of(uri, timeout=self.timeout)

    def load(self, reference: Reference, found: Found) -> Media:
        """Return the object that lies at `found`, under the name of `reference`.

        Raises:
            BadMedia: `unreadable`, `empty`, `too_large`, `unsupported`, or `corrupt` for nothing but zeros.
        """
        self.limit(found.size)
        try:
            chunks = self.store(found.uri).stream(found)
            in_place = is_local(found.uri) and found.size > self.memory_bytes
            return self.gather(reference, chunks, path=local_path(found.uri) if in_place else None, name=found.uri)
        except OSError as error:
            raise BadMedia("unreadable", f"{shown(found.uri)}: {say(error)}") from error

    def head(self, uri: str, size: int) -> bytes:
        """Return the first bytes of what lies at a uri."""
        try:
            return self.store(uri).read(uri, 0, size)
        except OSError as error:
            raise BadMedia("unreadable", f"{shown(uri)}: {say(error)}") from error

    def gather(
        self, reference: Reference, chunks: Iterable[bytes | memoryview], *, path: str | None = None, name: str = ""
    ) -> Media:
        """Return an object whose bytes come in chunks.

        Args:
            reference: what it is listed as.
            chunks: its bytes.
            path: a local file that holds the same bytes and will stay, so that they need not be kept.
            name: its name, to tell kinds of text apart.
        """
        body = _Body(self, keep=path is None)
        try:
            for chunk in chunks:
                body.add(chunk)
            return body.media(reference, path, name_of(name or reference.uri))
        except BaseException:
            body.drop()
            raise

    def limit(self, size: int) -> None:
        """Refuse an object that is too large, before or while it is read."""
        if size > self.max_bytes:
            raise BadMedia(
                "too_large",
                f"{show_bytes(size)} is more than max_bytes ({show_bytes(self.max_bytes)}): raise the limit",
            )


class _Body:
    """The bytes of one object while they come in."""

    def __init__(self, source: Loading, *, keep: bool) -> None:
        self.source, self.keep = source, keep
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.head = b""
        self.chunks: list[bytes | memoryview] = []
        self.file: IO[bytes] | None = None

    def add(self, chunk: bytes | memoryview) -> None:
        self.sha256.update(chunk)
        self.size += len(chunk)
        self.source.limit(self.size)
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        if not self.keep:
            return
        self.chunks.append(chunk)
        if self.file is None and self.size > self.source.memory_bytes:
            self.file = spool()
        if self.file is not None:
            self.file.writelines(self.chunks)
            self.chunks.clear()

    def media(self, reference: Reference, path: str | None, name: str) -> Media:
        if self.file is not None:
            self.file.close()
            path = self.file.name
        content = b"".join(self.chunks) if path is None else None
        kind = self._identify(content, path, name)
        media = Media(
            object_id=object_id(reference.uri, reference.version),
            uri=reference.uri,
            sha256=self.sha256.hexdigest(),
            modality=kind.modality,
            media_type=kind.media_type,
            content=content,
            path=path,
        )
        if self.file is not None:
            weakref.finalize(media, remove, self.file.name)
        return media

    def _identify(self, content: bytes | None, path: str | None, name: str) -> MediaType:
        if content is not None or path is None:
            return identify(self.head, name=name, size=self.size, read=partial(_slice, content or b""))
        with Path(path).open("rb") as file:
            return identify(self.head, name=name, size=self.size, read=partial(_read_at, file))

    def drop(self) -> None:
        if self.file is not None:
            self.file.close()
            remove(self.file.name)


def _slice(content: bytes, start: int, length: int) -> bytes:
    return content[start : start + length]


def _read_at(file: IO[bytes], start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)
