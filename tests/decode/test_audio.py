"""Audio: every container becomes equal mono windows with true levels; every kind of damage gets its own code."""

from __future__ import annotations

import io
import sys
import tempfile
import tracemalloc
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as Pillow

from raycluster.decode._sound import downmix
from raycluster.decode.audio import Audio, measure
from raycluster.errors import BadMedia
from raycluster.row import Media

QUIET = Audio(voice=False, thumbnail=False)
FORMATS = [
    ("wav", "pcm_s16le", 44_100),
    ("wav", "pcm_f32le", 48_000),
    ("flac", "flac", 44_100),
    ("mp3", "libmp3lame", 44_100),
    ("adts", "aac", 44_100),
    ("ipod", "aac", 48_000),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("matroska", "flac", 22_050),
    ("aiff", "pcm_s16be", 32_000),
    ("au", "pcm_mulaw", 8_000),
]


def tone(seconds, rate=44_100, hertz=440.0, level=0.3):
    """A sine on every channel: (2, time) float32."""
    wave = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave, wave]).astype(np.float32)


def encode(container, codec, sound, rate, layout=None, **options):
    """Encode (channel, time) float32 with ffmpeg."""
    layout = layout or ("stereo" if len(sound) == 2 else "mono")
    # a named file: `faststart` opens it a second time
    with tempfile.NamedTemporaryFile() as out, av.open(out.name, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), "fltp", layout)
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        size = stream.codec_context.frame_size or None
        convert = av.AudioResampler(stream.format, stream.layout, rate, frame_size=size)
        for part in [*convert.resample(frame), *convert.resample(None), None]:
            file.mux(stream.encode(part))
        file.close()
        return Path(out.name).read_bytes()


def wav(sound, rate=16_000, **options):
    return encode("wav", "pcm_s16le", np.atleast_2d(sound), rate, **options)


@pytest.mark.parametrize(("container", "codec", "rate"), FORMATS)
def test_formats(pieces, container, codec, rate):
    found = pieces(QUIET, encode(container, codec, tone(12, rate), rate))
    assert [piece.position for piece in found] == [0, 1]
    assert found[0].samples.shape == (160_000,)
    assert found[0].samples.dtype == np.float32
    assert found[1].end_seconds == pytest.approx(12, abs=0.1)
    # the tone is still there, and nothing else is: 440 Hz at -13.5 dBFS
    middle = found[0].samples[40_000:56_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440
    assert found[0].features["level"] == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.5)
    assert (found[0].features["rate"], found[0].features["channels"]) == (rate, 2)
    assert found[0].features["duration"] == pytest.approx(12, abs=0.25)


def test_windows_join_without_a_seam(pieces):
    content = encode("wav", "pcm_f32le", tone(7, 44_100), 44_100)
    whole = pieces(replace(QUIET, window=60.0), content)[0].samples
    parts = pieces(replace(QUIET, window=1.25), content)
    assert np.array_equal(np.concatenate([part.samples for part in parts]), whole)
    assert [len(part.samples) for part in parts] == [20_000] * 5 + [12_000]
    assert [part.start_seconds for part in parts] == [1.25 * number for number in range(6)]


def test_rates_without_a_common_divisor(pieces):
    found = pieces(QUIET, wav(tone(2, 44_099), 44_099))
    assert len(found[0].samples) == pytest.approx(32_000, abs=2)
    assert np.abs(np.fft.rfft(found[0].samples[8_000:24_000])).argmax() == 440


def test_tiny_rest_is_dropped_but_a_tiny_file_is_not(pieces):
    assert [len(piece.samples) for piece in pieces(QUIET, wav(tone(10.5, 16_000)))] == [160_000]
    assert [len(piece.samples) for piece in pieces(QUIET, wav(tone(11.5, 16_000)))] == [160_000, 24_000]
    (short,) = pieces(QUIET, wav(tone(0.2, 16_000)))
    assert short.end_seconds == pytest.approx(0.2)
    assert short.features["loudness"] is None


