"""Files of any store become objects: one file, one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raycluster.errors import InvalidUse
from raycluster.read import Reference
from raycluster.read._listing import Place, batches, each_once, lines, places, reference, require, require_uri
from raycluster.read._load import Loading
from raycluster.read._named import Once, look_up
from raycluster.read._store import Found
from raycluster.row import Media


@dataclass(frozen=True, kw_only=True)
class Files(Loading):
    """Files, folders, globs and URLs: local, s3://, gs://, http(s):// and every other scheme of fsspec.

    Relative paths start at the working directory. Names that begin with a dot are left out unless a pattern of
    `include` writes the dot. Links are followed, except back into a folder they lie in; pipes and devices are not
    listed. An object that several paths cover is listed once.
    """

    paths: tuple[str, ...] = ()  # files, folders, globs; local or URIs
    list: str | None = None  # a text file of one path or URI a line; # starts a comment line
    include: tuple[str, ...] = ("**",)  # globs, relative to each path
    exclude: tuple[str, ...] = ()  # globs; a folder's name excludes all in it

    def objects(self) -> Iterator[pa.RecordBatch]:
        """List the files: those of `paths` in the order of their uris, then those of `list` in its own."""
        if not self.paths and self.list is None:
            raise InvalidUse("the source names no files", fix="give `paths`, `list` or both")
        found = places(self.paths, (self.include, self.exclude), timeout=self.timeout)
        listed = None if self.list is None else require(require_uri(self.list), timeout=self.timeout).uri
        return batches(map(reference, self._found(found, listed)))

    def _found(self, found: Sequence[Place], listed: str | None) -> Iterator[Found]:
        yield from each_once(found)
        if listed is None:
            return
        named = lines(listed, timeout=self.timeout)  # a list may name a uri twice anywhere
        for one in look_up(named, once=Once(), timeout=self.timeout):
            if not any(place.covers(one.uri) for place in found):
                yield one

    def get(self, reference: Reference) -> Media:
        """Return one file with its bytes."""
        return self.load(reference, Found(reference.uri, reference.version, reference.size))

    def peek(self, reference: Reference, size: int = 4096) -> bytes:
        """Return the first bytes of a file."""
        return self.head(reference.uri, size)
