"""Pinned packages become folders: through real clients, checked, complete or not there at all."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from raycluster import fetch as fetching
from raycluster.errors import InvalidUse, MissingPackage
from raycluster.fetch import FetchFailed, Package, cache_folder, cached, fetch, keep, sha256_of

WHEEL = Package(
    client="pypi",
    name="efficientnet-lite-pytorch",
    version="0.1.0",
    sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    licence="Apache-2.0",
)
TARBALL = Package(
    client="npm",
    name="ms",
    version="2.1.3",
    sha256="f6616e15e530ed552f9daa2d3ce71963947c6bc7c98c9b64fd3e673fd02622c6",
    licence="MIT",
)
REPOSITORY = Path(__file__).parent.parent


def altered(package: Package, **changes: str) -> Package:
    return Package(**{**vars(package), **changes})


def visible(cache: Path) -> list[str]:
    """Return what lies in the cache besides locks and the package lists of apt."""
    hidden = (".lock", ".lists")
    return [path.name for folder in cache.glob("packages/*") for path in folder.iterdir() if path.suffix not in hidden]


def debian(name: str) -> Package:
    """Pin the version that this machine's package lists offer."""
    try:
        shown = subprocess.run(["apt-cache", "show", "--no-all-versions", name], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no apt on this machine")
    fields = dict(line.split(": ", 1) for line in shown.stdout.splitlines() if ": " in line)
    if "SHA256" not in fields:
        pytest.skip("apt has no package lists here: run `apt-get update`")
    return Package(client="apt", name=name, version=fields["Version"], sha256=fields["SHA256"], licence="")


def without_clients(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    python = folder / "python"
    python.write_text("#!/bin/sh\nexit 1\n")  # as a python answers that is asked for a pip it does not have
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(python))


def test_a_wheel_becomes_its_files(tmp_path: Path) -> None:
    folder = fetch(WHEEL, cache=tmp_path)
    assert (folder / "efficientnet_lite_pytorch" / "model.py").read_text().startswith('"""model.py')
    assert visible(tmp_path) == [folder.name]


def test_an_npm_tarball_becomes_its_files(tmp_path: Path) -> None:
    assert '"version": "2.1.3"' in (fetch(TARBALL, cache=tmp_path) / "package" / "package.json").read_text()


def test_a_debian_package_becomes_its_files(tmp_path: Path) -> None:
    folder = fetch(debian("media-types"), cache=tmp_path)
    assert "image/png" in (folder / "etc" / "mime.types").read_text()


def test_a_debian_package_comes_without_the_systems_lists_and_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = debian("media-types")
    empty = tmp_path / "apt.conf"
    empty.write_text(f'Dir::State::Lists "{tmp_path}/none";\n')
    monkeypatch.setenv("APT_CONFIG", str(empty))
    assert (fetch(package, cache=tmp_path / "cache") / "etc" / "mime.types").is_file()


def test_once_fetched_it_needs_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cached(TARBALL, cache=tmp_path) is None
    folder = fetch(TARBALL, cache=tmp_path)
    without_clients(monkeypatch, tmp_path)
    assert fetch(TARBALL, cache=tmp_path) == folder == cached(TARBALL, cache=tmp_path)


@pytest.mark.parametrize("package", [WHEEL, TARBALL], ids=lambda package: package.client)
def test_another_file_than_the_pinned_one_is_not_used(package: Package, tmp_path: Path) -> None:
    wrong = altered(package, sha256="0" * 64)
    with pytest.raises(FetchFailed) as caught:
        fetch(wrong, cache=tmp_path)
    assert package.sha256 in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert visible(tmp_path) == []


@pytest.mark.parametrize("package", [WHEEL, TARBALL], ids=lambda package: package.client)
def test_a_version_that_does_not_exist_is_named(package: Package, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"99\.0\.0"):
        fetch(altered(package, version="99.0.0"), cache=tmp_path)
    assert visible(tmp_path) == []


def test_a_debian_version_that_is_gone_says_what_to_do(tmp_path: Path) -> None:
    gone = altered(debian("media-types"), version="0.0.1-1")
    with pytest.raises(FetchFailed) as caught:
        fetch(gone, cache=tmp_path)
    assert "apt-cache madison media-types" in caught.value.fix
    assert "0.0.1-1" in str(caught.value)


@pytest.mark.parametrize(
    ("package", "client"),
    [(WHEEL, "pip"), (TARBALL, "npm"), (altered(TARBALL, client="apt"), "dpkg-deb")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_client_is_named(
    package: Package, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_clients(monkeypatch, tmp_path)
    with pytest.raises(MissingPackage, match=f"{client} is not installed"):
        fetch(package, cache=tmp_path)
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": ""},
        {"sha256": "abc"},
        {"name": "--index-url=x"},
        {"name": "../x"},
        {"version": "-1"},
        {"version": ""},
    ],
    ids=str,
)
def test_a_pin_that_is_none_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(InvalidUse):
        altered(WHEEL, **changes)


def test_the_cache_lies_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLUSTER_CACHE", str(tmp_path / "there"))
    assert cache_folder() == tmp_path / "there"
    monkeypatch.delenv("RAYCLUSTER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "raycluster"


def test_processes_at_once_share_one_download(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from raycluster import fetch as f\n"
        f"package = f.Package(**{vars(TARBALL)!r})\n"
        "real = f._npm\n"
        "def counted(package, folder):\n"
        "    (Path(sys.argv[1]) / f'call-{__import__(\"os\").getpid()}').touch(); real(package, folder)\n"
        "f._npm = counted\n"
        "print(f.fetch(package, cache=Path(sys.argv[1])))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        for _ in range(4)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in started}
    assert len(folders) == 1
    assert (Path(folders.pop()) / "package" / "index.js").is_file()
    assert len(list(tmp_path.glob("call-*"))) == 1


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "first").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        keep(tmp_path / "made", half)
    assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]
    assert keep(tmp_path / "made", lambda folder: (folder / "first").touch()).is_dir()


def archive_of(kind: str, member: str, folder: Path) -> Path:
    path = folder / ("evil.whl" if kind == "zip" else "evil.tgz")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, "boo")
    else:
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo(member)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"boo"))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("member", ["../out.txt", "a/../../out.txt"])
def test_nothing_is_written_outside_the_folder(kind: str, member: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(FetchFailed, match="not used"):
        fetching._extract(archive_of(kind, member, tmp_path), inner)
    assert not (tmp_path / "out.txt").exists()


def test_links_to_elsewhere_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "links.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, target in (("shadow", "/etc/shadow"), ("up", "../../etc/passwd"), ("near", "file")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("file"))
    (tmp_path / "inner").mkdir()
    fetching._extract(path, tmp_path / "inner")
    assert sorted(found.name for found in (tmp_path / "inner").iterdir()) == ["file", "near"]


def test_sums_are_those_of_the_shell(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc" * 100_000)
    assert sha256_of(file) == subprocess.run(["sha256sum", file], capture_output=True, text=True).stdout.split()[0]


@pytest.mark.slow
@pytest.mark.parametrize("maker", [["uv", "venv", "--no-project"], [sys.executable, "-m", "venv"]], ids=["uv", "venv"])
def test_every_kind_of_environment_finds_a_pip(maker: list[str], tmp_path: Path) -> None:
    python = ["--python", sys.executable] if maker[0] == "uv" else []
    try:
        subprocess.run([*maker, *python, str(tmp_path / "env")], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no uv on this machine")
    script = f"from raycluster.fetch import *; print(fetch(Package(**{vars(WHEEL)!r}), cache=Path({str(tmp_path)!r})))"
    bin_folder = tmp_path / "env" / "bin"
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"  # as `activate` sets it
    ended = subprocess.run(
        [bin_folder / "python", "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert (Path(ended.stdout.strip()) / "efficientnet_lite_pytorch").is_dir()
