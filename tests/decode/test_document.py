"""Documents become pages in reading order or chunks; scans carry their picture; broken ones say how."""

from __future__ import annotations

import io
import random
import zipfile

import docx
import numpy as np
import pytest
from PIL import Image
from reportlab.lib import pdfencrypt
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen import canvas

from raycluster.decode.document import Document

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"

PROSE = (
    "The lighthouse keeper climbed the narrow stairs each evening and lit the lamp before the ships came in. "
    "His daughter counted the steps aloud, and the gulls outside answered her from the cold grey rocks below. "
)


def words(kind: str, count: int) -> list[str]:
    return [f"{kind}{number}" for number in range(count)]


def wrapped(kind: str, count: int, each: int = 5) -> list[str]:
    """Lines of numbered words, so that a test can see the order in which they are read."""
    every = words(kind, count)
    return [" ".join(every[start : start + each]) for start in range(0, count, each)]


def pdf(draw, pages: int = 1, **options) -> bytes:
    """Draw a PDF of A4 pages: `draw(sheet, number)`."""
    out = io.BytesIO()
    sheet = canvas.Canvas(out, pagesize=(595, 842), **options)
    for number in range(pages):
        draw(sheet, number)
        sheet.showPage()
    sheet.save()
    return out.getvalue()


def prose(sheet, number):
    for line, part in enumerate(PROSE.split(". ")):
        sheet.drawString(72, 760 - 14 * line, f"Page {number}. {part}"[:90])


def two_columns(sheet, number):
    """A heading across, then two columns drawn row by row, as spreadsheets and some typesetters do."""
    sheet.setFont("Helvetica-Bold", 16)
    sheet.drawString(72, 790, "A heading that lies across both of the columns")
    sheet.setFont("Helvetica", 10)
    for row, (left, right) in enumerate(zip(wrapped("left", 100), wrapped("right", 100), strict=True)):
        sheet.drawString(72, 750 - 13 * row, left)
        sheet.drawString(320, 750 - 13 * row, right)
    sheet.drawString(72, 60, "A footer that lies across both columns, from the left to the very right margin of it")


def test_pages_keep_their_number_size_and_text(pieces):
    rows = pieces(Document(), pdf(prose, pages=3), PDF)
    assert [row.position for row in rows] == [0, 1, 2]
    for row in rows:
        assert row.text.startswith(f"Page {row.position}. The lighthouse keeper")
        assert row.features["pages"] == 3
        assert (row.features["page_width"], row.features["page_height"]) == (595, 842)
        assert row.features["has_text_layer"] is True
        assert row.features["language"] == "en"
        assert row.page is None
        assert max(Image.open(io.BytesIO(row.thumbnail)).size) == 256


def test_columns_are_read_one_after_the_other(pieces):
    (row,) = pieces(Document(), pdf(two_columns), PDF)
    text = row.text.split()
    assert text[:9] == ["A", "heading", "that", "lies", "across", "both", "of", "the", "columns"]
    found = [word for word in text if word.startswith(("left", "right")) and word[-1].isdigit()]
    assert found == words("left", 100) + words("right", 100)
    assert row.text.endswith("A footer that lies across both columns, from the left to the very right margin of it")


def test_three_columns_are_read_one_after_the_other(pieces):
    def draw(sheet, number):
        sheet.setFont("Helvetica", 9)
        for row in range(30):
            for column, kind in enumerate("abc"):
                line = wrapped(f"{kind}word", 120, 4)[row]
                sheet.drawString(50 + 175 * column, 780 - 12 * row, line)

    (row,) = pieces(Document(), pdf(draw), PDF)
    assert row.text.split() == words("aword", 120) + words("bword", 120) + words("cword", 120)


def test_tables_are_read_row_by_row(pieces):
    def draw(sheet, number):
        for row in range(12):
            sheet.drawString(72, 760 - 16 * row, f"Valve{row}")
            sheet.drawString(300, 760 - 16 * row, f"{row * 7} bar")
            sheet.drawString(480, 760 - 16 * row, f"2026-0{row % 9 + 1}")

    (row,) = pieces(Document(), pdf(draw), PDF)
    assert row.text.splitlines()[3] == "Valve3 21 bar 2026-04"


