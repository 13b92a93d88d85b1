"""Local files become references and media, whatever lies between them."""

import gc
import hashlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
import wave
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import TypeAdapter, ValidationError

from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference, Source
from raycluster.read._listing import Place
from raycluster.read._local import LocalStore
from raycluster.read._store import local_path
from raycluster.read.files import Files
from raycluster.row import object_id


def references(source: Source) -> list[Reference]:
    return [Reference(**one) for batch in source.objects() for one in batch.to_pylist()]


def jpeg(color: str = "red") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(file, "JPEG")
    return file.getvalue()


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())


def listed(folder: Path, source: Files) -> list[str]:
    """Return the paths of the listed files below a folder, and prove that none comes twice."""
    uris = [one.uri for one in references(source)]
    assert len(set(uris)) == len(uris)
    return [os.path.relpath(unquote(uri.removeprefix("file://")), folder) for uri in uris]


def verdict(source: Files, reference: Reference) -> BadMedia:
    with pytest.raises(BadMedia) as caught:
        source.get(reference)
    return caught.value


def test_yaml_keys() -> None:
    text = json.dumps({"paths": ["a"], "exclude": ["b/"], "max_bytes": "1GB", "timeout": "5s"})
    source = TypeAdapter(Files).validate_json(text, strict=True)
    assert source == Files(paths=("a",), exclude=("b/",), max_bytes=10**9, timeout=5.0)
    assert pickle.loads(pickle.dumps(source)) == source
    with pytest.raises(ValidationError):
        TypeAdapter(Files).validate_json('{"path": ["a"]}', strict=True)


def test_media_of_a_file(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp3")
    source = Files(paths=(str(tmp_path),))
    (reference,) = references(source)
    status = (tmp_path / "a.mp3").stat()
    assert reference.uri == (tmp_path / "a.mp3").as_uri()
    assert reference.version == f"{status.st_size}-{status.st_mtime_ns}"
    assert reference.size == status.st_size
    media = source.get(reference)
    assert (media.modality, media.media_type) == ("image", "image/jpeg")
    assert media.content == jpeg()
    assert media.path is None
    assert media.sha256 == hashlib.sha256(jpeg()).hexdigest()
    assert media.object_id == object_id(reference.uri, reference.version)
    assert source.peek(reference, 10) == jpeg()[:10]


def test_order_is_that_of_uris(tmp_path: Path) -> None:
    fill(tmp_path, "b/x.jpg", "b.jpg", "b-c/x.jpg", "a.jpg", "c/d/e.jpg")
    found = listed(tmp_path, Files(paths=(str(tmp_path),)))
    assert found == sorted(["b/x.jpg", "b.jpg", "b-c/x.jpg", "a.jpg", "c/d/e.jpg"])


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["**"], [], ["a.jpg", "b/c.png", "b/d/e.jpg"]),
        (["*.jpg"], [], ["a.jpg", "b/d/e.jpg"]),
        (["b/*"], [], ["b/c.png"]),
        (["b/"], [], ["b/c.png", "b/d/e.jpg"]),
        (["**/d/**"], [], ["b/d/e.jpg"]),
        (["**"], ["*.jpg"], ["b/c.png"]),
        (["**"], ["d"], ["a.jpg", "b/c.png"]),
        (["**"], ["b/"], ["a.jpg"]),
        (["**", "**/.hidden/**"], [], [".hidden/g.jpg", "a.jpg", "b/.hidden/h.jpg", "b/c.png", "b/d/e.jpg"]),
        ([".*"], [], [".f.jpg"]),
        (["b/[cx].p?g"], [], ["b/c.png"]),
        (["none/*"], [], []),
    ],
)
def test_globs(tmp_path: Path, include: list[str], exclude: list[str], expected: list[str]) -> None:
    fill(tmp_path, "a.jpg", "b/c.png", "b/d/e.jpg", ".f.jpg", ".hidden/g.jpg", "b/.hidden/h.jpg")
    source = Files(paths=(str(tmp_path),), include=tuple(include), exclude=tuple(exclude))
    assert listed(tmp_path, source) == expected


def test_paths_may_be_globs(tmp_path: Path) -> None:
    fill(tmp_path, "2024-01/a.jpg", "2024-02/b.jpg", "2025-01/c.jpg", "what [1]?/d.jpg")
    assert listed(tmp_path, Files(paths=(f"{tmp_path}/2024-*",))) == ["2024-01/a.jpg", "2024-02/b.jpg"]
    assert listed(tmp_path, Files(paths=(f"{tmp_path}/**/[bc].jpg",))) == ["2024-02/b.jpg", "2025-01/c.jpg"]
    assert listed(tmp_path, Files(paths=(f"{tmp_path}/what [1]?",))) == ["what [1]?/d.jpg"]
    with pytest.raises(InvalidUse, match="matches no file"):
        Files(paths=(f"{tmp_path}/2026-*",)).objects()


