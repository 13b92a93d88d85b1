from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from raycluster.errors import LakeError, Mismatch, NotFound
from raycluster.lake.lake import Lake
from raycluster.lake.table import Table


def test_create_is_once_and_keeps_the_encoders(anywhere):
    table = anywhere.table
    assert not table.exists()
    assert table.version() == 0
    assert table.live() is None
    sink = table.create_or_check(anywhere.schema(), [{"use": "minilm", "batch": 8}])
    assert table.version() == 1
    assert sink.schema.names == anywhere.schema().names
    assert table.create_or_check(anywhere.schema()) == sink
    assert table.version() == 1
    assert table.encoders() == [{"use": "minilm", "batch": 8}]


def test_drivers_may_create_at_once(lake, writer_of):
    """`lance.write_dataset` overwrites what another thread has just created, 40 times of 60."""
    for trial in range(12):
        writer, errors, start = writer_of(lake.table(f"d{trial}")), [], threading.Barrier(8)

        def create(writer=writer, errors=errors, start=start):
            start.wait()
            try:
                writer.put([f"u{threading.get_ident()}"])
            except Exception as error:  # noqa: BLE001 - shown by the assertion below
                errors.append(error)

        threads = [threading.Thread(target=create) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert errors == []
        assert len(writer.ids()) == 16
        assert writer.table.version() == 9


def test_columns_that_do_not_fit_are_all_named(writer):
    writer.put(["a"])
    wanted = writer.schema(pa.field("minilm", pa.list_(pa.float32(), 384)), pa.field("label", pa.string()))
    wanted = wanted.set(wanted.get_field_index("vector"), pa.field("vector", pa.list_(pa.float32(), 8)))
    version = writer.table.version()
    for check in (writer.table.create_or_check, writer.table.require_fit):
        with pytest.raises(Mismatch) as caught:
            check(wanted)
        text = str(caught.value)
        assert "column 'minilm': wanted fixed_size_list<item: float>[384], the dataset has no such column" in text
        assert "column 'label': wanted string, the dataset has no such column" in text
        assert "column 'vector': wanted fixed_size_list<item: float>[8], found fixed_size_list<item: float>[16]" in text
        assert "fix:" in text
    assert writer.table.version() == version


def with_features(schema: pa.Schema, struct: pa.StructType) -> pa.Schema:
    return schema.set(schema.get_field_index("features"), pa.field("features", struct))


def test_a_new_measurement_is_added_and_older_rows_have_none_of_it(writer):
    writer.put(["a"])
    wanted = writer.schema()
    grown = pa.struct([*wanted.field("features").type, pa.field("wobble", pa.float32())])
    writer.table.require_fit(with_features(wanted, grown))
    assert "wobble" not in {field.name for field in writer.table.schema().field("features").type}  # asking adds nothing
    made = writer.table.create_or_check(with_features(wanted, grown))
    assert made.schema.field("features").type == grown
    writer.put(["b"])
    found = writer.table.open().to_table(columns=["features.wobble"], filter="features.wobble IS NULL")
    assert found.num_rows == writer.table.count_rows()


def test_a_measurement_of_another_type_is_named(writer):
    writer.put(["a"])
    wanted = writer.schema()
    changed = [pa.field(one.name, pa.string()) if one.name == "width" else one for one in wanted.field("features").type]
    with pytest.raises(Mismatch, match=r"column 'features\.width': wanted string, found int32"):
        writer.table.create_or_check(with_features(wanted, pa.struct(changed)))


def test_a_dataset_may_have_more_columns_than_a_workload(writer):
    table = writer.table
    table.create_or_check(writer.schema(pa.field("label", pa.string())))
    writer.put(["a", "b"])
    rows = table.open().to_table(columns=["label", "sha256"]).to_pylist()
    assert rows == [{"label": None, "sha256": "0" * 64}] * 4


def test_known_names_every_object_once_a_run_of_rows(anywhere):
    assert list(anywhere.table.known()) == []
    anywhere.put([f"u{index}" for index in range(50)], pieces=5)
    found = [row for batch in anywhere.table.known() for row in batch.to_pylist()]
    assert sorted(row["uri"] for row in found) == sorted(f"u{index}" for index in range(50))
    assert {row["object_id"] for row in found} == set(
        anywhere.rows([f"u{i}" for i in range(50)])["object_id"].to_pylist()
    )


def test_known_of_a_version_knows_nothing_later(writer):
    first = writer.put(["a"]).version
    writer.put(["b"])
    assert [row["uri"] for batch in writer.table.known(first) for row in batch.to_pylist()] == ["a"]


def test_live_moves_and_readers_of_live_see_only_it(anywhere):
    table = anywhere.table
    first = anywhere.put(["a"]).version
    with pytest.raises(NotFound, match="no live version yet"):
        table.open("live")
    table.set_live(first)
    second = anywhere.put(["b"]).version
    assert table.live() == first
    assert table.open("live").count_rows() == 2
    assert table.open().count_rows() == 4
    assert table.set_live(second) == second
    assert table.open("live").count_rows() == 4


def test_live_does_not_go_back_when_an_earlier_run_ends_late(writer):
    first, second = writer.put(["a"]).version, writer.put(["b"]).version
    assert writer.table.set_live(second) == second
    assert writer.table.set_live(first) == second
    assert writer.table.tags() == {"live": second}


def test_a_version_that_is_not_there_cannot_become_live(writer):
    first = writer.put(["a"]).version
    with pytest.raises(LakeError, match="cannot tag"):
        writer.table.set_live(99)
    writer.table.set_live(first)
    with pytest.raises(LakeError, match="cannot tag"):
        writer.table.set_live(99)
    assert writer.table.live() == first


def test_versions_tell_who_made_them(writer):
    writer.put(["a", "b"])
    old = writer.rows(["a"])["object_id"][0].as_py()
    last = writer.put(["a"], version="2", removed=[old])
    writer.table.set_live(last.version)
    newest, before, empty = writer.table.history()
    assert (newest["run_id"], newest["added"], newest["removed"], newest["rows"]) == ("run2", 2, 2, 4)
    assert newest["tags"] == ["live"]
    assert (before["run_id"], before["added"], before["rows"], before["tags"]) == ("run1", 4, 4, [])
    assert (empty["version"], empty["rows"]) == (1, 0)
    assert "run_id" not in empty
    assert [one["version"] for one in writer.table.history(limit=1)] == [newest["version"]]


@pytest.mark.parametrize("version", [99, "99", "nightly"])
def test_a_version_that_is_not_there(writer, version):
    writer.put(["a"])
    with pytest.raises(NotFound, match="has no version"):
        writer.table.open(version)


def test_a_version_may_be_text(writer):
    landed = writer.put(["a"])
    assert writer.table.open(str(landed.version)).count_rows() == 2
    assert writer.table.open("1").count_rows() == 0
    assert writer.table.open("latest").count_rows() == 2


def test_a_dataset_that_is_not_there(place):
    with pytest.raises(NotFound, match="there is no dataset 'd'"):
        place.table("d").open()
    with pytest.raises(NotFound, match="there is no dataset 'd'"):
        place.table("d").open("live")


def test_a_damaged_dataset_is_not_taken_for_an_absent_one(writer, tmp_path):
    writer.put(["a"])
    for manifest in Path(writer.table.uri, "_versions").glob("*.manifest"):
        manifest.write_bytes(b"scribble")
    with pytest.raises(LakeError, match="cannot read"):
        Table("d", writer.table.uri).open()
    with pytest.raises(LakeError):
        writer.table.create_or_check(writer.schema())


def test_a_tag_is_not_emptied_on_a_full_disk(writer_of, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    try:
        writer = writer_of(Lake(str(place)).table("d"))
        first = writer.put(["a"]).version
        writer.table.set_live(first)
        second = writer.put(["b"]).version
        with (place / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x" * 4096)
        for move in (lambda: writer.table.set_live(second), lambda: writer.table.tag("live", second)):
            with pytest.raises(LakeError, match="No space left") as refused:
                move()
            assert "free space" in refused.value.fix
            assert writer.table.live() == first
        (place / "ballast").unlink()
        assert writer.table.set_live(second) == second
    finally:
        subprocess.run(["umount", str(place)], check=True)
