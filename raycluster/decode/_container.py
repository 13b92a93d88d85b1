"""A file of sound or film becomes an open ffmpeg container and one of its streams, or the reason why it cannot.

Shared by audio and video: what is missing, cut off, encrypted or of an unknown codec is found here, before decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from raycluster.decode._ending import ends_early
from raycluster.errors import BadMedia
from raycluster.row import Media

# Sample entries of protected streams. Source: ISO/IEC 14496-12, 8.12; `drm*` are Apple's.
_ENCRYPTED = {"enca", "encv", "drms", "drmi", "drmt"}
# Formats whose header counts what follows, and of which `ends_early` knows nothing. Others guess their duration from
# their size, or declare it before an edit list trims it.
_COUNTED = {"flac", "flv", "asf", "tta", "wv", "ape", "caf"}
# Encoders pad and trim; less than this is never a lost end.
_SLACK_SECONDS, _SLACK_SHARE = 1.0, 0.02
# A player skips a damaged packet without notice; above this share of packets nobody would call it playing.
_DAMAGED_SHARE = 0.05
# No protocol has this name. ffmpeg reads the object through our own file and may open nothing by itself: playlists
# (HLS, DASH, concat, SDP) would otherwise fetch whatever URL or local file their text names.
_ISOLATED = {"protocol_whitelist": "none"}


@contextmanager
def opened(media: Media) -> Iterator[Any]:
    """Open the container of an object (`av.container.InputContainer`), which can reach nothing but its bytes.

    Raises:
        BadMedia: `empty`, `truncated`, `corrupt` or `unsupported`.
    """
    import av

    if not media.size:
        raise BadMedia("empty", "the file has no bytes")
    with media.open() as file:
        missing = ends_early(file)
        if missing:
            raise BadMedia("truncated", f"the file is cut off: {missing}")
        file.seek(0)
        try:
            container = av.open(file, options=_ISOLATED)
        except av.error.FFmpegError as error:
            known = media.media_type.startswith(("audio/", "video/"))
            message = f"ffmpeg cannot open it as {media.media_type or 'sound or video'}: {error.strerror}"
            raise BadMedia("corrupt" if known else "unsupported", message) from error
        with container:
            if not len(container.streams):
                raise BadMedia("corrupt", "its header can be read, but lists neither sound nor picture")
            yield container


def stream(container: Any, kind: Literal["audio", "video"]) -> Any:
    """Return the best stream of a kind, ready to decode.

    Raises:
        BadMedia: `unsupported` where there is none, it is encrypted, or its codec is unknown.
    """
    found = [one for one in container.streams if one.type == kind and not one.disposition & _picture_only()]
    if not found:
        raise BadMedia("unsupported", f"it has no {'sound track' if kind == 'audio' else 'moving picture'}")
    best = container.streams.best(kind)
    chosen = best if best in found else found[0]
    if chosen.codec_context is None:
        raise BadMedia("unsupported", f"its {kind} is in a codec that this ffmpeg does not know")
    tag = str(chosen.codec_context.codec_tag)
    if tag in _ENCRYPTED:
        raise BadMedia("unsupported", f"its {kind} is encrypted ({tag})")
    # One core a worker is what the plan pays for.
    chosen.codec_context.thread_count = 1
    return chosen


def _picture_only() -> Any:
    from av.stream import Disposition

    # Cover art of a song is stored as a video of one frame.
    return Disposition.attached_pic


def has(container: Any, kind: Literal["audio", "video"]) -> bool:
    """Say whether there is a stream of this kind."""
    return any(one.type == kind and not one.disposition & _picture_only() for one in container.streams)


def seconds(container: Any, stream: Any) -> float | None:
    """Return the declared duration of a stream, or of its container where only that is declared."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Units: AV_TIME_BASE, a millionth of a second
    return None if container.duration is None else container.duration / 1e6


def check_end(container: Any, stream: Any, reached: float) -> None:
    """Refuse a stream that ended long before its header said it would.

    Raises:
        BadMedia: `truncated`.
    """
    promised = seconds(container, stream) if container.format.name in _COUNTED else None
    if promised is not None and promised - reached > max(_SLACK_SECONDS, _SLACK_SHARE * promised):
        raise BadMedia("truncated", f"it ends after {reached:.1f} s of {promised:.1f} s")


def check_length(promised: float | None, limit: float) -> None:
    """Refuse what lasts longer than a declared limit.

    Raises:
        BadMedia: `too_large`.
    """
    if promised is not None and promised > limit:
        raise BadMedia("too_large", f"it lasts {promised:.0f} s, more than the {limit:.0f} s that max_seconds allows")


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Decode the frames of a stream in order, skipping the odd damaged packet as players do.

    Raises:
        BadMedia: `unsupported` where packets are encrypted; `corrupt` where many are damaged, or all.
    """
    import av

    packets = damaged = 0
    frames = 0
    reason = ""
    for packet in container.demux(stream):
        packets += 1
        if packet.has_sidedata("encryption_info"):
            raise BadMedia("unsupported", f"its {stream.type} is encrypted (common encryption, ISO/IEC 23001-7)")
        try:
            found = packet.decode()
        except av.error.FFmpegError as error:
            damaged, reason = damaged + 1, str(error.strerror)
            continue
        frames += len(found)
        yield from found
    if damaged > max(1, _DAMAGED_SHARE * packets) or (damaged and not frames):
        raise BadMedia("corrupt", f"{damaged} of {packets} packets cannot be decoded: {reason}")