def test_words_broken_at_line_ends_are_joined(pieces):
    def draw(sheet, number):
        sheet.drawString(72, 760, "The keeper of the light-")
        sheet.drawString(72, 746, "house climbed to North-")
        sheet.drawString(72, 732, "East Tower.")

    (row,) = pieces(Document(), pdf(draw), PDF)
    assert row.text == "The keeper of the lighthouse climbed to North-\nEast Tower."


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_pages_are_read_as_they_are_shown(pieces, turn):
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    source = pypdfium2.PdfDocument(pdf(two_columns))
    document.import_pages(source)
    page = document[0]
    # What is drawn is turned one way and the page the other, so that people see it upright.
    turned = {90: (0, 1, -1, 0, 595, 0), 180: (-1, 0, 0, -1, 595, 842), 270: (0, -1, 1, 0, 0, 842)}[turn]
    for shape in page.get_objects(max_depth=1):
        shape.transform(pypdfium2.PdfMatrix(*turned))
    page.gen_content()
    page.set_rotation(turn)
    if turn != 180:
        page.set_mediabox(0 if turn == 270 else 595 - 842, 0, 842 if turn == 270 else 595, 595)
    out = io.BytesIO()
    document.save(out)
    (row,) = pieces(Document(), out.getvalue(), PDF)
    found = [word for word in row.text.split() if word.startswith(("left", "right")) and word[-1].isdigit()]
    assert found == words("left", 100) + words("right", 100)


def scan(sheet, number):
    picture = Image.effect_noise((300, 400), 60)
    sheet.drawImage(ImageReader(picture), 100, 100, 400, 600)


def test_a_page_without_text_carries_its_picture(pieces):
    (row,) = pieces(Document(dpi=100), pdf(scan), PDF)
    assert row.text is None
    assert row.features["has_text_layer"] is False
    page = Image.open(io.BytesIO(row.page))
    assert page.size == (827, 1170)
    assert np.asarray(page.convert("L")).std() > 20

    (row,) = pieces(Document(ocr=False), pdf(scan), PDF)
    assert row.page is None
    assert row.thumbnail is not None


def test_a_poster_is_rendered_at_fewer_dots_per_inch(pieces):
    out = io.BytesIO()
    sheet = canvas.Canvas(out, pagesize=(10_000, 8_000))
    sheet.rect(100, 100, 5000, 5000, fill=1)
    sheet.save()
    (row,) = pieces(Document(dpi=600), out.getvalue(), PDF)
    width, height = Image.open(io.BytesIO(row.page)).size
    assert width * height < 24_100_000


def test_blank_pages_make_no_row_but_keep_their_number(pieces):
    content = pdf(lambda sheet, number: prose(sheet, number) if number in (0, 2) else None, pages=4)
    rows = pieces(Document(), content, PDF)
    assert [row.position for row in rows] == [0, 2]


def test_title_and_author_are_kept(pieces):
    def draw(sheet, number):
        sheet.setTitle("The Lamp")
        sheet.setAuthor("A. Keeper")
        prose(sheet, number)

    (row,) = pieces(Document(thumbnail=False), pdf(draw), PDF)
    assert (row.features["title"], row.features["author"], row.thumbnail) == ("The Lamp", "A. Keeper", None)


def test_a_pdf_is_read_from_its_path(pieces, tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf(prose, pages=2))
    assert len(pieces(Document(), tmp_path / "a.pdf", PDF)) == 2


def encrypted_pdf() -> bytes:
    return pdf(prose, encrypt=pdfencrypt.StandardEncryption("secret", ownerPassword="owner", strength=128))


