"""Image: every kind of picture becomes upright pixels on white; every kind of damage its own code."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFilter

from raycluster.decode.image import Image
from raycluster.errors import BadMedia
from raycluster.row import Media

RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def scene(width=320, height=240):
    """Noise over red, green, blue and grey quarters: shows a turn, a mirror, a lost half."""
    picture = Pillow.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(GREY, (width // 2, height // 2, width, height))
    noise = np.random.default_rng(0).integers(-20, 20, (height, width, 1))
    return Pillow.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def save(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def media(content, media_type="image/x"):
    return Media(
        object_id="o", uri="file:///x", sha256="0", modality="image", media_type=media_type, content=memoryview(content)
    )


def decode(content, **options):
    (piece,) = Image(**options).decoder()(media(content))
    return piece


def verdict(content, media_type="image/x", **options):
    with pytest.raises(BadMedia) as caught:
        list(Image(**options).decoder()(media(content, media_type)))
    assert caught.value.message
    return caught.value.code


def corners(pixels):
    """Return the middle colour of the four quarters, clockwise from the upper left."""
    quarter = len(pixels) // 4
    places = ((1, 1), (1, 3), (3, 3), (3, 1))
    return [
        tuple(pixels[y * quarter - 5 : y * quarter + 5, x * quarter - 5 : x * quarter + 5].mean(axis=(0, 1)))
        for y, x in places
    ]


def near(found, expected, tolerance=25):
    return bool(np.abs(np.array(found, float) - np.array(expected, float)).max() < tolerance)


UPRIGHT = (RED, GREEN, GREY, BLUE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "TGA"])
def test_formats(kind):
    piece = decode(save(scene(), kind))
    assert piece.pixels.shape == (224, 224, 3)
    assert piece.pixels.dtype == np.uint8
    assert near(corners(piece.pixels), UPRIGHT)
    assert (piece.features["width"], piece.features["height"]) == (320, 240)
    assert (piece.features["channels"], piece.features["frames"]) == (3, 1)
    assert not piece.features["has_alpha"]
    small = Pillow.open(io.BytesIO(piece.thumbnail))
    assert (small.format, small.size) == ("JPEG", (256, 192))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation):
    turn = {
        2: Pillow.Transpose.FLIP_LEFT_RIGHT,
        3: Pillow.Transpose.ROTATE_180,
        4: Pillow.Transpose.FLIP_TOP_BOTTOM,
        5: Pillow.Transpose.TRANSPOSE,
        6: Pillow.Transpose.ROTATE_90,
        7: Pillow.Transpose.TRANSVERSE,
        8: Pillow.Transpose.ROTATE_270,
    }
    picture = scene()
    stored = picture.transpose(turn[orientation]) if orientation > 1 else picture
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    piece = decode(save(stored, kind, exif=exif))
    assert near(corners(piece.pixels), UPRIGHT)
    assert (piece.features["width"], piece.features["height"]) == (320, 240)
    assert Pillow.open(io.BytesIO(piece.thumbnail)).size == (256, 192)


def test_damaged_exif_is_upright():
    piece = decode(save(scene(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40))
    assert near(corners(piece.pixels), UPRIGHT)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_lies_on_white(mode):
    black = Pillow.new("RGBA", (300, 300), (0, 0, 0, 0))
    black.paste((0, 0, 0, 255), (0, 0, 150, 300))
    content = (
        save(black.convert(mode), "PNG") if mode != "PA" else save(black.quantize(4, Pillow.Quantize.FASTOCTREE), "PNG")
    )
    piece = decode(content)
    assert piece.features["has_alpha"]
    assert near(corners(piece.pixels), ((0, 0, 0), WHITE, WHITE, (0, 0, 0)))


def test_half_transparent_is_half_white():
    piece = decode(save(Pillow.new("RGBA", (50, 50), (0, 0, 0, 128)), "WEBP", lossless=True))
    assert abs(int(piece.pixels[100, 100, 0]) - 127) <= 1


def test_palette_with_one_transparent_colour():
    picture = Pillow.new("P", (300, 300), 1)
    picture.putpalette([10, 20, 30, *RED])
    picture.paste(0, (150, 0, 300, 300))
    piece = decode(save(picture, "PNG", transparency=0))
    assert near(corners(piece.pixels), (RED, WHITE, WHITE, RED))
    assert piece.features["channels"] == 4


def test_cmyk_jpeg():
    piece = decode(save(scene().convert("CMYK"), "JPEG", quality=95))
    assert near(corners(piece.pixels), UPRIGHT)
    assert piece.features["channels"] == 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(kind):
    piece = decode(save(scene().convert("L"), kind))
    assert piece.features["channels"] == 1
    assert np.array_equal(piece.pixels[..., 0], piece.pixels[..., 2])
    assert abs(int(piece.pixels[:100, :100].mean()) - 76) < 4  # red as grey


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_tones(kind):
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    row = decode(save(Pillow.fromarray(ramp), kind)).pixels[100].astype(int)
    # the middle 224 of 256 columns
    assert abs(row[0, 0] - 16) <= 1
    assert abs(row[-1, 0] - 239) <= 1
    assert (np.diff(row[:, 0]) >= 0).all()


def test_sixteen_bit_colour_png():
    values = np.full((64, 64, 3), (65535, 32768, 257), ">u2")
    raw = b"".join(b"\0" + line.tobytes() for line in values)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert np.abs(decode(content).pixels[0, 0].astype(int) - (255, 128, 1)).max() <= 1


def test_float_tiff_is_scaled_by_its_range():
    values = np.tile(np.linspace(-3, 5, 256).astype(np.float32), (256, 1))
    pixels = decode(save(Pillow.fromarray(values), "TIFF")).pixels
    assert pixels[0, 0, 0] < 20
    assert pixels[0, -1, 0] > 235


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    first, second = Pillow.new("RGB", (90, 90), RED), Pillow.new("RGB", (90, 90), BLUE)
    content = save(first, kind, save_all=True, append_images=[second, first], duration=100)
    piece = decode(content)
    assert piece.features["frames"] == 3
    assert near([piece.pixels[100, 100]], [RED])


def test_multi_picture_jpeg_counts_one():
    content = save(scene(), "MPO", save_all=True, append_images=[scene(64, 48)])
    piece = decode(content)
    assert near(corners(piece.pixels), UPRIGHT)
    assert piece.features["frames"] == 1


def test_large_jpeg_is_reduced_while_decoding_to_the_same_pixels():
    picture = scene(2800, 2100).filter(ImageFilter.GaussianBlur(3))
    reduced = decode(save(picture, "JPEG", quality=95))
    whole = decode(save(picture, "PNG"))
    assert (reduced.features["width"], reduced.features["height"]) == (2800, 2100)
    assert np.abs(reduced.pixels.astype(int) - whole.pixels).mean() < 1.5


def test_pixels_equal_a_plain_resize_and_crop():
    import torch
    from torchvision.transforms.v2 import functional

    picture = scene(500, 375)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    resized = functional.resize(tensor, [256], interpolation=functional.InterpolationMode.BICUBIC, antialias=True)
    expected = functional.center_crop(resized, [224]).permute(1, 2, 0).numpy()
    # torchvision cuts the long side's fraction off, we round it: one column of 341 may differ by a hair
    assert np.abs(decode(save(picture, "PNG")).pixels.astype(int) - expected).mean() < 0.5


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (6000, 8), (1, 9000), (20, 20)])
def test_odd_shapes(size):
    piece = decode(save(Pillow.new("RGB", size, GREEN), "PNG"))
    assert near([piece.pixels[0, 0], piece.pixels[-1, -1]], [GREEN, GREEN])
    assert piece.pixels.shape == (224, 224, 3)
    shown = Pillow.open(io.BytesIO(piece.thumbnail)).size
    assert max(shown) == min(256, max(size))


def test_strip_shows_all_of_it_in_the_thumbnail():
    strip = Pillow.new("RGB", (3000, 100), GREEN)
    strip.paste(RED, (0, 0, 1000, 100))
    piece = decode(save(strip, "PNG"))
    small = np.asarray(Pillow.open(io.BytesIO(piece.thumbnail)))
    assert near([small[4, 20], small[4, 200]], [RED, GREEN])
    assert near([piece.pixels[100, 5]], [GREEN])


def test_size_and_no_thumbnail():
    piece = decode(save(scene(), "JPEG"), size=64, thumbnail=False)
    assert piece.pixels.shape == (64, 64, 3)
    assert piece.thumbnail is None


def test_quality_features_tell_bad_from_good():
    sharp, blurred = scene(), scene().filter(ImageFilter.GaussianBlur(6))
    assert decode(save(sharp, "PNG")).features["sharpness"] > 20 * decode(save(blurred, "PNG")).features["sharpness"]
    dark = decode(save(Pillow.new("L", (100, 100), 0), "PNG")).features
    assert (dark["brightness"], dark["contrast"], dark["exposure_dark"], dark["exposure_bright"]) == (0, 0, 1, 0)
    half = Pillow.new("L", (100, 100), 0)
    half.paste(255, (0, 0, 50, 100))
    measured = decode(save(half, "PNG")).features
    assert measured["brightness"] == pytest.approx(0.5)
    assert measured["contrast"] == pytest.approx(0.5)
    assert measured["exposure_bright"] == pytest.approx(0.5)


def test_sharpness_does_not_depend_on_size_of_pixels():
    content = save(scene(1000, 800), "JPEG")
    assert decode(content, size=224).features["sharpness"] == pytest.approx(
        decode(content, size=300).features["sharpness"], rel=0.25
    )


def test_declares_exactly_what_it_measures():
    assert set(decode(save(scene(), "JPEG")).features) == set(Image.features)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.filterwarnings("ignore:.*(Truncated File Read|image file is truncated).*:UserWarning")
def test_truncated(kind, share):
    content = save(scene(), kind)
    assert verdict(content[: int(len(content) * share)]) == "truncated"


def test_truncated_with_a_whole_preview_in_its_header():
    preview = save(scene(64, 48), "JPEG")
    exif = Pillow.Exif()
    exif[0x010E] = "x" + preview.decode("latin-1")
    content = save(scene(), "JPEG", exif=exif.tobytes())
    assert verdict(content[: int(len(content) * 0.7)]) == "truncated"


def test_truncated_large_jpeg_on_the_reducing_path():
    content = save(scene(2400, 2100), "JPEG")
    assert verdict(content[: len(content) // 2]) == "truncated"


def test_corrupt():
    png = bytearray(save(scene(), "PNG"))
    png[len(png) // 2 : len(png) // 2 + 200] = bytes(200)
    assert verdict(bytes(png)) == "corrupt"
    jpeg = save(scene(), "JPEG")
    assert verdict(b"\xff\xd8\xff\x36" + jpeg[600:]) == "corrupt"
    assert verdict(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4) == "corrupt"


def test_empty():
    assert verdict(b"") == "empty"


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"plain text",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_unsupported(content):
    assert verdict(content, "image/svg+xml") == "unsupported"


def test_too_large_is_refused_by_its_header():
    assert verdict(save(scene(), "PNG"), max_pixels=320 * 240 - 1) == "too_large"
    assert decode(save(scene(), "PNG"), max_pixels=320 * 240).pixels is not None


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_bomb_is_refused_without_decoding_it(side):
    # A header that promises up to 3.6 gigapixels, and a few bytes of nothing.
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    idat = b"IDAT" + zlib.compress(bytes(1000))
    content += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    assert verdict(content) == "too_large"


def test_from_a_path(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(save(scene(), "JPEG"))
    on_disk = Media(
        object_id="o", uri="u", sha256="0", modality="image", media_type="image/jpeg", content=None, path=str(path)
    )
    (piece,) = Image().decoder()(on_disk)
    assert np.array_equal(piece.pixels, decode(path.read_bytes()).pixels)


def test_decodes_the_same_twice_after_pickling():
    content = save(scene(), "JPEG")
    stage = pickle.loads(pickle.dumps(Image(size=100)))
    assert np.array_equal(decode(content, size=100).pixels, next(iter(stage.decoder()(media(content)))).pixels)
