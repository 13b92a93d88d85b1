"""An S3 store becomes an unreliable one: a proxy on loopback that fails as networks and stores do, by a schedule.

What can go wrong with a request: the store is `busy` (503) or `broken` (500) and has done nothing; the line is `cut`
before the request arrives; the request arrives and is carried out, but its `answer` is lost; the answer is `late`.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from relay import Exchange, Relay

Fault = Literal["busy", "broken", "cut", "answer", "late"] | None
Schedule = Callable[[str, str], Fault]  # method, path
_LATE_SECONDS = 2.0


class Proxy(Relay):
    """Stands in front of the store at `host`:`port`; `schedule` says what becomes of each request."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.schedule: Schedule = lambda method, path: None
        self.faults = Counter[str]()

    def meet(self, exchange: Exchange) -> None:
        """Let a request fail as it is its turn to, or pass it on."""
        fault = self.schedule(exchange.command, exchange.path)
        self.faults[fault or "none"] += 1
        if fault == "cut":
            return exchange.hang_up()
        if fault in ("busy", "broken"):
            return exchange.answer(503 if fault == "busy" else 500, [], b"")
        if fault == "late":
            time.sleep(_LATE_SECONDS)
        answer = exchange.pass_on()
        return exchange.hang_up() if fault == "answer" else exchange.answer(*answer)


def at_random(seed: int, rate: float) -> Schedule:
    """Fail a share of all requests, in all ways."""
    chance, lock = random.Random(seed), threading.Lock()
    faults: tuple[Fault, ...] = ("busy", "broken", "cut", "answer", "late")

    def schedule(method: str, path: str) -> Fault:
        with lock:
            return chance.choice(faults) if chance.random() < rate else None

    return schedule


def on_commits(fault: Fault, numbers: set[int]) -> Schedule:
    """Fail the requests with these numbers of those that make a version of the dataset `d`."""
    seen, lock = Counter[str](), threading.Lock()

    def schedule(method: str, path: str) -> Fault:
        if method != "PUT" or "/d.lance/_versions/" not in path:
            return None
        with lock:
            seen["commits"] += 1
            return fault if seen["commits"] in numbers else None

    return schedule
