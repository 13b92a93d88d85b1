"""The benchmarks measure what they say: equal outputs are demanded, every process is counted, one line a run."""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # last: the tests have a `serving` of their own
import _bench  # noqa: E402
import _corpus  # noqa: E402
import _load  # noqa: E402
import _tree  # noqa: E402
import histogram  # noqa: E402
import scale  # noqa: E402

SIZES = {
    "histogram": 8,
    "image_classification": 8,
    "document_embedding": 3,
    "audio_transcription": 2,
    "video_frames": 2,
}
RIVALS = ("limit", "script", *(("daft",) if find_spec("daft") else ()), "raycluster")


def asked(name: str, *words: str) -> tuple[str, list[dict[str, object]]]:
    """Run a benchmark, and return what it says on stderr, and its lines."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arms"),
    [
        *((name, RIVALS) for name in SIZES),
        ("promises", ("raycluster", "one_commit", "unmetered", "unchecked", "lance_ray")),  # the script is histogram's
    ],
)
def test_every_arm_makes_the_same_rows(name: str, arms: tuple[str, ...]) -> None:
    words = () if name in SIZES else ("--arms", ",".join(arms))
    _, lines = asked(name, "--together", "--sizes", str(SIZES.get(name, 8)), *words)
    found = {line["arm"]: line for line in lines}
    assert list(found) == [*arms[:-1], *(["daft_idiom"] if "daft_idiom" in found else []), arms[-1]]
    everything = found[arms[0]]
    assert everything["rows"] >= SIZES.get(name, 8)
    assert {"id", "object_id", "uri", "sha256"} < set(everything["equal"])
    assert any(column in everything["equal"] for column in ("histogram", "efficientnet", "minilm"))
    for arm in arms:
        assert (found[arm]["rows"], found[arm]["equal"]) == (everything["rows"], everything["equal"])


@pytest.mark.slow
def test_each_arm_is_measured_from_nothing_and_warm() -> None:
    said, lines = asked("histogram", "--sizes", "8,24", "--repetitions", "1", "--arms", "limit")
    limit = {(line["state"], line["size"]): line for line in lines}
    assert list(limit) == [("cold", 8), ("warm", 8), ("warm", 24)]
    assert "limit: 8 rows equal in id, object_id, uri, sha256" in said
    assert "| limit |" in said
    derived = {"startup_s", "job_s", "marginal_rows_per_s", "cpu_ms_per_row", "peak_growth_mib"}
    assert all(derived < set(line) for line in lines)
    assert limit["warm", 24]["wall_s"] < limit["cold", 8]["wall_s"]  # its processes stay

    _, nodes = asked("scaling", "histogram", "--sizes", "8", "--repetitions", "1", "--arms", "three_nodes")
    assert [line["arm"] for line in nodes] == ["one_core", "three_nodes"]
    for line in (*lines, *nodes):
        assert (line["rows"], line["cores"]) == (line["size"], _bench.CORES)
        assert line["commit"]
        assert line["machine"]
        assert line["peak_mib"] > 100
        assert 0 < line["first_row_s"] <= line["wall_s"]
        # A process loads Lance and Arrow before its first photo: half a second of CPU. Ray's own are counted too.
        assert line["cpu_s"] >= (0 if line["state"] == "warm" else 0.5)
    assert nodes[1]["cpu_s"] > limit["cold", 8]["cpu_s"]


def number(path: Path, chance: random.Random) -> None:
    path.write_text(str(chance.random()))


def test_a_rival_that_is_not_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "daft", None)
    assert list(histogram.WORK.question().arms) == ["limit", "script", "raycluster"]
    assert "without Daft" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:lance is not fork-safe")  # which others here have loaded; the forks write numbers
def test_a_corpus_is_the_same_whenever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = _corpus.Corpus("numbers", number, (".txt", ".md"))
    made = []
    for place, counts in (("once", (2, 3)), ("again", (3,))):
        (tmp_path / place).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
        found = [Path(path) for path in [_corpus.files(corpus.folder_of(count)) for count in counts][-1]]
        assert [path.name for path in found] == ["000000.txt", "000001.md", "000002.txt"]
        made.append([(path.read_text(), path.stat().st_mtime_ns) for path in found])
    assert made[0] == made[1]
    assert len({text for text, _ in made[0]}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("histogram", "--arms", "limit,speed"), "no such arm here: speed; there are limit, script,"),
        (("scaling", "sleeping"), "say which workload, not 'sleeping': image_classification, "),
    ],
)
def test_what_a_benchmark_does_not_know_it_says(words: tuple[str, ...], said: str) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{words[0]}.py"), *words[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert said in ended.stderr


def rows(**changed: object) -> pa.Table:
    columns = {"id": ["a", "b"], "size": [1, 2], "score": [0.5, 0.25], "features": [{"x": 1.0}, {"x": 2.0}]} | changed
    vector = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    return pa.table(columns).append_column("vector", vector)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"id": ["a", "c"]}, "id: not the same values"),
        ({"size": [1, 3]}, "size: not the same values"),
        ({"score": [0.5, 0.26]}, "score: differs by 0.01"),
        ({"features": [{"x": 1.0}, {"x": 2.1}]}, "features.x: differs by 0.1"),
        ({"score": [0.5, None]}, "score: 1 nulls"),
    ],
)
def test_outputs_that_differ_are_found(changed: dict[str, object], said: str) -> None:
    (problem,) = _bench.differences(rows(), rows(**changed), 1e-3)
    assert problem.startswith(said)


def test_outputs_within_the_tolerance_are_equal() -> None:
    assert list(_bench.differences(rows(), rows(score=[0.5004, 0.2496]), 1e-3)) == []
    assert list(_bench.differences(rows(), rows().slice(0, 1), 1e-3)) == ["1 rows, expected 2"]


def test_the_dead_and_the_grandchildren_are_counted() -> None:
    burn = "import time\nwhile time.process_time() < 1.5: pass\n"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); kept = bytearray(80 << 20)\n"
    tree = _tree.Tree()
    with (
        tree.watched(),
        subprocess.Popen(
            [sys.executable, "-c", parent + "print(flush=True); input()"], stdin=-1, stdout=-1, text=True
        ) as child,
    ):
        child.stdout.readline()
        time.sleep(0.8)  # memory is looked at less often than CPU
        used = tree.cpu_seconds
        child.communicate("\n")
    assert 1.2 < used < 3.5  # new processes are looked for twice a second
    assert 80 << 20 < tree.peak_bytes < 300 << 20


def test_a_block_that_is_over_at_once_has_its_memory_all_the_same() -> None:
    tree = _tree.Tree()
    script = "kept = bytearray(80 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as child:
        child.stdout.readline()
        assert tree.cpu_seconds > 0
        with tree.watched():
            pass
        child.communicate("\n")
    assert tree.peak_bytes > 80 << 20


def run(state: str, size: int, wall: float, cpu: float, peak: int = 500) -> dict[str, object]:
    return {"state": state, "size": size, "rows": 2 * size, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}


def test_three_jobs_tell_start_up_from_a_job_and_a_job_from_a_row() -> None:
    # 5 s of start-up, 1 s a job, 100 rows a second, 20 ms of CPU a row
    jobs = [run("cold", 50, 7.0, 12.0), run("warm", 50, 2.0, 4.0), run("warm", 550, 12.0, 24.0, 520)]
    assert _bench._derived(jobs) == {
        "startup_s": 6.0,
        "job_s": 1.0,
        "marginal_rows_per_s": 100.0,
        "cpu_ms_per_row": 20.0,
        "peak_growth_mib": 20,
    }
    assert _bench._derived(jobs[:1]) == {}


def test_ratios_are_taken_within_a_repetition() -> None:
    where = {"benchmark": "b", "cores": 2, "machine": "m", "commit": "c", "packages": "p", "load_before": 0.5}
    lines = []
    for repetition, slowness in enumerate((1, 10, 100)):  # the machine gets slower and slower
        for arm, times in (("limit", 1), ("raycluster", 2)):
            jobs = [run("cold", 5, 3 * slowness * times, 1), run("warm", 5, 1 * slowness * times, 1)]
            jobs.append(run("warm", 50, 4 * slowness * times, 2))
            derived = _bench._derived(jobs)
            lines += [where | {"arm": arm, "repetition": repetition, "first_row_s": 1} | job | derived for job in jobs]
    *_, limit, raycluster = _bench.table(lines).splitlines()
    same, twice = "1.00 (1.00-1.00)", "2.00 (2.00-2.00)"
    assert limit.startswith(f"| limit | 2.5 | {same} | {same} | {same} | 30.0 |")
    assert raycluster.startswith(f"| raycluster | 1.2 | {twice} | {twice} | {twice} | 60.0 |")


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[bytes], set[object]]]:
    """A server that says what it was asked: its URL, the bodies, and the connections that they came on."""
    bodies: list[bytes] = []
    connections: set[object] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(body)
            connections.add(self.client_address)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/search", bodies, connections
        server.shutdown()


def test_a_load_asks_each_question_once_on_connections_that_stay_open() -> None:
    asked = [{"text": str(number)} for number in range(40)]
    with answering(200) as (url, bodies, connections):
        taken = _load.flood(url, asked, clients=4, seconds=60, keeps=True)
    assert sorted(int(json.loads(body)["text"]) for body in bodies) == list(range(40))
    assert len(connections) == 4
    assert len(taken.ms) == 40
    assert all(0 < ms < 1000 * taken.wall_s for ms in taken.ms)
    assert sorted(int(reply["text"]) for reply in taken.replies) == list(range(40))


def test_one_client_has_its_answers_in_the_order_of_its_questions() -> None:
    asked = [{"text": str(number)} for number in range(10)]
    with answering(200) as (url, *_):
        assert _load.flood(url, asked, clients=1, seconds=60, keeps=True).replies == asked


def test_a_load_ends_when_its_time_is_over() -> None:
    with answering(200) as (url, bodies, _):
        taken = _load.flood(url, [{}] * 100_000, clients=2, seconds=0.3)
    assert 0 < len(taken.ms) == len(bodies) < 100_000
    assert 0.3 <= taken.wall_s < 10


def test_a_refusal_is_no_answer() -> None:
    with answering(429) as (url, *_), pytest.raises(SystemExit, match="429"):
        _load.flood(url, [{"text": "a"}], clients=1, seconds=60)


def test_servings_ratios_are_those_of_neighbours_in_time(tmp_path: Path) -> None:
    def line(what: str, arm: str, number: int, p50: float, clients: int = 1, **more: object) -> str:
        numbers = {"p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50, "cpu_ms": 1, "per_s": 1000 * clients / p50}
        numbers |= {"load_before": 0.5, "load_share": 0.01, "round": number, "clients": clients}
        return json.dumps({"what": what, "arm": arm, **numbers, **more})

    served, bare = "raycluster, served", "bare uvicorn + faiss"
    lines = [json.dumps({"what": "recall", "arm": "raycluster", "recall": 0.99})]
    for number, ours in enumerate((2.0, 20.0, 200.0)):  # the machine gets slower and slower
        lines += [line("vector", bare, number, ours), line("vector", served, number, 1.5 * ours)]
        more = {"clients": 8, "replicas": 1}
        lines += [line("vector", served, number, ours, **more), line("vector", bare, number, 2 * ours, **more)]
    (tmp_path / "lines").write_text("\n".join(lines))
    command = [sys.executable, str(BENCHMARKS / "serving.py"), "--table", str(tmp_path / "lines")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| raycluster | 0.990 |" in said
    assert "| by vector | raycluster, served | 30.00 | 60.00 | 90.00 | 1.00 | 1.50 (1.50-1.50) |" in said
    assert "| 1, 8 by vector | raycluster, served | 20.00 | 40.00 | 60.00 | 1.00 | 400.00 | 2.00 (2.00-2.00) |" in said


def test_growth_is_drawn_out_by_what_fits_it_better() -> None:
    sizes = (100, 1000, 10_000)
    line = scale.fit(sizes, [5 + 2 * size for size in sizes])
    assert (line.fixed, line.each, line.line) == pytest.approx((5, 2, 0), abs=1e-6)
    assert line.at(10**9) == pytest.approx(2e9 + 5)
    square = scale.fit(sizes, [3 * size**2 for size in sizes])
    assert (square.slope, square.power) == pytest.approx((2, 0), abs=1e-6)
    assert square.at(10**6) == pytest.approx(3e12)
    bound = scale.fit(sizes, [70.0, 71.0, 70.5])
    assert bound.at(10**9) < 80
    assert scale.fit(sizes, [0, 1, 2]) is None  # what is not there at every size has no slope
    assert scale.fit((100,), [1.0]) is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_scale_measures_what_each_object_and_each_node_takes() -> None:
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--sizes", "2000,4000", "--parts", "listing_s3,books"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stderr
    runs = {(line["part"], line["arm"], line["size"]): line for line in map(json.loads, ended.stdout.splitlines())}
    assert [runs["listing_s3", "raycluster", size]["requests"] for size in (2000, 4000)] == [4, 6]
    assert [runs["books", "raycluster", size]["tally_bytes"] for size in (2000, 4000)] == [17 * 2000, 17 * 4000]
    assert all(line["cpu_s"] > 0 and line["commit"] for line in runs.values())
    assert "| listing_s3, arrow | cpu | 2,000: " in ended.stderr
    assert "17 B an object" in ended.stderr
    for part, sizes in (("settling", "1,2"), ("commits", "4,8")):
        command[-3:] = [sizes, "--parts", part]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        assert ended.returncode == 0, ended.stderr
        small, large = map(json.loads, ended.stdout.splitlines())
        grown = "inbox_bytes" if part == "settling" else "manifest_bytes"
        assert small[grown] < large[grown] <= 2 * small[grown]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_serving_asks_everybody_the_same() -> None:
    for name in ("lancedb", "qdrant_client"):
        pytest.importorskip(name)
    command = [
        sys.executable,
        str(BENCHMARKS / "serving.py"),
        "--count",
        "1000",
        "--repetitions",
        "1",
        "--seconds",
        "1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=880)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    recall = {line["arm"]: line["recall"] for line in lines if line["what"] == "recall"}
    assert recall["qdrant local"] == 1.0  # it compares with every vector
    assert recall["raycluster"] == recall["raycluster, served"] > 0.9
    floods = {(line["what"], line["replicas"], line["clients"], line["arm"]) for line in lines if "replicas" in line}
    for arm in ("raycluster, served", "bare uvicorn + faiss", "Serve's floor"):
        assert {("vector", replicas, clients, arm) for replicas in (1, 2) for clients in (8, 32)} <= floods
