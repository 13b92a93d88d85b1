"""A recording becomes rows of equal windows: mono samples at one rate, a waveform, and how it sounds.

ffmpeg (PyAV) decodes any container, the sound track of a film too. It is decoded and resampled a second at a time, so
an hour never lies in memory. Levels are measured before downmixing and resampling hide them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from raycluster.decode import Decode, Decoder, _container, _thumbnail
from raycluster.decode._loudness import loudness
from raycluster.decode._sound import Tape, blocks, downmix, workable
from raycluster.decode._voice import voice
from raycluster.errors import BadMedia
from raycluster.resample import Resampler, Samples
from raycluster.row import Media, Piece
from raycluster.units import Hertz, Seconds

# Full scale of 8 bit is 127/128, of 16 bit 32767/32768: above this a sample has hit the ceiling.
_FULL_SCALE = 0.992
# Speech pauses for longer than a frame of 30 ms; a quiet room recorded well lies near -60 dBFS.
_FRAME_SECONDS, _SILENT_DBFS = 0.030, -50.0
_FLOOR_DBFS = -120.0  # instead of minus infinity: below what 16 bit can hold
# The last window is kept from this share of a full one on, or where it is the only one.
_TINY = 0.1


class _Window(NamedTuple):
    """One window: samples (time,) at the rate asked for; crest (time,) at the source's, its loudest channel."""

    number: int
    samples: Samples
    crest: Samples


@dataclass(frozen=True, kw_only=True)
class Audio(Decode):
    """Decodes recordings, and sound tracks of video, in any format that ffmpeg reads, into windows."""

    features: ClassVar[dict[str, pa.DataType]] = {
        "duration": pa.float64(),  # seconds of the whole recording, as it declares
        "rate": pa.int32(),  # Hz, of the source
        "channels": pa.int32(),
        "codec": pa.string(),
        "loudness": pa.float32(),  # LUFS of the mono window (ITU-R BS.1770); null where too short or too quiet
        "level": pa.float32(),  # dBFS, root mean square
        "peak": pa.float32(),  # largest sample of any channel, 1 = full scale
        "clipping": pa.float32(),  # share of samples at full scale
        "silence": pa.float32(),  # share of 30 ms frames below -50 dBFS
        "speech": pa.float32(),  # share of time with voice; null with `voice: false`
    }

    rate: Hertz = 16_000
    window: Annotated[Seconds, Field(gt=0)] = 10.0
    max_seconds: Annotated[Seconds, Field(gt=0)] = 86_400.0
    voice: bool = True
    thumbnail: bool = True

    def decoder(self) -> Decoder:
        """Load ffmpeg, and the voice model where `voice` is set."""
        import av  # noqa: F401 - loaded here, so that the first object does not pay for it

        spoken = voice(self.rate) if self.voice else None

        def decode(media: Media) -> Iterator[Piece]:
            with _container.opened(media) as container:
                yield from self._pieces(container, spoken)

        return decode

    @property
    def _size(self) -> int:
        """Return the samples of a full window."""
        return max(1, round(self.window * self.rate))

    def _pieces(self, container: Any, spoken: Callable[[Samples], float] | None) -> Iterator[Piece]:
        stream = _container.stream(container, "audio")
        duration = _container.seconds(container, stream)
        _container.check_length(duration, self.max_seconds)
        if not stream.codec_context.sample_rate:
            raise BadMedia("corrupt", "its header declares no sample rate")
        source: dict[str, Any] = {
            "duration": duration,
            "rate": stream.codec_context.sample_rate,
            "channels": stream.codec_context.channels,
            "codec": stream.codec_context.name,
        }
        for window in self._windows(container, stream):
            start = window.number * self._size / self.rate
            measured = measure(window.samples, self.rate) | {
                "peak": float(window.crest.max()),
                "clipping": float((window.crest >= _FULL_SCALE).mean()),
                "speech": spoken(window.samples) if spoken else None,
            }
            yield Piece(
                modality="audio",
                position=window.number,
                start_seconds=start,
                end_seconds=start + len(window.samples) / self.rate,
                samples=window.samples,
                sample_rate=self.rate,
                thumbnail=_thumbnail.waveform(window.samples) if self.thumbnail else None,
                features=source | measured,
            )

    def _windows(self, container: Any, stream: Any) -> Iterator[_Window]:
        """Cut the sound into windows as it is decoded; at most one window and one second are held."""
        source = workable(stream.codec_context.sample_rate, self.rate)
        resampler = Resampler(source, self.rate)
        weights = downmix([channel.name for channel in stream.codec_context.layout.channels])
        crest, mono = Tape(), Tape()
        number = 0
        for block in blocks(container, stream, source):
            # block: (channel, time) float32 at `source` Hz
            crest.append(np.abs(block).max(axis=0))
            mono.append(resampler.push(weights @ block))
            _container.check_length(crest.total / source, self.max_seconds)
            while mono.length >= self._size:
                number += 1
                edge = round(number * self._size * source / self.rate)
                yield _Window(number - 1, mono.take(self._size), crest.take(edge - crest.taken))
        if not crest.total:
            raise BadMedia("empty", "it holds no sound: not one sample")
        _container.check_end(container, stream, crest.total / source)
        mono.append(resampler.finish())
        if mono.length >= _TINY * self._size or not number:
            yield _Window(number, mono.take(mono.length), crest.take(crest.length))


def measure(samples: Samples, rate: int) -> dict[str, float | None]:
    """Return loudness, level and silence of a mono window."""
    frame = max(1, min(len(samples), round(_FRAME_SECONDS * rate)))
    # frames: (frame, time) float32; the rest of less than one frame is left out
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(axis=1)
    return {
        "loudness": loudness(samples, rate),
        "level": _dbfs(float(np.square(samples).mean())),
        "silence": float((power < 10 ** (_SILENT_DBFS / 10)).mean()),
    }


def _dbfs(power: float) -> float:
    return max(_FLOOR_DBFS, 10 * float(np.log10(power))) if power > 0 else _FLOOR_DBFS


__all__ = ["Audio", "measure"]
