"""Video: frames at their moments, upright, without decoding more than needed; every kind of damage its own code."""

from __future__ import annotations

import io
import resource
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as Pillow
from pydantic import TypeAdapter, ValidationError

from raycluster.decode.audio import Audio
from raycluster.decode.video import Video
from raycluster.row import Media

RATE = 10
FORMATS = [
    ("mp4", "libx264"),
    ("mp4", "mpeg4"),
    ("mov", "libx264"),
    ("matroska", "libx264"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("mpegts", "libx264"),
    ("flv", "libx264"),
]
OPTIONS = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}


def clock(seconds, size=(160, 120)):
    """One grey a frame: brightness 40 + 2 a tenth of a second tells the time; the upper left corner is white."""
    for number in range(round(seconds * RATE)):
        frame = np.full((size[1], size[0], 3), 40 + 2 * (number % 100), np.uint8)
        frame[: size[1] // 3, : size[0] // 3] = 255
        yield frame


def told(piece):
    """Return the time that a frame shows, in seconds."""
    side = len(piece.pixels)
    return (piece.pixels[side * 2 // 3 :].mean() - 40) / 2 / RATE


def encode(frames, container="mp4", codec="libx264", gop=50, sound=0.0, **options):
    """Encode RGB frames, and a tone of `sound` seconds."""
    frames = list(frames)
    turn, aspect = options.pop("turn", 0), options.pop("aspect", None)
    with tempfile.NamedTemporaryFile() as out, av.open(out.name, "w", format=container, options=options) as file:
        height, width = frames[0].shape[:2]
        video = file.add_stream(codec, rate=RATE, width=width, height=height, pix_fmt="yuv420p")
        video.codec_context.gop_size = gop
        video.codec_context.options = OPTIONS.get(codec, {})
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if turn:
            video.set_display_rotation(turn)
        audio = (
            file.add_stream("libopus" if container == "webm" else "aac", rate=48_000, layout="mono") if sound else None
        )
        for frame in [*(av.VideoFrame.from_ndarray(frame, "rgb24") for frame in frames), None]:
            file.mux(video.encode(frame))
        if audio:
            wave = 0.3 * np.sin(np.arange(round(sound * 48_000)) * 2 * np.pi * 440 / 48_000)
            tone = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
            tone.rate, tone.pts, tone.time_base = 48_000, 0, Fraction(1, 48_000)
            convert = av.AudioResampler(audio.format, audio.layout, 48_000, frame_size=audio.codec_context.frame_size)
            for part in [*convert.resample(tone), *convert.resample(None), None]:
                file.mux(audio.encode(part))
        file.close()
        return Path(out.name).read_bytes()


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_formats(pieces, container, codec):
    found = pieces(Video(), encode(clock(5), container, codec))
    assert [piece.position for piece in found] == [0, 1, 2, 3, 4]
    assert [piece.start_seconds for piece in found] == pytest.approx([0, 1, 2, 3, 4], abs=0.101)
    assert [told(piece) for piece in found] == pytest.approx([piece.start_seconds for piece in found], abs=0.11)
    assert [piece.end_seconds for piece in found[:-1]] == [piece.start_seconds for piece in found[1:]]
    assert found[-1].end_seconds == pytest.approx(5, abs=0.15)
    first = found[0]
    assert first.pixels.shape == (224, 224, 3)
    assert Pillow.open(io.BytesIO(first.thumbnail)).size == (160, 120)
    assert (first.features["width"], first.features["height"]) == (160, 120)
    assert first.features["frame_rate"] == pytest.approx(RATE)
    assert first.features["duration"] == pytest.approx(5, abs=0.15)
    assert not first.features["has_audio"]


@pytest.mark.parametrize("gop", [1, 5, 10, 50])
@pytest.mark.parametrize("fps", [0.3, 1.0, 2.5, 10.0, 25.0])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_frames_lie_at_their_moments_whatever_is_skipped(pieces, gop, fps, container):
    found = pieces(Video(fps=fps, thumbnail=False), encode(clock(9), container, gop=gop))
    starts = np.array([piece.start_seconds for piece in found])
    rate = min(fps, RATE)
    assert len(found) == pytest.approx(9 * rate, abs=1)
    assert np.abs(starts - np.arange(len(found)) / rate).max() <= 0.5 / rate + 0.051
    assert [told(piece) for piece in found] == pytest.approx(starts, abs=0.11)


def decoded_frames(monkeypatch, stage, content, pieces):
    from raycluster.decode import _container

    count = [0]
    plain = _container.decoded

    def counted(container, stream):
        for frame in plain(container, stream):
            count[0] += 1
            yield frame

    monkeypatch.setattr(_container, "decoded", counted)
    assert pieces(stage, content)
    return count[0]


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_only_key_frames_are_decoded_where_they_are_dense(monkeypatch, pieces, container):
    assert decoded_frames(monkeypatch, Video(fps=1.0), encode(clock(9), container, gop=10), pieces) == 9
    assert decoded_frames(monkeypatch, Video(fps=1.5), encode(clock(9), container, gop=10), pieces) == 90


def test_frames_without_references_are_skipped(monkeypatch, pieces):
    options = {"preset": "medium", "bf": "2"}
    monkeypatch.setitem(OPTIONS, "libx264", options)
    content = encode(clock(9), gop=90)
    assert decoded_frames(monkeypatch, Video(fps=1.0), content, pieces) < 70


def test_max_frames_spreads_them_over_the_whole_film(pieces):
    found = pieces(Video(fps=5, max_frames=3), encode(clock(9)))
    assert [piece.start_seconds for piece in found] == pytest.approx([0, 3, 6], abs=0.11)
    assert found[-1].end_seconds == pytest.approx(9, abs=0.1)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation(pieces, turn):
    upright = next(clock(1, (160, 120)))
    # set_display_rotation says how far a player turns it counterclockwise: store it turned the other way
    stored = np.ascontiguousarray(np.rot90(upright, -turn // 90))
    (piece,) = pieces(Video(), encode([stored] * 5, turn=turn))
    assert (piece.features["width"], piece.features["height"]) == (160, 120)
    assert piece.pixels[40, 40].mean() > 230
    assert piece.pixels[180, 180].mean() < 70
    assert Pillow.open(io.BytesIO(piece.thumbnail)).size == (160, 120)


def test_pixels_that_are_not_square(pieces):
    (piece,) = pieces(Video(), encode(clock(0.5), aspect=Fraction(4, 3)))
    assert (piece.features["width"], piece.features["height"]) == (213, 120)


def scenes():
    random = np.random.default_rng(0)
    for number in range(4):
        still = random.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1)
        still[..., number % 3] //= 3
        yield from [still] * 15


def test_scenes(pieces):
    found = pieces(Video(scenes=True), encode(scenes(), gop=60))
    assert [piece.start_seconds for piece in found] == pytest.approx([0, 1.5, 3, 4.5])
    assert [piece.end_seconds for piece in found] == pytest.approx([1.5, 3, 4.5, 6])
    limited = pieces(Video(scenes=True, max_frames=2), encode(scenes(), gop=60))
    assert [piece.end_seconds for piece in limited] == pytest.approx([1.5, 3])


def test_scene_detector_is_not_loaded_when_it_is_not_wanted(monkeypatch, pieces):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    assert pieces(Video(), encode(clock(0.5)))
    with pytest.raises(Exception, match=r"pip install \"raycluster\[scenes\]\""):
        Video(scenes=True).decoder()


@pytest.mark.parametrize("container", ["mp4", "webm", "matroska"])
def test_sound_track_becomes_audio_rows(pieces, container):
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    content = encode(clock(3), container, codec, sound=3.0)
    found = pieces(Video(audio=Audio(window=1.0, voice=False)), content)
    frames = [piece for piece in found if piece.modality is None]
    windows = [piece for piece in found if piece.modality == "audio"]
    assert [piece.position for piece in frames] == [0, 1, 2]
    assert [piece.position for piece in windows] == [0, 1, 2]
    assert all(piece.features["has_audio"] for piece in frames)
    assert len(windows[0].samples) == 16_000
    assert np.abs(np.fft.rfft(windows[1].samples)).argmax() == 440
    assert windows[0].pixels is None
    assert frames[0].samples is None


def test_sound_is_left_out_unless_asked_for(pieces):
    content = encode(clock(1), sound=1.0)
    assert {piece.modality for piece in pieces(Video(), content)} == {None}
    assert {piece.modality for piece in pieces(Video(audio=True), content)} == {None, "audio"}
    assert {piece.modality for piece in pieces(Video(audio=True), encode(clock(1)))} == {None}


def test_declares_exactly_what_it_measures(pieces):
    video, sound = pieces(Video(audio=Audio(voice=False)), encode(clock(0.5), sound=0.5))
    assert set(video.features) == set(Video.features)
    assert set(sound.features) == set(Audio.features)


def test_yaml_keys():
    read = TypeAdapter(Video).validate_json
    assert read('{"fps": 1, "audio": true}', strict=True).audio is True
    assert read('{"audio": {"window": "5s"}}', strict=True).audio == Audio(window=5.0)
    with pytest.raises(ValidationError):
        read('{"audio": {"windows": "5s"}}', strict=True)
    with pytest.raises(ValidationError):
        read('{"fps": 0}', strict=True)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_length():
    content = encode(clock(60, (640, 480)), gop=250)
    media = Media(object_id="o", uri="u", sha256="", modality="video", media_type="video/mp4", content=content)
    frames = iter(Video(thumbnail=False, fps=2).decoder()(media))
    for _ in range(20):
        next(frames)
    before = resident()
    assert sum(1 for _ in frames) == 100
    # 500 source frames of 0.46 MB (YUV) passed meanwhile
    assert resident() - before < 60e6


def test_from_a_path(tmp_path, pieces):
    path = tmp_path / "a.mp4"
    path.write_bytes(encode(clock(2)))
    found, expected = pieces(Video(), path), pieces(Video(), path.read_bytes())
    assert len(found) == 2
    assert all(np.array_equal(one.pixels, two.pixels) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize(("container", "codec"), [one for one in FORMATS if one[0] != "mpegts"])
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_truncated(verdict, container, codec, share):
    noise = np.random.default_rng(0).integers(0, 255, (60, 120, 160, 3), np.uint8)
    content = encode(noise, container, codec)
    assert verdict(Video(), content[: int(len(content) * share)], "video/x").code == "truncated"


def test_truncated_with_its_index_in_front(verdict):
    noise = np.random.default_rng(0).integers(0, 255, (60, 120, 160, 3), np.uint8)
    content = encode(noise, movflags="faststart")
    assert verdict(Video(fps=0.2), content[: len(content) * 3 // 4], "video/mp4").code == "truncated"


def test_corrupt(verdict):
    noise = np.random.default_rng(0).integers(0, 256, 9_000, np.uint8).tobytes()
    found = verdict(Video(), b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0\0\x23\x30moov" + noise[:9_000], "video/mp4")
    assert found.code == "corrupt"
    assert verdict(Video(), noise).code == "unsupported"


def test_empty(verdict):
    assert verdict(Video(), b"").code == "empty"


def test_encrypted(verdict):
    content = encode(clock(1), encryption_scheme="cenc-aes-ctr", encryption_key="00" * 16, encryption_kid="11" * 16)
    found = verdict(Video(), content, "video/mp4")
    assert found.code == "unsupported"
    assert "encrypted" in found.message


def test_unknown_codec(verdict):
    content = encode(clock(1), "matroska").replace(b"V_MPEG4/ISO/AVC", b"V_NOTHING/X/YYY")
    found = verdict(Video(), content, "video/x-matroska")
    assert found.code == "unsupported"
    assert "codec" in found.message


def test_no_moving_picture(verdict):
    out = io.BytesIO()
    with av.open(out, "w", format="wav") as file:
        stream = file.add_stream("pcm_s16le", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8_000
        file.mux(stream.encode(frame))
    assert verdict(Video(), out.getvalue(), "video/mp4").code == "unsupported"


def test_limits(verdict, pieces):
    content = encode(clock(3))
    assert verdict(Video(max_seconds=2.0), content).code == "too_large"
    assert verdict(Video(max_pixels=160 * 120 - 1), content).code == "too_large"
    assert len(pieces(replace(Video(), max_seconds=3.5, max_pixels=160 * 120), content)) == 3
