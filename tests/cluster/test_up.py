"""`ray up` over SSH onto machines of their own: work is sent there, machines lose power, nothing is lost or unpaid.

In the order of the file: one cluster, from `ray up` to `ray down`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reckoning
import yaml
from machines import BIN, DESK, ROOT, Machines, refusal
from sampling import part
from survival import DRIVER, Reader, Trial, World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(refusal()), reason=refusal() or "machines can be had"),
]

VARIANT = ROOT / "workloads/clusters/on_premises.yaml"
STORE, LAKE = "http://10.88.0.10:9000", "s3://media/lake"
SIZE = "--num-cpus=1 --memory=3000000000 --object-store-memory=300000000"  # of a machine, which is a part of this one
KEYS = "[default]\naws_access_key_id = test\naws_secret_access_key = test\nregion = us-east-1\n"
PATIENCE = 150.0
# Asks the head without joining: a driver's start takes ten times as long.
_NODES = """
from ray._private.state import state
from ray._raylet import GcsClientOptions
options = GcsClientOptions.create('{address}', None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
state._initialize_global_state(options)
print(*(node['NodeManagerAddress'] for node in state.node_table() if node['Alive']))
"""


@dataclass(kw_only=True)
class Site:
    """A cluster on machines, launched from the desk."""

    machines: Machines
    file: Path

    @property
    def shared(self) -> Path:
        return self.machines.shared

    @property
    def members(self) -> list[str]:
        """Return the machines of the cluster that are on."""
        return [name for name in self.machines.booted if name not in (DESK, "guest")]

    def desk(self, command: str, **environment: str) -> str:
        """Carry out a command in the checkout on the desk, which can read the store."""
        store = {"AWS_ENDPOINT_URL": STORE, "AWS_ALLOW_HTTP": "true", "AWS_PROFILE": "default"}
        store |= {"AWS_SHARED_CREDENTIALS_FILE": "/root/.aws/raycluster", "AWS_EC2_METADATA_DISABLED": "true"}
        return self.machines.call(DESK, f"cd {ROOT}; {command}", timeout=300, **store, **environment)

    def python(self, script: str) -> str:
        """Run Python on the desk."""
        return self.desk('python -c "$SCRIPT"', SCRIPT=script)

    def nodes(self) -> set[str]:
        """Return the addresses of the nodes that the head takes for alive."""
        ask = _NODES.format(address=f"{self.machines.address('head')}:6379")
        return set(self.machines.call("head", f'. ~/.raycluster.sh; python -c "{ask}"').split())

    def wait_for(self, *names: str) -> float:
        """Wait until the cluster has just these machines; return the seconds."""
        began, wanted = time.monotonic(), {self.machines.address(name) for name in names}
        while (found := self.nodes()) != wanted:
            assert time.monotonic() - began < PATIENCE, (found, self.log())
            time.sleep(2)
        return time.monotonic() - began

    def ids(self, lake: str, dataset: str) -> list[str]:
        """Return the ids of a dataset, as the desk sees them."""
        table = f"Lake('{lake}').table('{dataset}').open('live').to_table(columns=['id'])"
        ask = f"from raycluster.lake.lake import Lake; print(*sorted({table}['id'].to_pylist()))"
        return self.python(ask).split()

    def log(self) -> str:
        return self.machines.run("head", "tail -n 40 /tmp/ray/session_latest/logs/monitor*").stdout

    def write(self, *workers: str) -> None:
        """Write the variant for these machines: changed are only names, keys, and what would be fetched."""
        told = yaml.safe_load(VARIANT.read_text())
        told["provider"] |= {
            "head_ip": self.machines.address("head"),
            "worker_ips": [self.machines.address(name) for name in workers],
        }
        told["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_machines"}
        told["setup_commands"] = []  # nothing can be fetched here
        told["file_mounts"]["~/.aws/credentials"] = "~/.aws/raycluster"
        (environment, *rest) = told["initialization_commands"]
        for of, to in {
            "$HOME/venv/bin": str(BIN),
            "s3://raycluster-example/lake": LAKE,
            "https://store.example.internal:9000": f"{STORE} AWS_ALLOW_HTTP=true",
        }.items():
            assert of in environment
            environment = environment.replace(of, to)
        told["initialization_commands"] = [environment, *rest]
        told["worker_start_ray_commands"] = [
            command.replace("ray start ", f"ray start {SIZE} ") for command in told["worker_start_ray_commands"]
        ]
        self.file.write_text(yaml.safe_dump(told, sort_keys=False))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Five machines, of which one is off, and a desk, which has a token and an S3 server."""
    folder = tmp_path_factory.mktemp("machines")
    settings = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    with Machines(folder=folder, names=("head", "one", "two", "three", "guest"), environment=settings) as machines:
        site = Site(machines=machines, file=machines.shared / "cluster.yaml")
        site.write("one", "two", "three")
        machines.power_off("three")
        site.desk(
            'umask 077; ray get-auth-token --generate > /dev/null; cat > ~/.aws/raycluster <<< "$KEYS"', KEYS=KEYS
        )
        store = machines.start(DESK, "exec python -m moto.server -H 0.0.0.0 -p 9000 > /dev/null 2>&1")
        site.desk("until (exec 3<> /dev/tcp/127.0.0.1/9000) 2> /dev/null; do sleep 0.2; done")
        site.python("import boto3; boto3.client('s3').create_bucket(Bucket='media')")
        yield site
        machines.end(store)


def test_launched_from_the_desk(site: Site) -> None:
    site.desk(f"raycluster cluster check {site.file}")
    began = time.monotonic()
    site.desk(f"ray up --yes {site.file}")
    head = time.monotonic() - began
    seconds = site.wait_for("head", "one", "two")
    print(f"\nUP | the head after {head:.0f} s, its workers {seconds:.0f} s later")
    said = site.desk(f"ray exec {site.file} 'raycluster --version; hostname'")
    assert "raycluster, version" in said
    assert "head" in said.split()


def test_nobody_comes_in_without_the_token(site: Site) -> None:
    """A guest is in the same network, and has a token of its own."""
    head = site.machines.address("head")
    site.machines.call("guest", "ray get-auth-token --generate > /dev/null")
    join = f"import ray; ray.init('{head}:6379'); print('came in')"
    for command in (
        f"raycluster jobs --address http://{head}:8265",  # the dashboard is on the head's loopback
        f'timeout 60 python -c "{join}"',
        f'RAY_AUTH_MODE=disabled timeout 60 python -c "{join}"',
    ):
        done = site.machines.run("guest", command)
        assert done.returncode != 0, done.stdout
        assert "came in" not in done.stdout


@pytest.fixture(scope="module")
def world(site: Site) -> World:
    """Build, in the shared folder, what all deaths begin with."""
    folder = site.shared / "world"
    folder.mkdir()
    return World.build(folder, "local")


@dataclass(kw_only=True)
class Away(Trial):
    """A trial whose driver runs on a machine of the cluster."""

    site: Site
    on: str = "head"

    def start(self, **environment: str) -> subprocess.Popen[Any]:
        """Start a driver there."""
        told = {**self.environment, **self.notes(), **environment, "PYTHONPATH": str(Path(__file__).parent.parent)}
        job = {"runtime_env": {"env_vars": told}, "metadata": {"team": "t"}}
        number = len(list(self.folder.glob("[0-9]*.out")))
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        command = f". ~/.raycluster.sh; exec python {DRIVER} {self.file} {self.lake.uri} > {out} 2> {err}"
        told |= {"RAY_ADDRESS": f"{self.site.machines.address('head')}:6379"}
        return self.site.machines.start(self.on, command, RAY_JOB_CONFIG_JSON_ENV_VAR=json.dumps(job), **told)

    def end(self, driver: subprocess.Popen[Any], number: int = -1) -> dict[str, Any]:
        """Wait for a driver's end; return its summary or its error."""
        said = super().end(driver, number)
        self.site.machines.end(driver)
        return said

    def stopped(self) -> str:
        """Wait until a process has come to its moment and stands still; return the machine that it is on."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for pid in self.left():
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    return self.site.machines.of(pid)
            time.sleep(0.1)
        raise AssertionError("nobody came to the moment")


@pytest.fixture
def away(site: Site, world: World, tmp_path: Path) -> Iterator[Away]:
    """Begin a trial in a lake of its own, that every machine sees."""
    folder = site.shared / tmp_path.name
    folder.mkdir()
    begun = Away.begin(world, folder, site=site)
    yield begun
    begun.clean()


def test_a_machine_that_is_switched_on_while_a_run_goes_on_is_used(site: Site, away: Away) -> None:
    away.encode = '[{use: "private_stages:Noted", seconds: 1.2}]'
    driver = away.start()
    while len(away.worked_on()) < 4:
        assert driver.poll() is None, away.end(driver)
        time.sleep(0.2)
    site.machines.boot("three")
    came = site.wait_for("head", "one", "two", "three")
    summary = away.end(driver)
    assert summary["status"] == "done"
    away.require_undisturbed()
    assert max(away.worked_on().values()) == 1  # what was begun was ended, not begun again
    worked = reckoning.usage(away.lake, stage="private_stages", run_id=summary["run_id"])
    assert len({line["node"] for line in worked}) == 3
    print(f"\nUP | one machine more after {came:.0f} s")


@pytest.fixture(scope="module")
def forward(site: Site) -> Iterator[str]:
    """Reach the head's dashboard from the desk as a user does: through SSH."""
    tunnel = site.machines.start(DESK, f"cd {ROOT}; exec ray dashboard {site.file}")
    site.desk("until (exec 3<> /dev/tcp/127.0.0.1/8265) 2> /dev/null; do sleep 0.2; done")
    yield "http://127.0.0.1:8265"
    site.machines.end(tunnel)


def test_the_sample_gives_the_same_rows_as_on_one_machine(
    site: Site, forward: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    corpus = site.shared / "corpus"
    part(tmp_path_factory.mktemp("whole"), corpus, share=4)
    file = site.shared / "sample.yaml"
    declared = (ROOT / "workloads/sample/sample.yaml").read_text()
    assert "corpus/" in declared
    file.write_text(declared.replace("corpus/", f"{corpus}/"))
    command = [BIN / "raycluster", "run", file, "--lake", site.shared / "once", "--json"]
    once = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    said = json.loads(site.desk(f"raycluster submit {file} --address {forward} --json"))
    assert (said["status"], said["objects"]) == ("done", once["objects"])
    assert site.ids(LAKE, "sample") == site.ids(str(site.shared / "once"), "sample")
    lines = json.loads(site.desk(f"raycluster costs --lake {LAKE} --run {said['run_id']} --by node,stage --json"))
    worked = {line["node"] for line in lines["lines"] if line["stage"] == "image"}
    assert len(worked) == 3  # the head runs no tasks


MOMENTS = {
    "decode": "before raycluster.decode.text:Text._pieces 5",
    "encode": "during raycluster.encode:Encode._attempt 2",
    "write": "during raycluster.lake.write:write_fragments 2",
}


@pytest.mark.parametrize("case", MOMENTS)
def test_a_machine_loses_power(site: Site, away: Away, case: str) -> None:
    with Reader(away) as reader:
        driver = away.start(WORKER_MOMENT=f"stop {MOMENTS[case]}")
        lost = away.stopped()
        site.machines.power_off(lost)
        began = time.monotonic()
        summary = away.end(driver)
        print(f"\nDEATH | a machine, in {case} | the run goes on | {time.monotonic() - began:.0f} s to its end |")
        site.machines.boot(lost)
    assert summary["status"] == "done"
    reader.require_nothing_wrong()
    away.require_undisturbed()
    gone = {line["node"] for line in reckoning.usage(away.lake, kind="unattributed")}
    assert len(gone) == 1
    assert len({line["node"] for line in reckoning.usage(away.lake)}) >= 3
    reckoning.require_law(away.lake)


def test_the_committers_own_machine_loses_power(site: Site, away: Away) -> None:
    away.on = "one"
    with Reader(away) as reader:
        driver = away.start(DRIVER_MOMENT="stop during lance:LanceDataset.commit 3")
        assert away.stopped() == "one"
        site.machines.power_off("one")
        site.machines.end(driver)
        away.on = "head"
        away.recover("the committer's machine")
        site.machines.boot("one")
    reader.require_nothing_wrong()


def test_machines_that_come_back_are_taken_in_again(site: Site) -> None:
    print(f"\nUP | all are back after {site.wait_for(*site.members):.0f} s more")


def test_down(site: Site) -> None:
    site.desk(f"ray down --yes {site.file}")
    until = time.monotonic() + PATIENCE
    while left := [name for name in site.members if "raylet" in site.machines.call(name, "ps ax -o comm")]:
        assert time.monotonic() < until, left
        time.sleep(2)
