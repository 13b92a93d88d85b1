"""What does HTTP cost on top of a search, and where does raycluster stand among those who search?

A hundred thousand real texts with real vectors, ten hits each. Three things in one run: recall against brute force;
latency of one client, by vector and by text; throughput of many, against uvicorn and faiss with as many processes and
nothing else, and against a deployment of Ray Serve that does not search. See README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import _floor
import _glosses
import _inside
import numpy as np
import psutil
from _bench import _where as where
from _load import Taken, flood

from raycluster.lake.lake import Lake

HERE = Path(__file__).resolve().parent
OURS, SERVED, BARE, FLOOR = "raycluster", "raycluster, served", "bare uvicorn + faiss", "Serve's floor"
SLOW = "qdrant local"  # seconds a question: one client shows it
TEXTS = 50  # a round, each new to everybody
CLIENTS = (8, 32)
REPLICAS = (1, 2)
_START_SECONDS = 240
_HELD = "raycluster_hot_rows"  # the metric that tells when a gateway answers from memory
_ENOUGH = 60  # seconds; a round of questions is over before


@dataclass(frozen=True)
class Arm:
    """One way to ask: in this process (`ask`), or over HTTP (`url`, whose server is `pid`)."""

    name: str
    ask: _inside.Ask | None = None
    url: str = ""
    pid: int = 0

    def take(self, questions: Sequence[Any], clients: int, seconds: float, *, keeps: bool = False) -> Taken:
        """Ask each question once, or until the time is over; clients are threads in this process."""
        if self.ask is not None:
            return _within(self.ask, questions, clients, seconds)
        kind = "text" if isinstance(questions[0], str) else "vector"
        bodies = [{kind: question, "k": _inside.K} for question in questions]
        return flood(self.url, bodies, clients=clients, seconds=seconds, keeps=keeps)

    def cpu(self) -> float:
        """Return the CPU seconds of all processes that answer."""
        if not self.pid:
            return time.process_time()
        server = psutil.Process(self.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (server, *server.children(recursive=True)))


def _within(ask: _inside.Ask, questions: Sequence[Any], clients: int, seconds: float) -> Taken:
    taken, queue = Taken(), iter(questions)
    began = time.perf_counter()

    def client(_: int = 0) -> None:
        for question in queue:
            before = time.perf_counter()
            hits = ask(question)
            taken.ms.append(1000 * (time.perf_counter() - before))
            taken.replies.append({"hits": hits})
            if time.perf_counter() > began + seconds:
                return

    if clients == 1:
        client()
    else:
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(client, range(clients)))
    taken.wall_s = time.perf_counter() - began
    return taken


class Bench:
    """The corpus, who is asked, and the lines that come of it."""

    def __init__(self, corpus: _glosses.Corpus, lake: Lake, scratch: Path, seconds: float) -> None:
        self.corpus, self.lake, self.scratch, self.seconds = corpus, lake, scratch, seconds
        by_vector, self.by_text = _inside.raycluster(lake)
        self.inside = [Arm(OURS, by_vector)]
        self.inside += [Arm(name, ask) for name, ask in _inside.rivals(corpus, lake, scratch).items()]
        self.by_text("warm")
        self.vectors = corpus.questions.tolist()
        self.unseen = iter(corpus.unseen)
        gc.freeze()  # a corpus of Python values is not looked through between two questions

    def recall(self, arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
        """Yield each arm's recall of the ten nearest; equal distances count as equal."""
        # cosine: (question, text) float32
        cosine = self.corpus.questions @ self.corpus.vectors.T
        tenth = np.sort(cosine, axis=1)[:, -_inside.K] - 1e-6
        place = {one: at for at, one in enumerate(_inside.ids(self.corpus))}
        for arm in arms:
            replies = arm.take(self.vectors, 1, _ENOUGH, keeps=True).replies
            good = [
                sum(cosine[at, place[hit["id"]]] >= tenth[at] for hit in reply["hits"])
                for at, reply in enumerate(replies)
            ]
            yield {"what": "recall", "arm": arm.name, "recall": round(sum(good) / len(good) / _inside.K, 4)}

    def latency(self, round_: int, served: Sequence[Arm]) -> Iterator[dict[str, Any]]:
        """Yield lines of one client: by vector, then by text, then by the same text again."""
        for arm in _turns([*self.inside, *served], round_):
            yield self._line(arm, "vector", self.vectors, 1, self.seconds) | {"round": round_}
        texts = [next(self.unseen) for _ in range(TEXTS)]
        for arm in _turns([Arm(OURS, self.by_text), *(one for one in served if one.name != FLOOR)], round_):
            yield self._line(arm, "text", texts, 1, _ENOUGH) | {"round": round_}
        yield self._line(served[0], "text again", texts, 1, _ENOUGH) | {"round": round_}

    def throughput(self, round_: int, served: Sequence[Arm], replicas: int) -> Iterator[dict[str, Any]]:
        """Yield lines of several clients who ask without a pause; texts are new ones to each."""
        inside = [one for one in self.inside if one.name != SLOW] if replicas == 1 else []
        for clients in CLIENTS:
            for arm in _turns([*inside, *served], round_):
                seconds = self.seconds / 2 if arm.ask else self.seconds
                line = self._line(arm, "vector", self._many(seconds), clients, seconds)
                yield line | {"round": round_, "replicas": replicas}
        for arm in _turns([one for one in served if one.name != FLOOR], round_):
            texts = [next(self.unseen) for _ in range(int(self.seconds * 200))]
            line = self._line(arm, "text", texts, CLIENTS[0], self.seconds)
            yield line | {"round": round_, "replicas": replicas}

    def _many(self, seconds: float) -> list[list[float]]:
        """Return more questions than anybody answers in the time."""
        return self.vectors * int(1 + seconds * 5000 / len(self.vectors))

    def _line(self, arm: Arm, what: str, questions: Sequence[Any], clients: int, seconds: float) -> dict[str, Any]:
        load, cpu = os.getloadavg()[0], arm.cpu()
        taken = arm.take(questions, clients, seconds)
        used, ms = arm.cpu() - cpu, np.percentile(taken.ms, (50, 95, 99))
        return {
            "what": what,
            "arm": arm.name,
            "clients": clients,
            "asked": len(taken.ms),
            **{name: round(float(value), 3) for name, value in zip(("p50_ms", "p95_ms", "p99_ms"), ms, strict=True)},
            "per_s": round(len(taken.ms) / taken.wall_s, 1),
            "cpu_ms": round(1000 * used / len(taken.ms), 3),
            "load_share": round(taken.cpu_s / taken.wall_s, 3),
            "load_before": round(load, 2),
        }

    @contextmanager
    def servers(self, replicas: int) -> Iterator[list[Arm]]:
        """Start raycluster's server and the bare one, each with so many processes that answer."""
        with ExitStack() as stack:
            ours = [sys.executable, str(HERE / "serving.py"), "--be", self.lake.uri, str(replicas)]
            process = stack.enter_context(_started(ours, {}))
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            served = Arm(SERVED, url=f"{url}/v1/datasets/{_inside.NAME}/search", pid=process.pid)
            port = str(_free())
            bare = [sys.executable, "-m", "uvicorn", "_bare:application", "--factory", "--app-dir", str(HERE)]
            bare += ["--port", port, "--workers", str(replicas), "--no-access-log", "--log-level", "warning"]
            files = {"BENCHMARK_BASE": str(_inside.base_folder(self.lake))}
            rival = stack.enter_context(_started(bare, files))
            arms = [served, Arm(BARE, url=f"http://127.0.0.1:{port}/search", pid=rival.pid)]
            arms.append(Arm(FLOOR, url=f"{url}{_floor.ROUTE}", pid=process.pid))
            for arm in arms:
                self._warm(arm)
            _wait_until_held(url, replicas)
            yield arms

    def _warm(self, arm: Arm) -> None:
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                arm.take(self.vectors[:20], 4, _ENOUGH)
                arm.take([next(self.unseen) for _ in range(20)], 4, _ENOUGH)
                return
            except SystemExit:
                if time.monotonic() > until:
                    raise
                time.sleep(1)


