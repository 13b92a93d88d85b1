"""A plan's counts: the first bytes of many objects become modalities, whatever goes wrong with some."""

import io
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raycluster.read import Reference, Source
from raycluster.read.files import Files
from raycluster.read.lance import Lance
from raycluster.read.parquet import Parquet


def references(source: Source) -> list[Reference]:
    return [Reference(**one) for batch in source.objects() for one in batch.to_pylist()]


def jpeg() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(file, "JPEG")
    return file.getvalue()


def at(uri: str, size: int = 1000) -> Reference:
    return Reference(uri=uri, version="1", size=size)


class Moody(MemoryFileSystem):  # type: ignore[misc]
    """A store whose client raises errors of its own kind, as those of some clouds do."""

    protocol = "moody"
    cachable = False

    def cat_file(self, path: str, **_: Any) -> bytes:
        raise RuntimeError(f"429 too many requests for {path}")


def test_each_has_a_modality_or_a_code_in_order(tmp_path: Path, site: Any) -> None:
    fsspec.register_implementation("moody", Moody, clobber=True)
    noise = random.Random(1).randbytes(4000)
    contents = {
        "a.jpg": jpeg(),
        "b.txt": b"The quick brown fox jumps.",
        "c.jpg": b"",
        "d.bin": noise,
        "e.jpg": bytes(99),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    site.files = {"/f.jpg": jpeg()}
    site.status = {"/g.jpg": [403]}
    asked = [at((tmp_path / name).as_uri(), len(content)) for name, content in contents.items()]
    asked += [at(f"{site.url}/f.jpg"), at(f"{site.url}/g.jpg"), at(f"{site.url}/gone.jpg")]
    asked += [at("moody://host/a.jpg"), at("nobody-knows://host/x"), at((tmp_path / "a.jpg").as_uri(), len(jpeg()))]
    expected = ["image", "text", "empty", "unsupported", "corrupt", "image", *["unreadable"] * 4, "image"]
    assert list(Files(timeout=5.0).modalities(asked)) == expected


def test_many_are_peeked_at_once_and_few_ahead(site: Any) -> None:
    site.files = {f"/{number}.jpg": jpeg() for number in range(96)}
    site.slow = dict.fromkeys(site.files, 0.1)
    taken = []

    def listed() -> Iterator[Reference]:
        for path in site.files:
            taken.append(path)
            yield at(site.url + path)

    started = time.monotonic()
    assert list(Files().modalities(listed())) == ["image"] * 96
    assert time.monotonic() - started < 9.6 / 4  # one after the other would take 9.6 s
    taken.clear()
    site.asked.clear()
    some = Files().modalities(listed())
    assert next(some) == "image"
    assert len(taken) <= 17
    some.close()  # type: ignore[attr-defined]
    assert len(site.asked) <= 17


def test_large_cells_are_peeked_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More read-ahead than windows are kept would read a row group from its start again and again."""
    from raycluster.read.parquet import _Group

    cells = [jpeg() + random.Random(number).randbytes(5 << 20) for number in range(24)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet", write_batch_size=1)
    begun = []
    begin = _Group.__init__
    monkeypatch.setattr(_Group, "__init__", lambda *given: (begun.append(given[2]), begin(*given))[1])
    source = Parquet(paths=(str(tmp_path),), column="image")
    assert list(source.modalities(references(source))) == ["image"] * 24
    assert begun == [0]


def test_sources_whose_objects_are_cells_are_cut_into_runs_of_neighbours(tmp_path: Path) -> None:
    table = pa.table({"image": [jpeg(), jpeg()]})
    pq.write_table(table, tmp_path / "a.parquet")
    lance.write_dataset(table, tmp_path / "a.lance")
    tables = [
        Parquet(paths=(str(tmp_path),), column="image"),
        Lance(uri=str(tmp_path / "a.lance"), column="image"),
    ]
    for source in [*tables, Files(paths=(str(tmp_path),))]:
        assert source.sequential == any(one.locator for one in references(source))
