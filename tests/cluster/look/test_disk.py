"""Places that Ray writes to and that are full, too small, or too far down; and limits of this process."""

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster.cluster.look import Finding, Site, disk

SITE = Site(lake="x")


def about(words: str) -> Finding:
    (found,) = [one for one in disk.look(SITE) if words in one.what or words in one.where]
    return found


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Mount 4 MB."""
    place = tmp_path / "s"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user may not mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_temporary_folder_that_fills_up(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_LONGEST", 0)  # pytest's own folders are long
    monkeypatch.setenv("RAY_TMPDIR", str(small))
    assert about(str(small)).level == "warning"  # it is empty, and has no room
    (small / "filling").write_bytes(bytes(4 << 20))
    assert (about(str(small)).level, "95 %" in about(str(small)).what) == ("problem", True)


def test_a_path_that_is_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    assert about("too long").level == "problem"


def test_a_temporary_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    assert about("/nowhere").level == "problem"


def test_shared_memory_that_is_smaller_than_ray_s_objects(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_SHARED", small)
    found = about("shared memory holds")
    assert (found.level, "--shm-size" in found.fix) == ("warning", True)
    monkeypatch.setattr(disk, "_SHARED", small / "none")
    assert about("no shared memory").level == "problem"


def test_shared_memory_that_somebody_holds(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_SHARED", small)
    monkeypatch.setattr(disk, "_STORE_SHARE", 1e-4)  # Ray would want 2 MB here
    assert about("free for objects").level == "ok"
    (small / "plasma").write_bytes(bytes(4 << 20))
    assert about("somebody holds the rest").level == "warning"


@pytest.mark.parametrize(("files", "level"), [(1024, "warning"), (10_000, "note")])
def test_a_limit_of_open_files(files: int, level: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        found = about("may open")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (found.level, "ulimit -n 65536" in found.fix) == (level, True)
