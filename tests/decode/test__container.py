"""A container reaches nothing but its own bytes: playlists name files and URLs, and none of them is opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from raycluster.decode.audio import Audio
from raycluster.decode.video import Video

RATE = 44_100


@dataclass
class Site:
    """A folder with one real segment of sound, and a web server that notes what is asked of it."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)

    def playlist(self, text: str) -> Path:
        """Write a playlist; `{url}`, `{file}` and `{near}` name the segment."""
        path = self.folder / "list.m3u8"
        url = f"http://127.0.0.1:{self.port}/segment.ts"
        path.write_text(text.format(url=url, file=f"file://{self.folder}/segment.ts", near="segment.ts"))
        return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with av.open(str(tmp_path / "segment.ts"), "w", format="mpegts") as file:
        stream = file.add_stream("mp2", rate=RATE)
        sound = np.random.default_rng(1).normal(0, 3000, (1, RATE)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(sound, "s16", "mono")
        frame.rate, frame.pts = RATE, 0
        for part in [*av.AudioResampler("s16", "mono", RATE, frame_size=1152).resample(frame), None]:
            file.mux(stream.encode(part))
    made = Site(tmp_path)

    class Noting(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Noting, directory=str(tmp_path)))
    made.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{%s}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {near}\n"


@pytest.mark.parametrize(
    "text", [HLS % "url", HLS % "file", HLS % "near", CONCAT], ids=["url", "file", "near", "concat"]
)
@pytest.mark.parametrize("stage", [Audio(), Video(audio=True)], ids=["audio", "video"])
@pytest.mark.parametrize("media_type", ["audio/x-mpegurl", "text/plain"])
def test_a_playlist_opens_nothing(site: Site, verdict, text: str, stage, media_type: str) -> None:
    path = site.playlist(text)
    code = "corrupt" if media_type.startswith("audio/") else "unsupported"
    assert verdict(stage, path, media_type).code == code
    assert verdict(stage, path.read_bytes(), media_type).code == code
    assert site.asked == []


def test_ffmpeg_left_alone_would_fetch_it(site: Site) -> None:
    """What the tests above rely on: these playlists are good ones."""
    for text in (HLS % "url", HLS % "file", HLS % "near", CONCAT):
        with site.playlist(text).open("rb") as file, av.open(file) as container:
            assert sum(len(packet.decode()) for packet in container.demux()) > 10
    assert site.asked == ["/segment.ts"]


def test_the_segment_itself_can_be_decoded_from_a_path_and_from_bytes(site: Site, pieces) -> None:
    segment = site.folder / "segment.ts"
    assert len(pieces(Audio(), segment, "audio/mp2t")) == len(pieces(Audio(), segment.read_bytes(), "audio/mp2t")) == 1
