"""The console's files as they are served: types, caching, the page's policy, and where the libraries come from."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from raycluster.serve import console as served
from raycluster.serve.console import console

FOLDER = Path(served.__file__).parent / "console"
VENDOR = FOLDER / "vendor"


def part(name: str) -> str:
    return f"/console/{console().digest}/{name}"


def test_the_page_is_asked_for_anew_and_all_else_is_kept_for_good(client):
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-cache"
    assert client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    named = re.findall(r'(?:href|src)="(console/[^"]+)"', page.text)
    assert len(named) >= 5
    for url in named:
        found = client.get(f"/{url}")
        assert found.status_code == 200, url
        assert found.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("app.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/chart.js", "text/javascript; charset=utf-8"),
        ("vendor/preact.LICENSE", "text/plain; charset=utf-8"),
    ],
)
def test_each_file_has_its_type_and_travels_packed(client, name, kind):
    packed, plain = (client.get(part(name), headers={"Accept-Encoding": way}) for way in ("gzip", "identity"))
    assert packed.headers["content-type"] == plain.headers["content-type"] == kind
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content == (FOLDER / name).read_bytes()
    assert packed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "url",
    [
        "/console/0123456789abcdef/app.js",
        part("nothing.js"),
        part("index.html"),
        part("%2e%2e/console.py"),
        part("..%2f..%2fsearch.py"),
        part("vendor"),
        part(""),
    ],
)
def test_nothing_else_is_there(client, url):
    answer = client.get(url)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_no_script_but_its_own_may_run(client):
    page = client.get("/")
    said = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert said["default-src"] == "'self'"
    assert not said.keys() & {"script-src", "style-src", "connect-src"}  # so default-src holds for them
    assert (said["object-src"], said["base-uri"], said["frame-ancestors"]) == ("'none'",) * 3
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|style=|javascript:|https?://", page.text)


def test_it_asks_no_credentials_and_holds_no_data(ask):
    assert ask("nobody", "/").status_code == 200
    assert ask("nobody", part("app.js")).status_code == 200
    assert "gallery" not in ask("nobody", "/").text


def test_the_digest_is_that_of_all_files():
    before = console().digest
    console.cache_clear()
    assert console().digest == before
    assert {f"vendor/{file.name}" for file in VENDOR.iterdir()} <= console().parts.keys()


def test_no_file_of_ours_puts_text_into_markup_or_names_another_server():
    for file in FOLDER.glob("*.js"):
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|dangerously|\beval\(", text), file
        assert not re.search(r"https?://", text), file


def test_its_files_keep_to_the_house_s_sizes():
    for file in [*FOLDER.glob("*.js"), *FOLDER.glob("*.css"), FOLDER / "index.html"]:
        lines = file.read_text().splitlines()
        assert len(lines) <= 400, file
        assert max(map(len, lines)) <= 120, file


def test_vendored_files_are_those_that_are_named_with_their_licences():
    rows = re.findall(r"^(\S+)\s+(\S+)\s+([\d.]+)\s+(\S+)\s+([0-9a-f]{64})$", (VENDOR / "VENDOR").read_text(), re.M)
    assert {name for name, *_ in rows} == {file.name for file in VENDOR.iterdir() if file.suffix in (".js", ".svg")}
    for name, *_, digest in rows:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
        assert (VENDOR / f"{name.partition('.')[0].partition('-')[0]}.LICENSE").stat().st_size > 500
    assert (VENDOR / "kurkle-color.LICENSE").exists()  # inside chart.js