def test_downmix_keeps_the_middle_and_leaves_out_the_bass_effects():
    assert downmix(["FC"]).tolist() == [1]
    assert downmix(["FL", "FR"]).tolist() == [0.5, 0.5]
    names = ["FL", "FR", "FC", "LFE", "BL", "BR"]
    weights = dict(zip(names, downmix(names), strict=True))
    assert weights["LFE"] == 0
    assert weights["FC"] > weights["FL"] > weights["BL"] > 0
    assert sum(weights.values()) == pytest.approx(1)
    assert downmix(["LFE"]).tolist() == [1]


def test_surround_channels_are_weighed_by_name(pieces):
    sound = np.zeros((6, 32_000), np.float32)
    sound[3] = tone(2, 16_000)[0]  # bass effects only
    (bass,) = pieces(QUIET, wav(sound, layout="5.1"))
    assert bass.features["level"] < -100
    assert bass.features["peak"] == pytest.approx(0.3, abs=0.01)  # but it was there
    sound[[2, 3]] = sound[[3, 2]]
    (centre,) = pieces(QUIET, wav(sound, layout="5.1"))
    assert centre.features["level"] > -30


def test_loudness_is_that_of_the_standard(pieces):
    # EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS has -23 LUFS; one channel of it 3 LU less.
    (found,) = pieces(QUIET, wav(tone(10, 48_000, 1000.0, 10 ** (-23 / 20)), 48_000))
    assert found.features["loudness"] == pytest.approx(-23 - 3.01, abs=0.2)


def test_clipping_is_seen_before_downmixing_hides_it(pieces):
    sound = np.stack([np.clip(tone(2, 44_100, level=2.0)[0], -1, 1), np.zeros(88_200, np.float32)])
    (found,) = pieces(QUIET, wav(sound, 44_100))
    # a sine of amplitude 2 is beyond 0.992 for 1 - asin(0.496) * 2 / pi of the time
    assert found.features["clipping"] == pytest.approx(1 - np.arcsin(0.496) * 2 / np.pi, abs=0.01)
    assert found.features["peak"] == pytest.approx(1, abs=0.001)
    assert np.abs(found.samples).max() < 0.7
    (clean,) = pieces(QUIET, wav(tone(2, 44_100, level=0.9), 44_100))
    assert clean.features["clipping"] == 0


def test_silence(pieces):
    (silent,) = pieces(QUIET, wav(np.zeros((1, 80_000), np.float32)))
    assert silent.features["silence"] == 1
    assert silent.features["loudness"] is None
    assert silent.features["level"] == -120
    sound = tone(10, 16_000)
    sound[:, 40_000:80_000] = 0
    (half,) = pieces(QUIET, wav(sound))
    assert half.features["silence"] == pytest.approx(0.25, abs=0.01)


def test_measure_of_one_sample():
    assert measure(np.zeros(1, np.float32), 16_000)["silence"] == 1


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_speech_is_told_from_music_and_silence(pieces, babble, rate):
    stage = Audio(rate=rate, thumbnail=False)
    speaking = wav(babble(6))
    assert pieces(stage, speaking)[0].features["speech"] > 0.4
    assert pieces(stage, wav(tone(6, 16_000)))[0].features["speech"] < 0.05
    assert pieces(stage, wav(np.zeros((1, 80_000), np.float32)))[0].features["speech"] == 0


def test_voice_model_is_not_loaded_when_it_is_not_wanted(monkeypatch, pieces):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    assert pieces(QUIET, wav(tone(1, 16_000)))[0].features["speech"] is None
    with pytest.raises(Exception, match=r"pip install \"raycluster\[speech\]\""):
        Audio().decoder()


def test_thumbnail_and_declared_features(pieces):
    (piece,) = pieces(Audio(), wav(tone(1, 16_000)))
    assert Pillow.open(io.BytesIO(piece.thumbnail)).format == "PNG"
    assert set(piece.features) == set(Audio.features)
    assert piece.modality == "audio"


def test_long_recordings_stay_small_in_memory(pieces):
    content = encode("flac", "flac", tone(600, 16_000), 16_000)
    media = Media(object_id="o", uri="u", sha256="", modality="audio", media_type="audio/flac", content=content)
    decode = QUIET.decoder()
    next(iter(decode(media)))
    tracemalloc.start()
    count = sum(1 for _ in decode(media))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 600 s are 38 MB of samples; a window and its neighbours 2 MB
    assert count == 60
    assert peak < 12e6


