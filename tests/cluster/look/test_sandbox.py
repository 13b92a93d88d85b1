"""Where no process can be started, suspect media cannot be decoded on their own."""

import multiprocessing

import pytest

from raycluster.cluster.look import Site, sandbox


def test_here_it_works(look) -> None:
    assert [one.level for one in look("sandbox") if one.level != "note"] == ["ok"]


def test_without_shared_memory_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")  # what a kernel without POSIX semaphores says

    monkeypatch.setattr(multiprocessing.context.SpawnContext, "Array", refuse)
    (found,) = sandbox.look(Site(lake="x"))
    assert (found.level, "not implemented" in found.what, "/dev/shm" in found.fix) == ("problem", True, True)
