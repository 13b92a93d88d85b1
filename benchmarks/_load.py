"""Request bodies become latencies: so many clients, each with one connection kept open, each waiting for its answer.

Run as a process of its own, so that its work is not the server's. The clock of a request stops when its whole answer
is there; nobody reads it before all are done. Requests are made beforehand.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Taken:
    """What some clients have seen together. `cpu_s` is the load's own."""

    ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    replies: list[Any] = field(default_factory=list)


def flood(url: str, bodies: Sequence[Any], *, clients: int, seconds: float, keeps: bool = False) -> Taken:
    """Ask in a process of its own, until the time or the bodies are over.

    Args:
        url: where each body is posted as JSON.
        bodies: each asked once.
        clients: connections, each asking again as soon as it has its answer.
        seconds: how long new requests are begun.
        keeps: whether the answers are wanted.
    """
    said = json.dumps({"url": url, "bodies": bodies, "clients": clients, "seconds": seconds, "keeps": keeps})
    command = [sys.executable, str(Path(__file__).resolve())]
    ended = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{url}: {ended.stderr[-2000:]}")
    return Taken(**json.loads(ended.stdout))


async def _all(url: str, bodies: list[Any], clients: int, seconds: float, keeps: bool) -> Taken:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    encoded = [json.dumps(body, separators=(",", ":")).encode() for body in bodies]
    requests = iter([f"{head}{len(body)}\r\n\r\n".encode() + body for body in encoded])
    streams = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(clients)]
    taken, kept = Taken(), list[bytes]() if keeps else None
    began, cpu = time.perf_counter(), time.process_time()
    end = began + seconds
    await asyncio.gather(*(_one(*stream, _until(requests, end), (taken.ms, kept)) for stream in streams))
    taken.wall_s, taken.cpu_s = time.perf_counter() - began, time.process_time() - cpu
    for _, writer in streams:
        writer.close()
    taken.replies = [json.loads(reply) for reply in kept or ()]
    return taken


def _until(requests: Iterator[bytes], end: float) -> Iterator[bytes]:
    for request in requests:
        yield request
        if time.perf_counter() > end:
            return


async def _one(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: Iterator[bytes],
    told: tuple[list[float], list[bytes] | None],
) -> None:
    ms, kept = told
    for request in requests:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        reply = await reader.readexactly(length)
        ms.append(1000 * (time.perf_counter() - began))
        if lines[0].split()[1] != b"200":
            raise SystemExit(f"{lines[0].decode()}: {reply.decode()}")
        if kept is not None:
            kept.append(reply)


def main() -> None:
    """Be the load: read what is asked from stdin, print what was seen."""
    import uvloop

    print(json.dumps(uvloop.run(_all(**json.load(sys.stdin))).__dict__))


if __name__ == "__main__":
    main()