def _wait_until_held(url: str, replicas: int) -> None:
    """Wait until every gateway has the vectors in memory."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        with urlopen(f"{url}/metrics") as page:
            said = [line for line in page.read().decode().splitlines() if line.startswith(f"{_HELD}{{")]
        if sum(float(line.split()[-1]) > 0 for line in said) == replicas:
            return
        time.sleep(0.5)
    raise SystemExit(f"not every gateway has the vectors in memory: {said}")


def _turns(arms: Sequence[Arm], round_: int) -> Sequence[Arm]:
    """Return whose turn it is; every other round the other way round."""
    return arms[::-1] if round_ % 2 else arms


@contextmanager
def _started(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    whole = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAYCLUSTER_LAKE")}
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    whole |= {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled", **environment}
    process = subprocess.Popen(command, env=whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    below = psutil.Process(process.pid)
    try:
        yield process
    finally:
        family = below.children(recursive=True)
        process.stdin.close()  # type: ignore[union-attr]  # ours ends with it; uvicorn does not read it
        if "uvicorn" in command:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def be(lake: str, replicas: int) -> None:
    """Be raycluster's server, as `raycluster serve` starts it, until stdin ends."""
    from raycluster.serve.server import Server
    from raycluster.serve.settings import Settings

    with Server(Settings(lake=lake, gateways=replicas, most_gateways=replicas), port=0) as server:
        _floor.deploy(replicas)
        print(server.url, flush=True)
        sys.stdin.read()


