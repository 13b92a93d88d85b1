"""The body of an upload is read by a real parser, its length is what it says, and no file is held in memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from raycluster.client.form import Form
from raycluster.errors import InvalidUse


def parsed(form: Form) -> list[tuple[str, bytes]]:
    async def read():
        async def chunks():
            for chunk in form:
                yield chunk

        found = await MultiPartParser(Headers({"content-type": form.content_type}), chunks()).parse()
        try:
            return [(part.filename, await part.read()) for key, part in found.multi_items() if key == "files"]
        finally:
            await found.close()

    return asyncio.run(read())


@pytest.mark.parametrize("name", ["a.png", "blå himmel #1.png", "semi;colon.txt", "日本.jpg", "", "100%.txt"])
@pytest.mark.parametrize("content", [b"x", b"\r\n--", bytes(range(256)) * 9000])
def test_what_goes_in_comes_out(tmp_path: Path, name: str, content: bytes):
    (tmp_path / "file").write_bytes(content)
    form = Form([(name, tmp_path / "file"), ("other", b"abc")])
    assert len(b"".join(form)) == len(form)
    if name:
        assert parsed(form) == [(name, content), ("other", b"abc")] == parsed(form)


def test_a_name_cannot_end_its_header():
    form = Form([('a"\r\nX-Evil: 1\r\n\r\n.txt', b"abc")])
    assert parsed(form) == [("a%22%0D%0AX-Evil: 1%0D%0A%0D%0A.txt", b"abc")]


def test_a_large_file_is_not_held_in_memory(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200 << 20)
    form = Form([("large", tmp_path / "large")])
    tracemalloc.start()
    assert sum(map(len, form)) == len(form) > 200 << 20
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_file_that_grows_or_shrinks_while_it_is_sent(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    form = Form([("log", path)])
    path.write_bytes(b"0123456789 and more")
    assert parsed(form) == [("log", b"0123456789")]
    path.write_bytes(b"0123")
    with pytest.raises(InvalidUse, match="was shortened"):
        list(form)


def test_what_is_no_file(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InvalidUse, match="cannot be read") as wrong:
            Form([("x", path)])
        assert wrong.value.where == "files"
