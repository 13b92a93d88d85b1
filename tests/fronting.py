"""A real S3 server becomes one that refuses, lies about the time, or knows no conditional writes."""

import time
from collections.abc import Callable
from email.utils import formatdate

from relay import Exchange, Relay

Refusal = Callable[[str, str], tuple[int, str] | None]  # method, path -> status and S3's code


class Front(Relay):
    """Stands in front of the store at `host`:`port`."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.refuse: Refusal = lambda method, path: None
        self.is_conditional = True  # passes If-None-Match on
        self.late = 0.0  # seconds by which its clock is behind
        self.silence = 0.0  # seconds before each answer

    def date(self) -> str:
        """Return what its clock says."""
        return formatdate(time.time() - self.late, usegmt=True)

    def meet(self, exchange: Exchange) -> None:
        """Refuse a request, or pass it on."""
        time.sleep(self.silence)
        if refused := self.refuse(exchange.command, exchange.path):
            status, code = refused
            said = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            return exchange.answer(status, [], said)
        return exchange.answer(*exchange.pass_on(without=() if self.is_conditional else {"if-none-match"}))
