"""Pictures of pages become their text, in the order in which a person reads it."""

import io

import numpy as np
import pytest

from raycluster.encode.ocr import Ocr, in_reading_order

LINES = ["Quarterly report", "Revenue rose by 12 percent", "Costs fell in March"]


@pytest.fixture(scope="module")
def encode():
    return Ocr().encoder()


def page(lines: list[str], kind: str = "PNG", mode: str = "RGB") -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (640, 80 + 70 * len(lines)), "white")
    for index, line in enumerate(lines):
        ImageDraw.Draw(picture).text((40, 40 + 70 * index), line, fill="black", font=ImageFont.load_default(32))
    file = io.BytesIO()
    picture.convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("PNG", "1"), ("JPEG", "CMYK"), ("PNG", "RGBA")]
)
def test_a_page_is_read(kind: str, mode: str, encode) -> None:
    assert encode([page(LINES, kind, mode)])["text"] == ["\n".join(LINES)]


def test_a_page_without_writing_has_no_text(encode) -> None:
    assert encode([page([])])["text"] == [None]


def test_a_broken_picture_costs_its_row_only(rows) -> None:
    pages = [page(LINES[:1]), page(LINES)[:200], b"no picture", page(LINES[1:2])]
    filled = Ocr(batch=4).open()(rows(pages))
    assert filled.column("text").to_pylist() == [LINES[0], None, None, LINES[1]]
    codes = [error and error["code"] for error in filled.column("error").to_pylist()]
    assert codes == [None, "corrupt", "corrupt", None]


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_pieces_of_a_line_are_read_from_the_left() -> None:
    boxes = np.array([box(200, 12, 300, 32), box(0, 50, 90, 70), box(0, 10, 90, 30)], np.float32)
    assert in_reading_order(boxes, ["world", "again", "hello"]) == "hello world\nagain"


def test_a_stage_that_wants_more_certainty_reads_less() -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (200, 640, 3), dtype=np.uint8)
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(noisy)
    ImageDraw.Draw(picture).text((40, 80), "barely to be seen", fill=(90, 90, 90), font=ImageFont.load_default(28))
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert Ocr(sure=1.0).encoder()([file.getvalue()])["text"] == [None]


def test_revision_is_the_wheels() -> None:
    assert Ocr().revision.startswith("rapidocr@3.")