def lines(chosen: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """Measure everything, and yield it line by line."""
    corpus = _glosses.load(chosen.count)
    place = chosen.lake or scratch / "lake"
    lake = Lake(str(place)) if place.exists() else _inside.write(corpus, place)
    bench = Bench(corpus, lake, scratch, chosen.seconds)
    for replicas in REPLICAS:
        with bench.servers(replicas) as served:
            if replicas == 1:
                yield from bench.recall([*bench.inside, *(one for one in served if one.name != FLOOR)])
            for round_ in range(chosen.repetitions):
                if replicas == 1:
                    yield from bench.latency(round_, served)
                yield from bench.throughput(round_, served, replicas)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines as tables in Markdown: medians of the rounds; ratios are taken within each."""
    said = ["| arm | recall@10 |", "|---|---|"]
    said += [f"| {line['arm']} | {line['recall']:.3f} |" for line in found if line["what"] == "recall"]
    said += ["", "| one client | arm | p50 ms | p95 | p99 | CPU ms | p50 of bare uvicorn's |", "|" + "---|" * 7]
    single = [line for line in found if line.get("clients") == 1]
    for what, arm in dict.fromkeys((line["what"], line["arm"]) for line in single):
        bare = _rounds(single, what.partition(" ")[0], BARE)
        said.append(_row([f"by {what}", arm], _rounds(single, what, arm), bare, "p50_ms"))
    said += [
        "",
        "| replicas, clients | arm | p50 ms | p95 | p99 | CPU ms | per s | of bare uvicorn's |",
        "|" + "---|" * 8,
    ]
    many = [line for line in found if line.get("clients", 1) > 1]
    kinds = dict.fromkeys((line["what"], line["replicas"], line["clients"]) for line in many)
    for what, replicas, clients in kinds:
        some = [line for line in many if (line["what"], line["replicas"], line["clients"]) == (what, replicas, clients)]
        for arm in dict.fromkeys(line["arm"] for line in some):
            cells = [f"{replicas}, {clients} by {what}", arm]
            said.append(_row(cells, _rounds(some, what, arm), _rounds(some, what, BARE), "per_s"))
    shares = [line["load_share"] for line in many if line["arm"] in (SERVED, BARE, FLOOR)]
    loads = [line["load_before"] for line in [*single, *many]]
    said += ["", f"The load generator took {max(shares, default=0):.2f} of a core at most."]
    said += [f"Load before a measurement: {min(loads)} to {max(loads)}, median {statistics.median(loads)}."]
    return "\n".join(said)


def _rounds(found: Sequence[Mapping[str, Any]], what: str, arm: str) -> list[Mapping[str, Any]]:
    return [line for line in found if (line["what"], line["arm"]) == (what, arm)]


def _row(cells: list[str], own: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], by: str) -> str:
    names = ["p50_ms", "p95_ms", "p99_ms", "cpu_ms", *(["per_s"] if by == "per_s" else [])]
    cells += [f"{statistics.median(line[name] for line in own):.2f}" for name in names]
    ratios = [line[by] / its[by] for line, its in zip(own, other, strict=True)]
    cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print one JSON line a measurement, and tables on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="texts")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="how long a server is flooded")
    parser.add_argument("--lake", type=Path, help="where it lies from an earlier run, or shall stay")
    parser.add_argument("--table", type=Path, help="make tables of a file of JSON lines, run nothing")
    parser.add_argument("--be", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.be:
        be(chosen.be[0], int(chosen.be[1]))
        return
    if chosen.table:
        print(table([json.loads(line) for line in chosen.table.read_text().splitlines()]))
        return
    if "OMP_NUM_THREADS" not in os.environ:
        # One question gains nothing from several threads, and those of torch and numpy wait by spinning: on a busy
        # machine a text took 200 ms instead of 20. Serve gives its replicas one; so everybody has one.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})
    stamp, found = where(Path(__file__)), []
    with tempfile.TemporaryDirectory(prefix="raycluster-benchmark-") as scratch:
        for line in lines(chosen, Path(scratch)):
            found.append(stamp | {"texts": chosen.count} | line)
            print(json.dumps(found[-1]), flush=True)
    print(f"{stamp['commit']}, {stamp['cores']} cores of {stamp['machine']}; {stamp['packages']}\n", file=sys.stderr)
    print(table(found), file=sys.stderr)


if __name__ == "__main__":
    main()
