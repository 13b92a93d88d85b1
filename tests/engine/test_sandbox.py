"""Processes that crash, are killed, hang or exit cost the one object they were at, and the code says how."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycluster.engine.line import Job, Line
from raycluster.engine.sandbox import Sandbox

Units = Callable[[Job], pa.Table]
# In the order of their names, which is the order of work.
TEXTS = {
    "a-good": "good words",
    "b-segfault": "a SEGFAULT here",
    "c-good": "more good words",
    "d-killed": "now KILLED",
    "e-raises": "it will RAISE here",
    "f-hangs": "let it HANG",
    "g-good": "still good",
}
VERDICTS = {
    "b-segfault": ("corrupt", "crashed (SIGSEGV)"),
    "d-killed": ("out_of_memory", "was killed"),
    "e-raises": ("model_error", "it says so"),
    "f-hangs": ("timeout", "no sign of life"),
}


@pytest.fixture
def deadly(corpus: Path) -> None:
    for name, text in TEXTS.items():
        (corpus / f"{name}.txt").write_text(text + "\n")


@pytest.fixture
def sandboxed(job: Any, units: Units) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Work through everything in a sandbox, and see that nothing of it is left."""
    before = children()

    def work(encode: str, *, pool: int = 0, keep: Callable[[str], bool] = lambda _: True) -> list[dict[str, Any]]:
        made = job(encode=encode)
        unit = units(made)
        chosen = [keep(uri) for uri in unit["uri"].to_pylist()]
        unit = unit.filter(pa.array(chosen))
        if pool:
            unit = pa.Table.from_batches(Line(made, 0).run(unit))
        return pa.Table.from_batches(Sandbox(made, pool).run(unit)).to_pylist()

    yield work
    assert children() <= before


def children() -> set[int]:
    """Return the processes that this one has started, but for Python's own resource tracker."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # of a thread that has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()}


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {row["uri"].rpartition("/")[2].removesuffix(".txt"): row for row in rows}
    assert len(found) == len(rows)
    return found


def judge(rows: list[dict[str, Any]]) -> None:
    found = by_name(rows)
    assert set(found) == set(TEXTS)
    for name, row in found.items():
        if name in VERDICTS:
            code, message = VERDICTS[name]
            assert row["error"]["code"] == code
            assert message in row["error"]["message"]
            assert (row["stage"], row["pieces"], row["mark"]) == ("private_stages", 1, None)
        else:
            assert (row["error"], row["mark"], row["stage"]) == (None, TEXTS[name].split()[0], None)


@pytest.mark.usefixtures("deadly")
def test_each_death_costs_its_object_and_is_named(sandboxed: Any) -> None:
    judge(sandboxed("[{use: 'private_stages:Marking', timeout: 2s}]"))


@pytest.mark.slow
@pytest.mark.usefixtures("deadly")
def test_rows_of_a_later_pool_too(sandboxed: Any) -> None:
    judge(sandboxed("[{use: 'private_stages:Marking', timeout: 2s, actors: 1}]", pool=1))


def test_what_took_the_whole_worker_along_twice_is_not_tried_again(job: Any, units: Units, corpus: Path) -> None:
    (corpus / "a.txt").write_text("good words\n")
    (corpus / "b.txt").write_text("a KILLED would be noticed here\n")
    begun: list[int] = []

    def tried(index: int) -> int:
        begun.append(index)
        return 2 if index == 1 else 0

    work = job()
    rows = pa.Table.from_batches(Sandbox(work, 0).run(units(work), tried)).to_pylist()
    assert begun == [0, 1]
    assert rows[0]["mark"] == "good"
    assert (rows[1]["error"]["code"], rows[1]["stage"]) == ("out_of_memory", "memory")


@pytest.mark.parametrize("gpus", [0, 1])
def test_it_sees_the_gpu_that_its_worker_was_given(
    job: Any, units: Units, corpus: Path, monkeypatch: pytest.MonkeyPatch, gpus: float
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    (corpus / "a.txt").write_text("good words\n")
    work = job(encode="[{use: 'private_stages:Seeing'}]")
    (pool,) = work.pools
    work = replace(work, pools=(replace(pool, needs=replace(pool.needs, gpu=gpus)),))
    (rows,) = Sandbox(work, 0).run(units(work))
    assert rows.column("mark").to_pylist() == ["3" if gpus else ""]


def test_a_sandboxed_row_is_the_row_of_a_line(job: Any, units: Units, corpus: Path) -> None:
    (corpus / "a.txt").write_text("One sentence of some words to fill a chunk. " * 100)
    (corpus / "b.txt").write_bytes(b"")
    work = job(decode="{text: {chunk: 50}}")
    listed = units(work)
    direct = pa.Table.from_batches(Line(work, 0).run(listed))
    apart = pa.Table.from_batches(Sandbox(work, 0).run(listed))
    assert direct.num_rows > 10
    assert apart == direct
