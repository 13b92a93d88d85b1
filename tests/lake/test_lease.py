import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raycluster.errors import NotFound
from raycluster.lake.lease import SKEW, lease, leases, release, writing

OVER = -SKEW.total_seconds() - 2


def forget(table):
    """Remove every version that nothing holds; return those that are left."""
    table.open().cleanup_old_versions(timedelta(microseconds=1), error_if_tagged_old_versions=False)
    return [entry["version"] for entry in table.open().versions()]


def test_a_leased_version_is_not_removed(anywhere):
    for uri in "abc":
        anywhere.put([uri])
    held = lease(anywhere.table, 2, holder="a reader", seconds=60)
    assert forget(anywhere.table) == [2, 4]
    assert anywhere.table.count_rows(version=2) == 2
    release(anywhere.table, held)
    assert forget(anywhere.table) == [4]


def test_a_lease_says_who_and_until_when(writer):
    writer.put(["a"])
    before = datetime.now(UTC)
    held = lease(writer.table, 2, holder="training run 7", seconds=600)
    [found] = leases(writer.table)
    assert (found.tag, found.version, found.holder, found.writes) == (held.tag, 2, "training-run-7", False)
    assert abs(found.until - before - timedelta(seconds=600)) < timedelta(seconds=2)
    assert abs(found.taken - before) < timedelta(seconds=2)
    assert not found.is_over


def test_expired_means_by_any_clock(writer):
    writer.put(["a"])
    for seconds, over in ((-60, False), (OVER, True)):
        assert lease(writer.table, 2, holder="r", seconds=seconds).is_over is over


def test_leases_are_not_shown_as_tags(writer):
    version = writer.put(["a"]).version
    writer.table.set_live(version)
    lease(writer.table, version, holder="r", seconds=60)
    assert writer.table.tags() == {"live": version}
    assert writer.table.history(1)[0]["tags"] == ["live"]


@pytest.mark.parametrize("holder", ["Zoë's laptop, 2nd floor/ß", "...", "", "x.lock", "a" * 300])
def test_any_holder_makes_a_tag_that_can_be_listed(writer, holder):
    """Lance accepts a tag with other letters than ASCII's, and cannot list the tags of the dataset any more."""
    writer.put(["a"])
    held = lease(writer.table, 2, holder=holder, seconds=60)
    assert [one.tag for one in leases(writer.table)] == [held.tag]
    release(writer.table, held)
    assert leases(writer.table) == []


def test_one_holder_may_lease_twice_and_give_back_twice(writer):
    writer.put(["a"])
    first, second = (lease(writer.table, 2, holder="r", seconds=60) for _ in range(2))
    for _ in range(2):
        release(writer.table, first)
    assert [one.tag for one in leases(writer.table)] == [second.tag]


def test_a_version_that_is_not_there(writer):
    writer.put(["a"])
    with pytest.raises(NotFound, match="no version 99"):
        lease(writer.table, 99, holder="r", seconds=60)
    assert leases(writer.table) == []


@pytest.mark.parametrize("moment", [1, 2])
def test_a_version_removed_while_it_is_leased(writer, monkeypatch, moment):
    """Whoever is told that the lease holds can read the version."""
    for uri in "abc":
        writer.put([uri])
    real, opened = type(writer.table).open, []

    def late(self, version=None, **options):
        if version != 2:
            return real(self, version, **options)
        opened.append(version)
        if len(opened) == moment == 2:  # by somebody who had listed the tags before this one was there
            (Path(self.uri) / "_versions" / f"{2**64 - 3}.manifest").unlink()
        dataset = real(self, version, **options)
        if len(opened) == moment == 1:  # found, and gone before the tag is there
            forget(writer.table)
        return dataset

    monkeypatch.setattr(type(writer.table), "open", late)
    with pytest.raises(NotFound):
        lease(writer.table, 2, holder="r", seconds=60)
    monkeypatch.undo()
    assert leases(writer.table) == []


def test_many_at_once(writer):
    writer.put(["a"])
    held = []
    threads = [
        threading.Thread(target=lambda: held.append(lease(writer.table, 2, holder="r", seconds=60))) for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.tag for one in leases(writer.table)} == {one.tag for one in held}
    assert len(held) == 8


def test_writing_is_over_when_it_is_over(writer):
    writer.put(["a"])

    def build():
        with writing(writer.table, "an index build"):
            [found] = leases(writer.table)
            assert (found.writes, found.holder, found.version) == (True, "an-index-build", 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert leases(writer.table) == []
