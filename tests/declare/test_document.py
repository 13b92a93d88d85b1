"""Files are read with their places remembered, and every mistake is told where it stands."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from raycluster.declare.document import Document, load, load_all, parse
from raycluster.errors import InvalidFile, InvalidUse, NotFound
from raycluster.units import Bytes, Resources, Seconds


@dataclass(frozen=True, kw_only=True)
class Clip:
    __pydantic_config__: ClassVar = {"extra": "forbid"}
    window: Seconds = 10.0
    size: Bytes = 1
    needs: Resources = Resources()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Clips:
    __pydantic_config__: ClassVar = {"extra": "forbid"}
    clips: dict[str, Clip]


def mistakes(text: str) -> list[str]:
    document = parse(text, "clip.yaml")
    document.read(Clip, document.value, ())
    with pytest.raises(InvalidFile) as caught:
        document.finish()
    return [f"{one.where} {one.message} | {one.fix}" for one in caught.value.problems]


def test_quantities_carry_units() -> None:
    document = parse("window: 500ms\nsize: 2GiB\nneeds: {gpu: 0.5, memory: 1 GB}\n")
    clip = document.read(Clip, document.value, ())
    assert clip == Clip(window=0.5, size=2 << 30, needs=Resources(gpu=0.5, memory=10**9))


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    found = mistakes("names: [a, 7]\nneeds:\n  gpus: 1\nwindow: 10\nsize: 3 apples\n")
    assert [one.split()[0] for one in found] == ["clip.yaml:1:12", "clip.yaml:3:3", "clip.yaml:4:1", "clip.yaml:5:1"]
    assert "unknown key 'gpus' | did you mean 'gpu'?" in found[1]
    assert "10 has no unit: write it like 10s" in found[2]
    assert "'3 apples' is not a quantity: write it like 2GiB" in found[3]


def test_an_unknown_key_far_from_all_lists_what_is_valid() -> None:
    assert mistakes("zzz: 1\n") == ["clip.yaml:1:1 unknown key 'zzz' | valid here: names, needs, size, window"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "bad.yaml:2:2: not YAML"),
        ("a: 1\nb: 2\na: 3\n", "bad.yaml:3:1: key 'a' stands twice"),
        ("- a\n- b\n", "bad.yaml:1:1: expected a mapping"),
        ("", "bad.yaml:1:1: expected a mapping"),
        ("a: 1\n--- \nb: 2\n", "not YAML"),
        ("a: !!python/object:os.system x\n", "bad.yaml:1:4: tags (!!python/object:os.system) are not taken"),
        ("a: !!bool maybe\n", "bad.yaml:1:4: tags (!!bool)"),
        ("a: !own x\n", "bad.yaml:1:4: tags (!own)"),
        ("a: 1\nb: &b [*b]\n", "bad.yaml:2:4: anchors (&b) are not taken"),
        ("a: *b\n", "bad.yaml:1:4: aliases (*b) are not taken"),
        ("a: " + "[" * 33 + "]" * 33, "bad.yaml:1:35: nested more than 32 deep"),
        ("[" * 400_000, "bad.yaml:1:33: nested more than 32 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(100)), "bad.yaml:33:33: nested more than 32 deep"),
        ("a: 2026-99-99\n", "not YAML: month"),
        (f"a: {'9' * 5000}\n", "not YAML"),
        ("a: " + "x" * 1_000_000, "bad.yaml:1:1: the file is larger than 1.0 MB"),
    ],
)
def test_what_is_not_one_mapping_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse(text, "bad.yaml")
    assert message in str(caught.value)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InvalidFile) as caught:
        load(tmp_path / "bad.yaml")
    assert message in str(caught.value)


@pytest.mark.timeout(20)
def test_a_few_lines_do_not_fill_the_memory() -> None:
    bomb = "l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 20))
    with pytest.raises(InvalidFile, match="anchors"):
        parse(bomb)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """A sparse file of a terabyte: reading it would take all memory."""
    with (tmp_path / "large.yaml").open("wb") as file:
        file.write(b"\xc3\xa9" * 500_001)
        file.truncate(1 << 40)
    with pytest.raises(InvalidFile, match="larger than 1"):
        load(tmp_path / "large.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        load(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidUse, match="cannot be read"):
        load(binary)


def test_dates_and_other_yaml_values_do_not_crash() -> None:
    document = parse("window: 2026-01-01\n")
    document.read(Clip, document.value, ())
    with pytest.raises(InvalidFile, match="quote the value"):
        document.finish()


def test_plain_values_are_kept_as_they_were_written() -> None:
    document = parse("price: 25.10\nrates: [0.30, {a: 1_000}]\n")
    assert document.texts == {("price",): "25.10", ("rates", 0): "0.30", ("rates", 1, "a"): "1_000"}


def test_a_key_of_a_member_of_a_mapping_by_name_has_its_nearest_too() -> None:
    document = parse("clips: {first: {widnow: 3s}}\n")
    document.read(Clips, document.value, ())
    with pytest.raises(InvalidFile, match="did you mean 'window'"):
        document.finish()


def borrowed(tmp_path: Path, text: str) -> list[Document]:
    file = tmp_path / "theirs.yaml"
    file.write_text(text)
    return load_all(file)


def test_what_others_read_too_may_have_anchors_and_each_value_a_place(tmp_path: Path) -> None:
    text = "a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\n---\n# nothing\n---\nc: [4]\n"
    first, second = borrowed(tmp_path, text)
    assert first.value == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
    assert [first.where(at).rpartition("yaml:")[2] for at in (("b", "x"), ("b", "y"), ("a", "y"))] == [
        "2:3",
        "6:3",
        "3:3",
    ]
    assert second.value == {"c": [4]}
    assert second.where(("c", 0)).endswith(":10:5")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {x: 1, x: 2}\n", ":1:11: key 'x' stands twice"),
        ("a: &a [*a]\n", "aliases make it endless"),
        ("a: &a [1,2]\n" + "".join(f"{n}: &{n} [*{p}, *{p}, *{p}]\n" for p, n in pairwise("abcdefghijklm")), "endless"),
        ("a: &a 1\nb: [" + "*a, " * 101 + "]\n", "aliases (*a) are not taken"),
        ("a: !!python/name:os.system\n", ":1:4: tags"),
        ("a: 1\n---\n- 1\n", ":3:1: expected a mapping"),
        ("x: &x 1\na: {<<: *x}\n", "expected a mapping or list of mappings for merging"),
        ("---\n", "expected a mapping, found nothing"),
        ("[" * 40, "nested more than 32 deep"),
    ],
)
def test_what_others_read_too_is_held_to_the_same_limits(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as wrong:
        borrowed(tmp_path, text)
    assert told in str(wrong.value)
    assert len({str(one) for one in wrong.value.problems}) == len(wrong.value.problems)