@pytest.mark.parametrize("by", ["paths", "include"])
def test_folders_that_a_glob_leaves_out_are_not_listed(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "00/a/1.jpg", "01/b/2.jpg", "0[/x.jpg", "10/a/3.jpg", "1/4.jpg")
    listed_folders: list[str] = []
    children = LocalStore.children

    def noted(store: LocalStore, uri: str) -> Any:
        listed_folders.append(os.path.relpath(local_path(uri), tmp_path))
        return children(store, uri)

    monkeypatch.setattr(LocalStore, "children", noted)
    where = {"paths": (f"{tmp_path}/0?/**",)} if by == "paths" else {"paths": (str(tmp_path),), "include": ("0?/**",)}
    assert listed(tmp_path, Files(**where)) == ["00/a/1.jpg", "01/b/2.jpg", "0[/x.jpg"]
    assert set(listed_folders) == {".", "00", "00/a", "01", "01/b", "0["}


def test_relative_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "corpus/a.jpg")
    monkeypatch.chdir(tmp_path)
    for path in ("corpus", "./corpus/", "corpus/../corpus", tmp_path.as_uri() + "/corpus"):
        (reference,) = references(Files(paths=(path,)))
        assert reference.uri == (tmp_path / "corpus/a.jpg").as_uri()


def test_overlapping_paths_list_once(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b/c.jpg", "b/d.png")
    names = tmp_path / "names.txt"
    names.write_text(f"# a comment\n\n{tmp_path}/a.jpg\n{tmp_path}/b/d.png\n{tmp_path}/b/d.png\n")
    paths = (f"{tmp_path}/b", str(tmp_path), f"{tmp_path}/b/c.jpg", f"{tmp_path}/b/*")
    assert listed(tmp_path, Files(paths=paths, exclude=("*.txt",), list=str(names))) == ["b/c.jpg", "b/d.png", "a.jpg"]
    only_jpg = Files(paths=(str(tmp_path),), include=("*.jpg",), list=str(names))
    assert listed(tmp_path, only_jpg) == ["a.jpg", "b/c.jpg", "b/d.png"]


def test_many_paths_that_do_not_overlap_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.jpg", "ab/2.jpg", "b/3.jpg", "b/c/4.jpg")
    monkeypatch.setattr(Place, "covers", lambda *_: pytest.fail("they lie apart"))
    paths = tuple(f"{tmp_path}/{name}" for name in ("a", "ab", "b"))
    assert listed(tmp_path, Files(paths=paths)) == ["a/1.jpg", "ab/2.jpg", "b/3.jpg", "b/c/4.jpg"]


def test_names_of_any_kind(tmp_path: Path) -> None:
    names = ["a b.jpg", "ü.jpg", "100%.jpg", "a#b?.jpg", "new\nline.jpg"]
    fill(tmp_path, *names)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))).write_bytes(jpeg())
    source = Files(paths=(str(tmp_path),))
    found = references(source)
    assert len(found) == 6
    assert all(source.get(one).content == jpeg() for one in found)
    assert (tmp_path / "100%.jpg").as_uri() in [one.uri for one in found]


def test_links(tmp_path: Path) -> None:
    fill(tmp_path, "a/x.jpg", "b/y.jpg", "elsewhere/z.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to("self")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "b/file.jpg").symlink_to(tmp_path / "elsewhere/z.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    source = Files(paths=(str(tmp_path),), exclude=("elsewhere",))
    found = listed(tmp_path, source)
    assert {"a/x.jpg", "b/y.jpg", "b/file.jpg", "a/to_b/y.jpg", "dangling.jpg", "a/self"} <= set(found)
    assert not [path for path in found if path.startswith("a/up")]
    broken = {one.uri.rpartition("/")[2]: one for one in references(source)}
    assert verdict(source, broken["dangling.jpg"]).code == "unreadable"
    assert verdict(source, broken["self"]).code == "unreadable"


def test_pipes_and_devices_never_block(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/zero")
    source = Files(paths=(str(tmp_path),))
    assert listed(tmp_path, source) == ["a.jpg"]
    pipe = Reference(uri=(tmp_path / "pipe.jpg").as_uri(), version="0-0", size=0)
    started = time.monotonic()
    assert verdict(source, pipe).code == "unreadable"
    assert "not a file but" in verdict(source, pipe).message
    assert time.monotonic() - started < 5
    with pytest.raises(InvalidUse, match="neither a file nor a folder"):
        Files(paths=(f"{tmp_path}/pipe.jpg",)).objects()


def test_names_that_no_file_can_have_are_absent(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    names = ["a.jpg", "a.jpg/b.jpg", "x" * 300, "none.jpg", "zero\0byte.jpg"]
    (tmp_path / "list").write_text("\n".join(f"{tmp_path}/{name}" for name in names))
    found = references(Files(list=str(tmp_path / "list")))
    assert [one.version == "absent" for one in found] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Files(), "names no files"),
        (Files(paths=("nowhere/at/all",)), "does not exist .working directory"),
        (Files(list="nowhere.txt"), "does not exist"),
        (Files(paths=("s3://",)), "names no place"),
        (Files(paths=("gopher://host/x",)), "not a known kind of store"),
        (Files(paths=(".",), include=("a**",)), "a pattern is wrong"),
    ],
)
def test_wrong_use_is_told_before_anything_is_listed(source: Files, message: str) -> None:
    with pytest.raises(InvalidUse, match=message) as caught:
        source.objects()  # not even iterated
    assert caught.value.fix


