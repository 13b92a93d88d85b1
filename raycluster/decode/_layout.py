"""Runs of characters with their boxes become text in the order in which people read it, column after column.

A document stores characters in the order in which a program drew them. Here they are gathered into rows; then the
white gutter that the fewest rows cross is sought, and every stretch of the page in which it parts two columns is
read left first, then right, each in the same way again.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

# In units of a row's height; tried on LaTeX, Sphinx and word processor pages.
_BLANK = 0.15  # a wider gap between two characters is a blank
_RUN = 0.7  # a wider gap parts two runs: it may be a gutter
_PARAGRAPH = 0.6  # a taller white strip between two rows parts two paragraphs

_SAME_ROW = 0.5  # share of the lower one's height that two runs of one row share
_MIDDLE = (0.2, 0.8)  # where a gutter may lie, as shares of the region's width: a narrow column is a page number
_FILL = 0.45  # median share of its column that a row fills; below it is a table, to be read row by row
_COLUMN_ROWS = 3  # fewer rows beside each other are a heading or a caption
_STEPS = 400  # places tried for the gutter

_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\x02\u00ad\u2010\ufffe]\n(?=[^\W\d_A-Z])")


class Glyph(NamedTuple):
    """One character and its box, y upwards, in points."""

    text: str
    left: float
    bottom: float
    right: float
    top: float


class Run(NamedTuple):
    """Characters side by side and their box, y upwards, in points."""

    text: str
    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        """Return the height in points."""
        return max(self.top - self.bottom, 0.1)


Row = list[Run]


def read_page(glyphs: Iterable[Glyph]) -> str:
    """Return the text of a page in reading order; an empty line parts paragraphs and columns."""
    blocks = ["\n".join(_lines(block)) for block in _blocks(list(_runs(glyphs)))]
    text = _HYPHEN.sub("", "\n\n".join(block for block in blocks if block.strip()))
    return text.replace("\x02", "-")  # PDFium's mark for a hyphen at the end of a line


def _runs(glyphs: Iterable[Glyph]) -> Iterator[Run]:
    """Iterate over runs: neighbours in drawing order that lie side by side."""
    run: Run | None = None
    for glyph in glyphs:
        gap = glyph.left - run.right if run else 0.0
        if run is None or not (_beside(run, glyph) and -_RUN < gap / run.height < _RUN):
            if run is not None:
                yield run
            run = Run(*glyph)
            continue
        blank = " " if gap > _BLANK * run.height and not run.text.endswith(" ") and glyph.text != " " else ""
        run = Run(
            run.text + blank + glyph.text,
            min(run.left, glyph.left),
            min(run.bottom, glyph.bottom),
            max(run.right, glyph.right),
            max(run.top, glyph.top),
        )
    if run is not None:
        yield run


def _beside(one: Run | Glyph, other: Run | Glyph) -> bool:
    shared = min(one.top, other.top) - max(one.bottom, other.bottom)
    return shared > _SAME_ROW * min(one.top - one.bottom, other.top - other.bottom)


def _rows(runs: list[Run]) -> list[Row]:
    """Gather runs into rows, the highest first, each from left to right."""
    rows: list[Row] = []
    for run in sorted(runs, key=lambda run: -(run.top + run.bottom)):
        if rows and _beside(rows[-1][0], run):
            rows[-1].append(run)
        else:
            rows.append([run])
    return [sorted(row, key=lambda run: run.left) for row in rows]


def _blocks(runs: list[Run]) -> Iterator[list[Row]]:
    """Iterate over blocks of rows in reading order: a column, or what lies across all columns."""
    rows = _rows(runs)
    gutter = _gutter(runs)
    if gutter is None:
        yield rows
        return
    across: list[Row] = []
    for section in _sections(rows, gutter):
        left = [run for row in section for run in row if run.right <= gutter]
        right = [run for row in section for run in row if run.left >= gutter]
        if len(left) + len(right) == sum(map(len, section)) and _are_columns(left, right, runs, gutter):
            yield across
            across = []
            yield from _blocks(left)
            yield from _blocks(right)
        else:
            across += section
    yield across


def _gutter(runs: list[Run]) -> float | None:
    """Return the x that the fewest runs cross, the middle of the widest such strip; None on a page too plain."""
    if len(runs) < 2 * _COLUMN_ROWS:
        return None
    # left, right: (run,) float64
    left, right = np.array([run.left for run in runs]), np.array([run.right for run in runs])
    low, width = left.min(), right.max() - left.min()
    places = low + width * np.linspace(*_MIDDLE, _STEPS)
    # crossing: (place,) int64, how many runs lie across it
    crossing = ((left[:, None] < places) & (right[:, None] > places)).sum(axis=0)
    best = crossing == crossing.min()
    edges = np.flatnonzero(np.diff(np.concatenate(([0], best.astype(np.int8), [0]))))
    starts, ends = edges[::2], edges[1::2]
    widest = int(np.argmax(ends - starts))
    return float(places[(starts[widest] + ends[widest] - 1) // 2])


def _sections(rows: list[Row], gutter: float) -> Iterator[list[Row]]:
    """Cut rows wherever it changes whether something crosses the gutter."""
    section: list[Row] = []
    crossed = False
    for row in rows:
        crosses = any(run.left < gutter < run.right for run in row)
        if section and crosses != crossed:
            yield section
            section = []
        section.append(row)
        crossed = crosses
    if section:
        yield section


def _are_columns(left: list[Run], right: list[Run], region: list[Run], gutter: float) -> bool:
    """Say whether both sides are columns of text rather than cells of a table."""
    start, end = min(run.left for run in region), max(run.right for run in region)
    for side, width in ((left, gutter - start), (right, end - gutter)):
        rows = _rows(side)
        if len(rows) < _COLUMN_ROWS:
            return False
        if statistics.median(row[-1].right - row[0].left for row in rows) < _FILL * width:
            return False
    return True


def _lines(rows: list[Row]) -> Iterator[str]:
    """Iterate over the text of rows, with an empty line between paragraphs."""
    below: float | None = None
    for row in rows:
        top, height = max(run.top for run in row), statistics.median(run.height for run in row)
        if below is not None and below - top > _PARAGRAPH * height:
            yield ""
        below = min(run.bottom for run in row)
        yield " ".join(run.text.strip() for run in row if run.text.strip())
