"""An MCAP robot log becomes a recording: every number in its JSON messages is a channel; other messages are counted."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import numpy as np

from raycluster.decode._series import Block, Recording, Samples
from raycluster.errors import BadMedia
from raycluster.stage import need

MAGIC = b"\x89MCAP0\r\n"
_MESSAGES = 20_000  # messages held before they become a block
_ELEMENTS = 16  # numbers of a list that are channels of their own; longer lists are pictures or clouds


def read_mcap(file: BinaryIO) -> Recording:
    """Return the recording in an MCAP file, in the order of its log times; `file` is closed at the end.

    Raises:
        BadMedia: `truncated` without its end mark, `corrupt`, or `empty` without a message.
    """
    if not _ends(file):
        file.close()
        raise BadMedia("truncated", "the MCAP file ends before its end mark")
    messages = _messages(file)
    first = next(messages, None)
    if first is None:
        raise BadMedia("empty", "it holds no message")
    zero = first[2].log_time
    origin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=zero / 1000)
    counted: set[str] = set()
    return Recording(_blocks(first, messages, counted), clock="log time", origin=origin, counted=counted)


def _ends(file: BinaryIO) -> bool:
    file.seek(-len(MAGIC), io.SEEK_END)
    ends = file.read() == MAGIC
    file.seek(0)
    return ends


def _messages(file: BinaryIO) -> Iterator[tuple[Any, Any, Any]]:
    reader = need("mcap.reader", '"raycluster[sensor]"').make_reader(file, validate_crcs=True)
    with file:
        try:
            yield from reader.iter_messages()
        except Exception as error:
            raise BadMedia("corrupt", f"not readable as MCAP: {type(error).__name__}: {error}") from error


def _blocks(first: tuple[Any, Any, Any], messages: Iterator[Any], counted: set[str]) -> Iterator[Block]:
    zero = first[2].log_time
    held: dict[str, tuple[list[float], list[float]]] = {}
    count = 0
    message: tuple[Any, Any, Any] | None = first
    while message is not None:
        _, channel, record = message
        for name, value in _numbers(channel, record.data, counted):
            seconds, values = held.setdefault(name, ([], []))
            seconds.append((record.log_time - zero) / 1e9)
            values.append(value)
        count += 1
        message = next(messages, None)
        if count >= _MESSAGES or message is None:
            yield {name: Samples(np.array(seconds), np.array(values)) for name, (seconds, values) in held.items()}
            held, count = {}, 0


def _numbers(channel: Any, content: bytes, counted: set[str]) -> Iterator[tuple[str, float]]:
    if channel.message_encoding != "json":
        counted.add(channel.topic)
        yield channel.topic, 1.0
        return
    try:
        message = json.loads(content)
    except ValueError as error:
        raise BadMedia("corrupt", f"a message of topic {channel.topic!r} is no JSON: {error}") from error
    found = False
    for name, value in _leaves(channel.topic, message):
        found = True
        yield name, value
    if not found:
        counted.add(channel.topic)
        yield channel.topic, 1.0


def _leaves(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float):
        yield name, float(value) if abs(value) < float("inf") else float("nan")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("stamp", "timestamp"):  # the log has a time of its own; a second one measures nothing
                yield from _leaves(f"{name}.{key}", inner)
    elif isinstance(value, list) and len(value) <= _ELEMENTS:
        for index, inner in enumerate(value):
            yield from _leaves(f"{name}[{index}]", inner)
