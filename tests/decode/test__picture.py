"""Pictures are resized as torch and Pillow do it, and turned upright."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from raycluster.decode import _picture


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("scale", [0.08, 0.6827, 1.0, 2.3])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (701, 33), (5, 7), (1, 1)])
def test_resized_pixels_are_those_of_torch(width: int, height: int, scale: float) -> None:
    picture = noise(width, height)
    resized = np.asarray(_picture._resize(picture, scale)).astype(int)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    planes = torch.from_numpy(np.array(picture))[None].permute(0, 3, 1, 2)
    expected = interpolate(planes, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    assert resized.shape == (*size, 3)
    # a sum that lies between two values is rounded either way; nothing more
    assert np.abs(resized - expected).max() <= 1
    assert (resized != expected).mean() < 0.02


@pytest.mark.parametrize("orientation", range(10))
def test_upright_is_what_exif_says(orientation: int) -> None:
    picture = noise(20, 10)
    file = picture.copy()
    file.getexif()[0x0112] = orientation
    assert np.array_equal(_picture._upright(picture, orientation), ImageOps.exif_transpose(file))


def test_the_centre_is_cut_out() -> None:
    picture = noise(9, 6)
    assert np.array_equal(_picture._centre(picture, 4), np.asarray(picture)[1:5, 2:6])
    assert _picture._centre(picture, 20).size == (9, 6)
