"""A film becomes rows of frames, at a rate or where its scenes change, and if asked rows of its sound track.

ffmpeg (PyAV) decodes only what is needed: where key frames are as dense as the rate asked for, they alone; else it
skips the frames that no other frame refers to. One frame is held at a time, whatever the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from raycluster.decode import Decode, Decoder, _container, _picture
from raycluster.decode.audio import Audio
from raycluster.errors import BadMedia
from raycluster.row import Media, Piece
from raycluster.stage import need
from raycluster.units import Seconds

# Frames that no other refers to are left out from this many source frames a wanted one on: what remains lies at most
# three or four frames from the moment wanted, and decoding takes 0.6 of the time (H.264 with B-frames, 720p).
_SPARSE = 8
# Gaps between key frames may be this much longer than the interval wanted: 30000/1001 frames a second for 30.
_GAP_TOLERANCE = 1.05
# A cut within this time of the last one is a flash, not a scene (PySceneDetect's own default at 25 frames a second).
_SCENE_SECONDS = 0.6
# What PySceneDetect scales to before it compares frames: the detector's threshold is tuned for it.
_DETECTION_WIDTH = 256
_FALLBACK_RATE = 25.0  # frames a second, of files that declare none

# Exif orientation of a picture that has to be turned by so many degrees counterclockwise to stand upright.
_ORIENTATION = {0: 1, 90: 8, 180: 3, 270: 6}


@dataclass(frozen=True, kw_only=True)
class Video(Decode):
    """Decodes films in any format that ffmpeg reads: frames as rows, and their sound track as audio rows.

    `audio: true` takes the audio decoder's defaults; `audio: {window: 5s}` its options. Positions count from 0 for
    frames and for windows of sound separately. A frame's row spans the time until the next one.
    """

    features: ClassVar[dict[str, pa.DataType]] = {
        "width": pa.int32(),  # as displayed: after rotation, with square pixels
        "height": pa.int32(),
        "duration": pa.float64(),  # seconds
        "frame_rate": pa.float32(),  # of the source, on average
        "codec": pa.string(),
        "has_audio": pa.bool_(),
        **_picture.QUALITY,
    }

    fps: Annotated[float, Field(gt=0)] = 1.0  # frames a second; each lies within half an interval of its moment
    size: Annotated[int, Field(gt=0, le=4096)] = 224  # side of the square of pixels
    scenes: bool = False  # the first frame of every scene instead of `fps`
    audio: bool | Audio = False
    max_frames: Annotated[int, Field(gt=0)] | None = None  # a longer film gets a lower rate, or its first scenes
    max_seconds: Annotated[Seconds, Field(gt=0)] = 86_400.0
    max_pixels: Annotated[int, Field(gt=0)] = 8192 * 4320  # of one frame
    thumbnail: bool = True

    def decoder(self) -> Decoder:
        """Load ffmpeg, Pillow, the scene detector and the audio decoder, as far as they are wanted."""
        import av  # noqa: F401 - loaded here, so that the first object does not pay for it
        import cykooz_resizer  # noqa: F401
        from PIL import Image  # noqa: F401

        if self.scenes:
            need("scenedetect", '"raycluster[scenes]"')
        sound = self.audio if isinstance(self.audio, Audio) else Audio(thumbnail=self.thumbnail)
        windows = sound.decoder() if self.audio else None

        def decode(media: Media) -> Iterator[Piece]:
            with _container.opened(media) as container:
                has_audio = _container.has(container, "audio")
                yield from self._frames(container, has_audio=has_audio)
            if windows and has_audio:
                yield from windows(media)

        return decode

    def _frames(self, container: Any, *, has_audio: bool) -> Iterator[Piece]:
        stream = _container.stream(container, "video")
        duration = _container.seconds(container, stream)
        self._check(stream, duration)
        source: dict[str, Any] = {
            "duration": duration,
            "frame_rate": None if stream.average_rate is None else float(stream.average_rate),
            "codec": stream.codec_context.name,
            "has_audio": has_audio,
        }
        aspect = float(stream.sample_aspect_ratio or 1)
        # A row ends where the next begins, so each waits for its successor.
        waiting: Piece | None = None
        chosen = self._cuts(container, stream) if self.scenes else self._regular(container, stream, duration)
        for count, (start, frame) in enumerate(chosen):
            if waiting is not None:
                yield replace(waiting, end_seconds=start)
            if count == self.max_frames:
                return
            waiting = replace(self._piece(frame, aspect, source), position=count, start_seconds=start)
        if waiting is None:
            raise BadMedia("empty", "it holds no moving picture: not one frame")
        yield replace(waiting, end_seconds=max(waiting.start_seconds or 0.0, duration or 0.0))

    def _check(self, stream: Any, duration: float | None) -> None:
        _container.check_length(duration, self.max_seconds)
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > self.max_pixels:
            size = f"{width} x {height} pixels"
            raise BadMedia("too_large", f"frames of {size} are more than the {self.max_pixels} that max_pixels allows")

    def _piece(self, frame: Any, aspect: float, source: dict[str, Any]) -> Piece:
        """Turn one frame upright, with square pixels, and measure it."""
        whole = frame.reformat(width=round(frame.width * aspect), format="rgb24").to_image()
        width, height = whole.size
        turn = frame.rotation % 360
        if turn in (90, 270):
            height, width = width, height
        piece = _picture.piece(whole, self.size, _ORIENTATION.get(turn, 1), thumbnail=self.thumbnail)
        return replace(piece, features={**source, "width": width, "height": height, **(piece.features or {})})

    def _regular(self, container: Any, stream: Any, duration: float | None) -> Iterator[tuple[float, Any]]:
        """Choose the frame next to each multiple of the interval."""
        rate = self.fps
        if self.max_frames and duration:
            rate = min(rate, self.max_frames / duration)
        source = float(stream.average_rate or _FALLBACK_RATE)
        # step: seconds between the frames that are decoded
        step, gap = 1 / source, _key_frame_gap(container, stream)
        dense = gap <= _GAP_TOLERANCE / rate
        if dense:
            # Telling the container too would spare reading the others, but then MP4 gives wrong times (ffmpeg 8).
            stream.codec_context.skip_frame = "NONKEY"
            step = gap
        elif source >= _SPARSE * rate:
            stream.codec_context.skip_frame = "NONREF"
        # early: how long before its moment a frame is already the nearest one, in intervals
        early = min(0.5, 0.5 * rate * step)
        slot = 0
        reached = 0.0
        for reached, frame in _timed(container, stream, self.max_seconds):
            found = int(reached * rate + early + 1e-6)
            if found >= slot:
                slot = found + 1
                yield reached, frame
        if not dense:
            _container.check_end(container, stream, reached)

    def _cuts(self, container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
        """Choose the first frame, and the first of every new scene."""
        from scenedetect import ContentDetector, FrameTimecode
        from scenedetect.detector import FlashFilter

        rate = float(stream.average_rate or _FALLBACK_RATE)
        # Suppressing instead of merging flashes: a cut is known at its own frame, so no frames need to be kept.
        length = max(1, round(_SCENE_SECONDS * rate))
        detector = ContentDetector(min_scene_len=length, filter_mode=FlashFilter.Mode.SUPPRESS)
        reached = 0.0
        for number, (reached, frame) in enumerate(_timed(container, stream, self.max_seconds)):
            height = max(1, round(frame.height * _DETECTION_WIDTH / frame.width))
            small = frame.reformat(width=_DETECTION_WIDTH, height=height, format="bgr24", interpolation="AREA")
            cuts = detector.process_frame(FrameTimecode(number, rate), np.ascontiguousarray(small.to_ndarray()))
            if cuts or number == 0:
                yield reached, frame
        _container.check_end(container, stream, reached)


def _key_frame_gap(container: Any, stream: Any) -> float:
    """Return the widest gap between key frames that the container's index lists, in seconds; infinite without one."""
    duration = _container.seconds(container, stream)
    if duration is None or stream.time_base is None:
        return inf
    if len(stream.index_entries) < 2:
        # Matroska keeps its index at the end and reads it when it has to seek.
        container.seek(int(duration * 1e6) // 2)
        container.seek(0)
    # keys: (key frame,) float64 seconds
    keys = np.array([entry.timestamp for entry in stream.index_entries if entry.is_keyframe], float)
    keys *= float(stream.time_base)
    if len(keys) < 2:
        return inf
    # From the last key frame to the end may be nearly two intervals: there is no moment in the second one.
    return max(float(np.diff(keys).max()), (duration - float(keys[-1] - keys[0])) / 2)


def _timed(container: Any, stream: Any, limit: float) -> Iterator[tuple[float, Any]]:
    """Decode frames with their time from the first one on, in seconds."""
    rate = float(stream.average_rate or _FALLBACK_RATE)
    begin: float | None = None
    for number, frame in enumerate(_container.decoded(container, stream)):
        # Raw streams carry no times
        time = number / rate if frame.time is None else float(frame.time)
        begin = time if begin is None else begin
        _container.check_length(time - begin, limit)
        yield max(0.0, time - begin), frame


__all__ = ["Video"]