@pytest.mark.parametrize(("container", "codec", "rate"), [one for one in FORMATS if one[0] not in ("adts", "au")])
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_truncated(verdict, container, codec, rate, share):
    content = encode(container, codec, tone(20, rate), rate)
    assert verdict(QUIET, content[: int(len(content) * share)], "audio/x").code == "truncated"


def test_truncated_mp4_with_its_index_in_front(verdict):
    content = encode("ipod", "aac", tone(20), 44_100, movflags="faststart")
    found = verdict(QUIET, content[: len(content) // 2], "audio/mp4")
    assert found.code == "truncated"
    assert "mdat" in found.message


def test_wav_of_unknown_length_is_whole(pieces):
    content = bytearray(wav(tone(3, 16_000)))
    content[4:8] = b"\xff\xff\xff\xff"
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    assert pieces(QUIET, bytes(content))[0].end_seconds == pytest.approx(3)


def test_variable_bit_rate_without_a_count_is_whole(pieces):
    # half silence, half noise: ffmpeg's guess of the duration from the first frames is far off
    noise = np.random.default_rng(0).normal(size=(2, 44_100 * 10)).astype(np.float32) * 0.2
    noise[:, : 44_100 * 8] = 0
    content = encode("mp3", "libmp3lame", noise, 44_100, write_xing="0")
    assert pieces(QUIET, content)[0].end_seconds == pytest.approx(10, abs=0.1)


def test_damaged_packets_are_skipped_until_they_are_many(pieces, verdict):
    content = bytearray(encode("ipod", "aac", tone(20), 44_100, movflags="faststart"))
    at = content.index(b"mdat") + 8
    few, many = bytearray(content), bytearray(content)
    few[at + 60_000 : at + 60_010] = b"\xff" * 10
    many[at + 1_000 :] = np.random.default_rng(0).integers(0, 256, len(content) - at - 1_000, np.uint8).tobytes()
    assert len(pieces(QUIET, bytes(few))) == 2
    assert verdict(QUIET, bytes(many), "audio/mp4").code == "corrupt"


def test_garbage(verdict):
    noise = np.random.default_rng(0).integers(0, 256, 5_000, np.uint8).tobytes()
    assert verdict(QUIET, b"fLaC" + noise, "audio/flac").code == "corrupt"
    assert verdict(QUIET, noise, "application/octet-stream").code == "unsupported"


def test_empty(verdict):
    assert verdict(QUIET, b"").code == "empty"
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
    assert verdict(QUIET, out.getvalue(), "audio/wav").code == "empty"


def test_encrypted(verdict):
    keys = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    found = verdict(QUIET, encode("mp4", "aac", tone(2), 44_100, **keys), "audio/mp4")
    assert found.code == "unsupported"
    assert "encrypted" in found.message


def test_unknown_codec(verdict):
    content = encode("matroska", "flac", tone(2), 44_100).replace(b"A_FLAC", b"A_FLEX")
    found = verdict(QUIET, content, "audio/x-matroska")
    assert found.code == "unsupported"
    assert "codec" in found.message


def test_no_sound_track(verdict):
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=5, width=64, height=48, pix_fmt="yuv420p")
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        file.mux(stream.encode(None))
    assert verdict(QUIET, out.getvalue(), "video/mp4").code == "unsupported"


def test_too_long(verdict, pieces):
    content = wav(tone(3, 16_000))
    assert verdict(replace(QUIET, max_seconds=2.5), content).code == "too_large"
    assert pieces(replace(QUIET, max_seconds=3.5), content)


def test_length_is_limited_even_where_none_is_declared(verdict):
    content = encode("webm", "libopus", tone(4, 48_000), 48_000, live="1")
    assert verdict(replace(QUIET, max_seconds=2.5), content).code == "too_large"


def test_from_a_path(tmp_path, pieces):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(1, 16_000)))
    assert np.array_equal(pieces(QUIET, path)[0].samples, pieces(QUIET, path.read_bytes())[0].samples)


def test_verdicts_are_quarantine_verdicts(verdict):
    assert isinstance(verdict(QUIET, b""), BadMedia)