def word(*, empty: bool = False) -> bytes:
    document = docx.Document()
    if not empty:
        document.core_properties.title = "Report"
        document.core_properties.author = "A. Keeper"
        document.add_heading("The lamp", 1)
        document.add_paragraph(PROSE)
        table = document.add_table(rows=2, cols=3)
        for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
            cell.text = f"cell {number}"
        table.rows[1].cells[0].merge(table.rows[1].cells[1])
        document.add_paragraph("After the table.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def test_word_documents_become_chunks_in_order(pieces):
    (row,) = pieces(Document(), word(), DOCX)
    where = [row.text.index(part) for part in ("The lamp", "The lighthouse", "cell 0 | cell 1 | cell 2", "After")]
    assert where == sorted(where)
    assert "cell 3 cell 4 | cell 5" in row.text
    assert (row.features["title"], row.features["author"]) == ("Report", "A. Keeper")
    assert row.features["language"] == "en"
    assert len(pieces(Document(chunk=20), word(), DOCX)) > 3


PAGE = """<!DOCTYPE html><html><head><meta charset="{charset}"><title>Die  Straße</title>
<style>p {{ color: red }}</style><script>var hidden = "<p>gone</p>";</script></head>
<body><h1>Größe</h1><p>Die Straße ist sehr naß, und der Bär hört zu.</p><ul><li>erstens<li>zweitens</ul>
<table><tr><td>links</td><td>rechts</td></tr></table><p style="display: none">unsichtbar</p></body></html>"""


@pytest.mark.parametrize(
    ("charset", "codec"), [("utf-8", "utf-8"), ("iso-8859-1", "latin-1"), ("windows-1252", "cp1252"), ("x", "cp1252")]
)
def test_web_pages_become_visible_text(pieces, charset, codec):
    (row,) = pieces(Document(), PAGE.format(charset=charset).encode(codec), HTML)
    assert row.features["title"] == "Die Straße"
    assert row.features["language"] == "de"
    for part in ("Größe", "der Bär hört zu", "* erstens", "links"):
        assert part in row.text
    for part in ("color", "gone", "unsichtbar", "<"):
        assert part not in row.text


def test_the_declared_encoding_of_a_page_wins_over_a_guess(pieces):
    page = '<html><head><meta http-equiv="Content-Type" content="text/html; charset=windows-1255"></head><p>{}</p>'
    (row,) = pieces(Document(), page.format("אתמול בערב הלכנו לקולנוע וראינו סרט חדש על החלל").encode("cp1255"), HTML)
    assert row.text.startswith("אתמול בערב")
    assert row.features["language"] == "he"


def test_xhtml_with_its_own_declaration_is_read(pieces):
    page = (
        '<?xml version="1.0" encoding="iso-8859-2"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Źródło'
        "</title></head><body><p>Wczoraj wieczorem poszliśmy do kina.</p></body></html>"
    )
    (row,) = pieces(Document(), page.encode("iso-8859-2"), "application/xhtml+xml")
    assert row.text == "Wczoraj wieczorem poszliśmy do kina."
    assert row.features["title"] == "Źródło"


@pytest.mark.parametrize("depth", [500, 1500])
def test_deeply_nested_pages_are_read(pieces, depth):
    (row,) = pieces(Document(), ("<div>" * depth + "deep" + "</div>" * depth).encode(), HTML)
    assert row.text == "deep"


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "")
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(1025):
                member.write(bytes(1 << 20))
    return out.getvalue()


def archive_of(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "text")
    return out.getvalue()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
BROKEN = {
    "zero bytes": (b"", PDF, "empty", "no bytes"),
    "blank pdf": (pdf(lambda sheet, number: None, pages=2), PDF, "empty", "nothing to see on its 2 pages"),
    "cut pdf": (pdf(prose, pages=5)[:-200], PDF, "truncated", "%%EOF"),
    "half a pdf": (pdf(prose, pages=5)[:2000], PDF, "truncated", "%%EOF"),
    "no pdf": (random.Random(3).randbytes(4000), PDF, "corrupt", "not a readable PDF"),
    "encrypted pdf": (encrypted_pdf(), PDF, "unsupported", "remove its password"),
    "long pdf": (pdf(prose, pages=7), PDF, "too_large", "7 pages, over the limit of 6"),
    "empty docx": (word(empty=True), DOCX, "empty", "no text"),
    "cut docx": (word()[:-3000], DOCX, "truncated", "not a whole DOCX"),
    "no docx": (random.Random(3).randbytes(4000), DOCX, "corrupt", "not a whole DOCX"),
    "another zip": (archive_of("photo.jpg"), DOCX, "corrupt", "no DOCX"),
    "hollow docx": (archive_of("[Content_Types].xml"), DOCX, "corrupt", "not a readable DOCX"),
    "encrypted docx": (OLE + "EncryptedPackage".encode("utf-16-le"), DOCX, "unsupported", "encrypted"),
    "old word": (OLE + "WordDocument".encode("utf-16-le"), DOCX, "unsupported", "save it as .docx"),
    "zip bomb": (bomb(), DOCX, "too_large", "unpacks to"),
    "html of scripts": (b"<html><script>var a = 1;</script></html>", HTML, "empty", "no text"),
    "html of noise": (random.Random(3).randbytes(4000), HTML, "corrupt", "binary"),
    "slides": (b"PK\x03\x04", "application/vnd.ms-powerpoint", "unsupported", "convert it to PDF"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_documents_say_how(verdict, case):
    content, kind, code, says = BROKEN[case]
    refused = verdict(Document(max_pages=6), content, kind)
    assert (refused.code, says in refused.message) == (code, True), refused.message


def test_a_file_over_the_limit_is_refused(verdict):
    assert verdict(Document(max_bytes=1000), pdf(prose), PDF).code == "too_large"
