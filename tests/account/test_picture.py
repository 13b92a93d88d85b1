"""Pictures show what the bill says, in any format, and nothing of what users named their teams breaks them."""

import re
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cost_lines import LAST_WEEK, ledger, line
from PIL import Image

from raycluster.account.bill import lines
from raycluster.account.chart import REST, SHARED, Chart, make_chart
from raycluster.account.group import add_up
from raycluster.account.picture import draw, plot, require_drawable
from raycluster.account.question import ask
from raycluster.errors import InvalidUse, MissingPackage, NotFound
from raycluster.lake.ledger import Ledger

STRANGE = "a <b> & $x$ _ $y$"


def charted(place: Ledger, key: str) -> Chart:
    by = tuple(dict.fromkeys([key, "stage", "hour"]))
    return make_chart(key, add_up(lines(place, ask(by=key)), by).lines)


@pytest.fixture
def busy(tmp_path: Path) -> Ledger:
    """Return a ledger of twenty runs of three teams, over nine days."""
    made = [
        line(
            run_id=f"20261111-{number:02d}-and-a-very-long-name-{number}",
            team=("discovery", "archive", STRANGE)[number % 3],
            stage=("video", "image", None)[number % 3],
            nanousd=10**6 + number,
            started_at=LAST_WEEK + timedelta(hours=10 * number),
        )
        for number in range(20)
    ]
    shared = line(kind="idle", stage=None, outcome=None, is_shared=True, nanousd=5 * 10**6)
    return ledger(tmp_path / "lake", *made, shared)


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_layers_add_up_to_what_was_paid(busy: Ledger) -> None:
    chart = charted(busy, "team")
    paid = sum(10**6 + number for number in range(20)) + 5 * 10**6
    assert sum(map(sum, chart.layers.values())) == sum(chart.paid) == paid
    assert chart.bars == ["discovery", "archive", STRANGE]
    assert list(chart.layers) == ["image", "video", "no stage", SHARED]
    assert chart.layers[SHARED] == [5 * 10**6, 0, 0]
    assert chart.left_out == (0, 0)


def test_of_many_runs_the_dearest_are_shown_and_the_rest_is_said(busy: Ledger) -> None:
    chart = charted(busy, "run")
    assert len(chart.bars) == 12
    assert chart.left_out == (9, sum(10**6 + number for number in range(9)))
    assert sum(map(sum, chart.layers.values())) + chart.left_out[1] == sum(chart.paid)


def test_many_stages_share_the_last_colour(tmp_path: Path) -> None:
    place = ledger(tmp_path, *(line(stage=f"s{number}", nanousd=100 - number) for number in range(9)))
    chart = charted(place, "team")
    assert list(chart.layers) == ["s0", "s1", "s2", "s3", "s4", "s5", REST]
    assert chart.layers[REST] == [94 + 93 + 92]
    assert list(charted(place, "stage").layers) == list(chart.layers)


def test_days_without_costs_are_days_of_nothing(tmp_path: Path) -> None:
    place = ledger(tmp_path, line(nanousd=5), line(nanousd=7, started_at=LAST_WEEK + timedelta(days=6)))
    chart = charted(place, "day")
    assert chart.bars == [f"2026-11-{day}" for day in range(11, 18)]
    assert (chart.unit, chart.paid) == ("day", [5, 0, 0, 0, 0, 0, 7])
    assert charted(place, "month").bars == ["2026-11"]


def test_a_short_time_is_drawn_by_the_hour(tmp_path: Path) -> None:
    place = ledger(tmp_path, line(nanousd=5), line(nanousd=7, started_at=LAST_WEEK + timedelta(hours=2)))
    chart = charted(place, "hour")
    assert (chart.unit, chart.paid) == ("hour", [5, 0, 7])
    assert chart.bars == ["2026-11-11 10:00", "2026-11-11 11:00", "2026-11-11 12:00"]


