"""An address becomes a connected Ray cluster, described as the plan needs it.

With no address and no cluster in sight, Ray starts on this machine: the embedded default.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from raycluster.account.hook import HOOK, VARIABLE
from raycluster.account.owners import connecting
from raycluster.engine.own import adapt, lean, settings
from raycluster.errors import RayclusterError
from raycluster.place import Cluster
from raycluster.units import Resources

_ANSWER_SECONDS = 5.0  # for a connection to a cluster's head
AUTOSCALER = "RAYCLUSTER_AUTOSCALER"  # environment: the file of a cluster's autoscaler, where there is one


class NoCluster(RayclusterError):
    """Ray cannot be reached or started."""

    code, status, retryable = "no_cluster", 503, True


def here() -> Cluster:
    """Describe this machine, without starting Ray: what a plan assumes when there is no cluster."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(nodes=(Resources(cpu=len(os.sched_getaffinity(0)), gpu=_local_gpus(), memory=memory),))


def _local_gpus() -> float:
    try:
        from ray._private.accelerators import NvidiaGPUAcceleratorManager

        return float(NvidiaGPUAcceleratorManager.get_current_node_num_accelerators())
    except Exception:  # noqa: BLE001 - no driver, no NVML: no GPU
        return 0.0


def joins_cluster(address: str | None) -> bool:
    """Tell whether work goes to a cluster that runs already."""
    import ray

    return bool(address or os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def connect(address: str | None = None) -> Cluster:
    """Join the cluster at `address` (or RAY_ADDRESS), or start one on this machine; describe its nodes.

    Raises:
        NoCluster: nothing answers there.
    """
    # Ray's C++ side writes notices to stderr, in the middle of what people read; they are in its log files too.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # the fork executes another program at once
    address = address or os.environ.get("RAY_ADDRESS") or None
    if not ray.is_initialized():
        options: dict[str, Any] = {
            "address": address,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if address:
            options["runtime_env"] = {"worker_process_setup_hook": HOOK}  # meters every worker of this job
        else:
            options |= settings()
        try:
            _require_answer(address)
            connecting()
            with _hushed(), _keeping_signals(), nullcontext() if address else _starting():
                ray.init(**options)
        except Exception as error:  # Ray raises plain ones too, as when a busy machine is slow
            raise _no_cluster(address, error) from error
        # As Ray registers it, it waits half a second at Python's end for words of workers that are still to be printed
        # (ray/_private/worker.py, 2.60): here none are.
        atexit.unregister(ray.shutdown)
        atexit.register(ray.shutdown)
    quieten()
    adapt()
    return describe()


def _no_cluster(address: str | None, error: Exception) -> NoCluster:
    if address is None:
        fix = "it may have been too busy: try again; Ray's own words are in /tmp/ray/session_latest/logs"
        return NoCluster(f"Ray did not start on this machine: {error}", fix=fix)
    fix = "start it with `ray up cluster.yaml`; one that runs wants its token (RAY_AUTH_MODE, ~/.ray/auth_token)"
    return NoCluster(f"no Ray cluster at {address}: {error}", fix=fix)


def _require_answer(address: str | None) -> None:
    """Raise OSError where nothing listens: `ray.init` would try for seven minutes before it says so (Ray 2.60)."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


def describe() -> Cluster:
    """Describe the nodes of the connected cluster, and those that may come."""
    return Cluster(nodes=tuple(_resources(node["Resources"]) for node in nodes()), largest=_largest())


def nodes() -> list[dict[str, Any]]:
    """Return Ray's entries of the nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _resources(told: Mapping[str, Any]) -> Resources:
    return Resources(cpu=told.get("CPU", 0.0), gpu=told.get("GPU", 0.0), memory=int(told.get("memory", 0)))


def _largest() -> tuple[Resources, ...]:
    """Return the nodes that an autoscaler may have at once, by its configuration: `ray up` leaves it on the head.

    Ray itself tells nobody (2.60: `GlobalState.get_cluster_config` finds what only Anyscale's autoscaler writes).
    """
    file = os.environ.get(AUTOSCALER)
    if not file:
        return ()
    path = Path(file).expanduser()
    try:
        return _told(path, path.stat().st_mtime_ns)
    except OSError:  # this is not the head
        return ()


@lru_cache(maxsize=1)  # a run looks every two seconds, and the file hardly ever changes
def _told(path: Path, _changed: int) -> tuple[Resources, ...]:
    told = yaml.safe_load(path.read_text())
    most, head = told.get("max_workers", 0), told.get("head_node_type")
    found: list[Resources] = []
    for name, one in told.get("available_node_types", {}).items():
        if one.get("resources"):  # the `local` provider's types do not tell their size
            found += [_resources(one["resources"])] * (1 if name == head else one.get("max_workers", 0))
    return tuple(found[: most + 1])


@contextmanager
def _starting() -> Iterator[None]:
    """Let a Ray that starts now be a lean one, which meters its workers."""
    with lean(), _metering():
        yield


@contextmanager
def _metering() -> Iterator[None]:
    """Let a Ray that starts now have a meter in every worker, by the environment that its processes inherit.

    A runtime environment would do the same for more: each worker is then started by a process that has imported Ray
    itself (0.4 CPU-s), and those that Ray starts ahead, which have none, are thrown away.
    """
    kept = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = HOOK
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if kept is not None:
            os.environ[VARIABLE] = kept


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Keep this program's own answer to SIGTERM (to stop cleanly), which `ray.init` replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what C++ code says while Ray starts (that it has read its log level) away from the terminal."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quieten() -> None:
    """Leave the terminal to this program: Ray's own bars and notices go to log files only."""
    import ray._private.worker
    import ray.data

    # Ray prints notices of dead workers on stdout, where `--json` promises one document and nothing else; there is no
    # switch for it (ray/_private/worker.py, listen_error_messages, 2.60). Delete when there is one.
    ray._private.worker.print_to_stdstream = _note  # type: ignore[assignment]

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _note(notice: dict[str, Any], **_: Any) -> None:
    for line in notice["lines"]:
        logging.getLogger("raycluster.ray").info(line)
