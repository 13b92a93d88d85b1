"""Stages are found by file name, named by digest, and ended when they hang."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pytest

from raycluster import stage
from raycluster.encode.minilm import Minilm
from raycluster.errors import InvalidUse, MissingPackage, NotFound
from raycluster.stage import Stage
from raycluster.units import Resources

ROOT = Path(__file__).parent.parent
FAMILIES = ("read", "decode", "encode", "check")


@dataclass(frozen=True, kw_only=True)
class Shout(Stage):
    """Makes text loud."""

    times: int = 1
    model: str = ""

    @property
    def revision(self) -> str:
        return self.model

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([("text", pa.string())])

    def open(self):
        return lambda rows: rows


@dataclass(frozen=True, kw_only=True)
class Whisper(Shout):
    """Makes text quiet."""


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_file_of_a_family_is_a_member(family: str) -> None:
    files = {path.stem for path in (ROOT / "raycluster" / family).glob("*.py") if not path.stem.startswith("_")}
    assert set(stage.names(family)) == files
    for name in files:
        found = stage.find(family, name)
        assert found.__module__ == f"raycluster.{family}.{name}"
        assert found.__doc__


def test_listing_imports_no_member() -> None:
    script = f"""
        import sys
        from raycluster import stage
        for family in {FAMILIES}:
            assert stage.names(family)
        print(*sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=True)
    members = {f"raycluster.{family}.{name}" for family in FAMILIES for name in stage.names(family)}
    assert not members & set(done.stdout.split())


@pytest.mark.parametrize(
    ("family", "name", "fix"),
    [
        ("encode", "minilmm", "did you mean 'minilm'?"),
        ("decode", "imag", "did you mean 'image'?"),
        ("encode", "qqqq", "known: "),
        ("encode", "_minilm", "minilm"),
        ("encode", "", "known: "),
    ],
)
def test_an_unknown_name_gets_the_nearest(family: str, name: str, fix: str) -> None:
    with pytest.raises(NotFound) as caught:
        stage.find(family, name)
    assert fix in caught.value.fix


def test_a_family_that_is_none_has_no_members() -> None:
    assert stage.names("bake") == []
    assert "known: none" in stage.unknown("x", "y", []).fix


def test_a_private_stage_is_found_by_its_import_path() -> None:
    import private_stages

    assert stage.find("encode", "private_stages:Marking") is private_stages.Marking


@pytest.mark.parametrize("name", ["no_such_module:Stage", "private_stages:Nothing"])
def test_a_private_stage_that_is_not_there(name: str) -> None:
    with pytest.raises(InvalidUse, match="cannot be imported") as caught:
        stage.find("encode", name)
    assert "PYTHONPATH" in caught.value.fix


@pytest.mark.parametrize("name", ["pathlib:Path", "os:getcwd", "private_stages:Marking:more", ":Marking", "os:"])
def test_what_is_no_stage_is_refused(name: str) -> None:
    with pytest.raises(InvalidUse):
        stage.find("encode", name)


def test_a_missing_package_names_its_installation() -> None:
    assert stage.need("os", '"raycluster[x]"') is os
    with pytest.raises(MissingPackage, match="no_such_package is not installed") as caught:
        stage.need("no_such_package", '"raycluster[x]"')
    assert caught.value.fix == 'pip install "raycluster[x]"'


# --- digests ---------------------------------------------------------------------------------------------------------


def test_a_digest_changes_with_what_is_made_and_not_with_where_it_runs() -> None:
    digest = Shout().digest
    assert len(digest) == 16
    assert Shout(needs=Resources(cpu=4, gpu=1), timeout=1.0).digest == digest
    assert Minilm(batch=1, actors=3).digest == Minilm().digest
    different = [Shout(times=2), Shout(model="loud@1"), Shout(model="loud@2"), Whisper()]
    assert len({digest, *(one.digest for one in different)}) == 5


def test_a_digest_is_the_same_in_every_process() -> None:
    script = "from raycluster.encode.minilm import Minilm; print(Minilm().digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {Minilm().digest}


def test_a_stage_is_called_like_its_file() -> None:
    assert Minilm().name == "minilm"


# --- watching --------------------------------------------------------------------------------------------------------


def ended(script: str) -> tuple[int, str, float]:
    """Run a script that imports what it needs to hang; return its exit status, stdout and seconds."""
    head = "import ctypes, time\nfrom raycluster.stage import arm_watch, watch\nheld = ctypes.PyDLL(None).sleep\n"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", head + dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, time.monotonic() - started


def test_an_armed_process_that_hangs_in_c_is_ended() -> None:
    # `held` sleeps in C and keeps the interpreter's lock: no thread and no Python signal handler could run.
    status, out, seconds = ended("""
        arm_watch()
        with watch(0.5):
            print("in", flush=True)
            held(50)
        print("out")
    """)
    assert (status, out) == (-signal.SIGALRM, "in\n")
    assert seconds < 20


def test_an_unarmed_process_is_left_alone() -> None:
    status, out, _ = ended("""
        with watch(0.2):
            time.sleep(0.6)
        print("out")
    """)
    assert (status, out) == (0, "out\n")


def test_what_ends_in_time_is_not_ended_later() -> None:
    status, out, _ = ended("""
        arm_watch()
        with watch(0.3):
            pass
        try:
            with watch(0.3):
                raise ValueError
        except ValueError:
            time.sleep(0.8)
        print("out")
    """)
    assert (status, out) == (0, "out\n")


def test_an_inner_watch_gives_its_block_its_own_time_and_the_outer_goes_on_after_it() -> None:
    status, out, seconds = ended("""
        arm_watch()
        with watch(0.5):
            with watch(30):
                time.sleep(1)
            print("inner is over", flush=True)
            held(50)
    """)
    assert (status, out) == (-signal.SIGALRM, "inner is over\n")
    assert seconds < 20
