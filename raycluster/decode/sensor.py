"""Recordings of measurements become windows of time with their statistics, a line of text and a plot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from raycluster.decode import Decode, Decoder
from raycluster.decode._series import Recording, cut
from raycluster.errors import BadMedia
from raycluster.row import Media, Piece
from raycluster.units import Seconds

_STATISTICS = pa.list_(
    pa.struct(
        [
            ("channel", pa.string()),
            ("samples", pa.int64()),
            ("mean", pa.float64()),
            ("std", pa.float64()),
            ("minimum", pa.float64()),
            ("maximum", pa.float64()),
        ]
    )
)


@dataclass(frozen=True, kw_only=True)
class Sensor(Decode):
    """CSV, Parquet, NetCDF or MCAP: one row a window of time, `position` counts the windows that hold samples.

    `start_seconds` and `end_seconds` count from the recording's first moment, which is `features.recorded_at` of its
    first window. Times without a zone are taken as UTC. Where samples lie so far apart that a window would hold fewer
    than 8, windows of 64 samples are made instead. A table of numbers alone counts its rows as seconds.

    window: length of a window.
    time: the column that holds time, where the likeliest one is the wrong one. CSV and Parquet.
    by: the column that names the series in a table with a row for every sensor and moment. CSV and Parquet.
    max_rows: longer recordings are refused.
    """

    features: ClassVar[dict[str, pa.DataType]] = {
        "recorded_at": pa.timestamp("us", "UTC"),  # the window's first sample; null where time is only relative
        "clock": pa.string(),  # where time is read from, in words
        "channels": pa.int32(),
        "samples": pa.int64(),  # of all channels
        "rate": pa.int32(),  # Hz; null below one sample in two seconds
        "spacing": pa.float64(),  # seconds usually between two samples
        "gaps": pa.int32(),  # holes of more than three times that, of the worst channel
        "longest_gap": pa.float64(),  # seconds
        "missing": pa.float32(),  # share of values that are null
        "outliers": pa.float32(),  # share of values beyond 3.5 robust standard deviations of their channel
        "statistics": _STATISTICS,
    }

    window: Annotated[Seconds, Field(gt=0)] = 60.0
    time: str | None = None
    by: str | None = None
    max_rows: Annotated[int, Field(gt=0)] = 100_000_000

    def decoder(self) -> Decoder:
        """Return the function from a recording to its windows."""
        return self._pieces

    def _pieces(self, media: Media) -> Iterator[Piece]:
        from raycluster.decode._statistics import drawn, spoken, window_figures

        recording = self._recording(media)
        windows = cut(recording, self.window, max_rows=self.max_rows)
        for position, window in enumerate(windows.windows):
            figures = window_figures(window, windows, recording.counted)
            start = min(float(samples.seconds[0]) for samples in window.channels.values())
            end = max(float(samples.seconds[-1]) for samples in window.channels.values())
            at = recording.origin + timedelta(seconds=start) if recording.origin else None
            yield Piece(
                position=position,
                start_seconds=start - windows.start,
                end_seconds=end - windows.start,
                text=spoken(window, figures, recording, windows),
                thumbnail=drawn(window, recording, windows),
                features={"recorded_at": at, "clock": recording.clock, **figures},
            )

    def _recording(self, media: Media) -> Recording:
        from raycluster.decode import _mcap, _netcdf, _table

        with media.open() as file:
            head = file.read(8)
        if not head:
            raise BadMedia("empty", "it holds no bytes")
        if head == _mcap.MAGIC:
            return _mcap.read_mcap(media.open())
        if head.startswith((b"\x89HDF", b"CDF")):
            return _netcdf.read_netcdf(media.path or bytes(media.read()))
        if head.startswith((b"PAR1", b"PARE")):
            return _table.read_parquet(media.open, time=self.time, by=self.by)
        return _table.read_csv(media.open, time=self.time, by=self.by)
