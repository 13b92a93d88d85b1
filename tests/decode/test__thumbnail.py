"""Thumbnails: small, on white, and showing what they are made of."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raycluster.decode import _thumbnail

WHITE = (255, 255, 255)


def shown(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def ink(content):
    """Return where a drawing is not white: (height, width) bool."""
    return (np.asarray(shown(content).convert("RGB")) < 250).any(axis=2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1000, 500), (256, 128)),
        ((100, 3000), (9, 256)),
        ((256, 256), (256, 256)),
        ((40, 30), (40, 30)),
        ((1, 1), (1, 1)),
    ],
)
def test_picture_keeps_its_shape_and_is_never_enlarged(size, expected):
    image = shown(_thumbnail.picture(Image.new("RGB", size, "green")))
    assert image.size == expected
    assert image.format == "JPEG"


@pytest.mark.parametrize("shape", [(300, 200, 3), (300, 200)])
def test_picture_of_pixels(shape):
    image = shown(_thumbnail.picture(np.full(shape, 90, np.uint8)))
    assert image.size == (171, 256)
    assert abs(np.asarray(image).mean() - 90) < 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_picture_of_any_mode(mode):
    assert shown(_thumbnail.picture(Image.new(mode, (50, 50)))).mode == "RGB"


def test_transparency_lies_on_white():
    image = shown(_thumbnail.picture(Image.new("RGBA", (50, 50), (0, 0, 0, 0))))
    assert np.asarray(image).min() > 250


def test_waveform_is_tall_where_it_is_loud():
    loud = np.sin(np.arange(80_000) * 0.3).astype(np.float32)
    drawn = ink(_thumbnail.waveform(np.concatenate([0.1 * loud, 0.5 * loud])))
    heights = drawn.sum(axis=0)
    assert drawn.shape == (96, 256)
    assert heights[160:].mean() > 4 * heights[:100].mean()
    assert heights[160:].mean() > 80


def test_waveform_of_silence_is_a_line_on_white():
    content = _thumbnail.waveform(np.zeros(16_000, np.float32))
    assert ink(content).sum(axis=0).max() <= 2
    assert shown(content).convert("RGB").getpixel((0, 0)) == WHITE


def test_quiet_sound_is_enlarged_but_not_without_limit():
    def height(level):
        return ink(_thumbnail.waveform(level * np.sin(np.arange(9_999)).astype(np.float32))).sum()

    assert height(0.2) > 0.9 * height(0.9)
    assert height(0.001) < 0.1 * height(0.9)


@pytest.mark.parametrize("samples", [[], [0.5], [np.nan, np.inf, 0.1], [3.0, -3.0]])
def test_waveform_of_odd_samples(samples):
    assert shown(_thumbnail.waveform(np.array(samples, np.float32))).size == (256, 96)


def test_plot_follows_its_series():
    drawn = ink(_thumbnail.plot([np.linspace(0, 1, 500)]))
    rows = np.array([np.flatnonzero(column).mean() for column in drawn.T if column.any()])
    assert (np.diff(rows) <= 0.51).all()
    assert rows[0] > 80
    assert rows[-1] < 15


def test_plot_gives_each_series_a_lane_and_a_scale_of_its_own():
    drawn = np.asarray(shown(_thumbnail.plot([np.arange(99.0), np.arange(99.0) * 1e6])).convert("RGB"))
    upper, lower = ((half < 200).any(axis=2) for half in (drawn[:46], drawn[50:]))
    assert upper.any(axis=1).sum() > 30
    assert lower.any(axis=1).sum() > 30


def test_plot_shows_one_spike_in_a_million():
    series = np.zeros(1_000_000)
    series[777_777] = 5
    drawn = ink(_thumbnail.plot([series]))
    assert drawn[:30].any(axis=0).nonzero()[0] == pytest.approx(777_777 / 1e6 * 248 + 4, abs=4)


@pytest.mark.parametrize("count", [300, 5_000])
def test_plot_leaves_gaps_open(count):
    series = np.ones(count)
    series[count // 3 : 2 * count // 3] = np.nan
    columns = ink(_thumbnail.plot([series])).any(axis=0)
    assert columns[10:80].all()
    assert not columns[95:160].any()
    assert columns[180:245].all()


@pytest.mark.parametrize(
    "series", [[], [np.array([])], [np.array([np.nan])], [np.array([1, 2], np.int64)], [np.ones(1)] * 9]
)
def test_plot_of_odd_series(series):
    image = shown(_thumbnail.plot(series))
    assert image.size == (256, 96)
    assert image.convert("RGB").getpixel((0, 0)) == WHITE


def test_single_value_is_a_dot():
    assert ink(_thumbnail.plot([np.array([3.0])])).sum() > 2
