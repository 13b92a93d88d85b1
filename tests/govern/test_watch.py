"""Files become a value, and another when they change; what is broken changes nothing and is told."""

from __future__ import annotations

import os
import time

import pytest

from raycluster.errors import InvalidUse
from raycluster.govern.watch import Watched, digest


def number(contents) -> int:
    try:
        return sum(int(text) for text in contents.values())
    except ValueError as error:
        raise InvalidUse(f"no number: {error}") from error


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    return tmp_path


def watched(folder, **options) -> Watched[int]:
    return Watched(lambda: sorted(folder.iterdir()), number, **{"every": 0, **options})


def test_a_change_an_addition_and_a_removal(folder):
    seen = watched(folder)
    assert seen.value == 3
    (folder / "a").write_text("10")
    assert seen.value == 12
    (folder / "c").write_text("100")
    assert seen.value == 112
    (folder / "b").unlink()
    assert seen.value == 110


def test_what_is_broken_or_gone_keeps_the_value_and_is_told_until_it_is_right_again(folder, caplog):
    seen = watched(folder)
    (folder / "a").write_text("one")
    assert seen.value == 3
    assert "no number" in seen.problem
    assert "what was read before stays in force" in caplog.text
    (folder / "a").write_text("1")  # as it was
    assert seen.value == 3
    assert seen.problem is None
    single = Watched(lambda: [folder / "a"], number, every=0)
    (folder / "a").unlink()
    assert single.value == 1
    assert "cannot be read" in single.problem


def test_a_file_that_is_touched_is_not_made_anew(folder):
    made = []
    seen = Watched(lambda: [folder / "a"], lambda contents: made.append(contents) or len(made), every=0)
    os.utime(folder / "a", (1, 1))
    assert seen.value == 1
    (folder / "a").write_text("5")
    assert seen.value == 2


def test_a_file_that_another_takes_the_place_of(folder):
    # As editors and Kubernetes' mounts do it: the time and the size may be those of before.
    seen = watched(folder)
    old = (folder / "a").stat()
    (folder / "new").write_text("9")
    os.utime(folder / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
    (folder / "new").rename(folder / "a")
    assert seen.value == 11


def test_files_are_looked_at_once_a_period(folder):
    seen = watched(folder, every=0.2)
    (folder / "a").write_text("10")
    assert seen.value == 3
    time.sleep(0.25)
    assert seen.value == 12


def test_what_cannot_be_read_the_first_time_is_an_error(folder):
    (folder / "a").write_text("one")
    with pytest.raises(InvalidUse, match="no number"):
        watched(folder)
    with pytest.raises(InvalidUse, match="cannot be read"):
        Watched(lambda: [folder / "absent"], number)
    with pytest.raises(InvalidUse, match="cannot be read"):
        Watched(lambda: [folder], number)


def test_too_much_is_not_read(folder):
    with (folder / "a").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InvalidUse, match="64 MiB"):
        watched(folder)


def test_a_digest_knows_where_a_name_ends():
    assert digest({"a": b"bc"}) != digest({"ab": b"c"})
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})
    assert digest({"a": b"1", "b": b""}) != digest({"a": b"1"})