def test_a_missing_client_is_named() -> None:
    from raycluster.errors import MissingPackage

    with pytest.raises(MissingPackage, match="sftp://"):
        Files(paths=("sftp://host/x",)).objects()


def test_too_large_empty_and_changed(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"")
    source = Files(paths=(str(tmp_path),), max_bytes=100)
    first, second, third = references(source)
    assert verdict(source, first).code == "too_large"
    assert verdict(source, third).code == "empty"
    (tmp_path / "a.jpg").write_bytes(jpeg("blue"))
    changed = verdict(Files(), first)
    assert (changed.code, "has changed since it was listed" in changed.message) == ("unreadable", True)
    (tmp_path / "b.jpg").unlink()
    assert "no such file" in verdict(Files(), second).message
    again = references(source)
    assert [one.uri for one in again] == [first.uri, third.uri]
    assert again[0].version != first.version


def test_fetch_keeps_order_and_goes_on_after_bad_ones(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number:02}.jpg" for number in range(20)))
    (tmp_path / "07.jpg").write_bytes(b"")
    source = Files(paths=(str(tmp_path),))
    asked = references(source)
    fetched = list(source.fetch(asked))
    assert [reference for reference, _ in fetched] == asked
    assert [index for index, (_, media) in enumerate(fetched) if isinstance(media, BadMedia)] == [7]


_AS_NOBODY = """
import os
from raycluster.errors import BadMedia, InvalidUse
from raycluster.read import Reference
from raycluster.read.files import Files
source = Files(paths=({folder!r},), exclude=("closed",))
for batch in source.objects():  # imports what it needs, which the other user may not be allowed to
    source.get(Reference(**batch.slice(1, 1).to_pylist()[0]))
os.setgid(65534)
os.setuid(65534)
for batch in source.objects():
    for one in batch.to_pylist():
        try:
            from raycluster.read import Reference, Source
            print(one["uri"].rpartition("/")[2], source.get(Reference(**one)).modality)
        except BadMedia as error:
            print(one["uri"].rpartition("/")[2], error.code, error.message)
try:
    list(Files(paths=({folder!r},)).objects())
except InvalidUse as error:
    print("InvalidUse", error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_permissions() -> None:
    """An unreadable file is one bad object; an unreadable folder ends the listing, since nobody knows what it hides."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        fill(folder, "open.jpg", "secret.jpg", "closed/x.jpg", "names_only/y.jpg", ".git/z.jpg")
        (folder / "secret.jpg").chmod(0)
        (folder / "closed").chmod(0)
        (folder / ".git").chmod(0)  # hidden: nobody even looks into it
        (folder / "names_only").chmod(0o744)
        script = _AS_NOBODY.format(folder=name)
        checkout = Path(__file__).parent.parent.parent
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=checkout)
    assert "open.jpg image" in said.stdout, said.stderr
    assert "secret.jpg unreadable" in said.stdout
    assert "permission denied" in said.stdout
    assert "y.jpg unreadable" in said.stdout
    assert f"InvalidUse {name}/closed cannot be listed: permission denied" in said.stdout


def sound(path: Path, size: int) -> None:
    """Write a long silent recording; its samples are a hole, so that it takes no room on the disk."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 100)
    with path.open("r+b") as raw:
        raw.truncate(size)


def test_a_large_local_file_is_used_where_it_lies(tmp_path: Path) -> None:
    sound(tmp_path / "long.wav", 200 << 20)
    source = Files(paths=(str(tmp_path),))
    (reference,) = references(source)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    media = source.get(reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (media.modality, media.path, media.content) == ("audio", str(tmp_path / "long.wav"), None)
    assert peak < 8 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kilobytes
    with (tmp_path / "long.wav").open("rb") as file:
        assert media.sha256 == hashlib.file_digest(file, "sha256").hexdigest()
    del media
    gc.collect()
    assert (tmp_path / "long.wav").exists()


@pytest.mark.slow
def test_listing_twenty_thousand_files_is_quick_and_small(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"{folder:02}").mkdir()
        for number in range(1000):
            (tmp_path / f"{folder:02}/{number:04}.jpg").touch()
    source = Files(paths=(str(tmp_path),))
    tracemalloc.start()
    sizes = [batch.num_rows for batch in source.objects()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [10_000, 10_000]
    assert peak < 20 << 20
    started = time.monotonic()
    assert sum(batch.num_rows for batch in source.objects()) == 20_000
    assert time.monotonic() - started < 10