@pytest.mark.parametrize("key", ["team", "run", "stage", "day", "hour", "month"])
def test_no_label_runs_into_another(busy: Ledger, key: str) -> None:
    figure = plot(charted(busy, key))
    figure.canvas.draw()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [text.get_window_extent() for text in axis.get_ticklabels() if text.get_text()]
            if axis is axes.xaxis and any(text.get_rotation() for text in axis.get_ticklabels()):
                gaps = [right.x1 - left.x1 for left, right in pairwise(boxes)]
                assert min(gaps) > 15  # pixels between the ends of slanted lines of text
                continue
            assert not any(one.overlaps(other) for one, other in pairwise(boxes))


@pytest.mark.parametrize(
    ("nanousd", "ticks"),
    [
        (400, ["$0", "$0.0000001", "$0.0000002", "$0.0000003", "$0.0000004"]),
        (412_000, ["$0", "$0.0001", "$0.0002", "$0.0003", "$0.0004", "$0.0005"]),
        (38 * 10**9, ["$0", "$10", "$20", "$30", "$40"]),
        (5_000 * 10**9, ["$0", "$1,000", "$2,000", "$3,000", "$4,000", "$5,000"]),
    ],
)
def test_money_is_readable_at_any_size(tmp_path: Path, nanousd: int, ticks: list[str]) -> None:
    axes = plot(charted(ledger(tmp_path, line(nanousd=nanousd)), "team")).axes[0]
    assert [text.get_text().replace("\\", "") for text in axes.get_yticklabels()] == ticks


def test_what_cost_nothing_is_drawn_too(tmp_path: Path) -> None:
    draw(ledger(tmp_path / "lake", line(nanousd=0)), ask(by="team"), tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 1000


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_png_is_a_picture_with_the_colours_of_its_layers(busy: Ledger, tmp_path: Path) -> None:
    draw(busy, ask(by="team"), tmp_path / "bill.PNG")
    picture = Image.open(tmp_path / "bill.PNG").convert("RGB")
    assert picture.size == (1500, 1050)
    colours = {colour for _, colour in picture.getcolors(10**6) or []}
    assert {(0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77), (0x22, 0x88, 0x33)} <= colours


def test_an_svg_is_xml_whose_words_can_be_read(busy: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "bill.svg"
    draw(busy, ask(by="team"), path)
    words = {text for element in ElementTree.parse(path).iter() if (text := (element.text or "").strip())}
    assert {"discovery", STRANGE, "video", "shared", "Costs by team and stage"} <= words
    once = path.read_bytes()
    draw(busy, ask(by="team"), path)
    assert path.read_bytes() == once


def test_a_page_holds_everything_and_escapes_labels(busy: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "bill.html"
    draw(busy, ask(by="team,outcome", only=["kind=task", "kind=idle"]), path)
    text = path.read_text()
    assert "a &lt;b&gt; &amp; $x$ _ $y$" in text
    assert "<b>" not in text
    assert "kind=task or idle" in text
    assert "shared: idle $0.00500; prices: list@1" in text
    assert text.count("<tr>") == 1 + 4 + 1
    assert "prefers-color-scheme: dark" in text
    assert "stroke: currentColor" in text
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text)  # nothing is fetched
    assert "GPU time" not in text


@pytest.mark.parametrize("name", ["bill.pdf", "bill", "bill.svg.gz"])
def test_another_format_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidUse, match="is no picture that can be drawn") as caught:
        draw(Ledger(str(tmp_path)), ask(), tmp_path / name)
    assert ".png, .svg, .html" in caught.value.fix


def test_what_cannot_be_written_or_drawn(busy: Ledger, tmp_path: Path) -> None:
    with pytest.raises(InvalidUse, match="is no folder"):
        require_drawable(tmp_path / "none" / "bill.png")
    (tmp_path / "bill.png").mkdir()
    with pytest.raises(InvalidUse, match="cannot be written: Is a directory"):
        draw(busy, ask(), tmp_path / "bill.png")
    with pytest.raises(InvalidUse, match="nothing to draw"):
        draw(busy, ask(since="2030-01-01"), tmp_path / "empty.png")
    with pytest.raises(NotFound, match="unknown team"):
        draw(busy, ask(only=["team=discover"]), tmp_path / "empty.png")
    assert not (tmp_path / "empty.png").exists()


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingPackage) as caught:
        require_drawable(tmp_path / "bill.png")
    assert caught.value.fix == 'pip install "raycluster[charts]"'
