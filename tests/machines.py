"""One machine becomes several: each with processes, network, mounts, shared memory, files and an sshd of its own.

A machine is a control group of one core at most and a set of namespaces, whose root is a layer over this machine's:
packages are there, and what is written stays within it. Pulling its plug kills its first process, and with it the
kernel kills all the others. They are joined by a bridge of their own, and reach nothing else. A folder is shared by
all, as a file server's would be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DESK = "desk"  # whence clusters are launched: no Ray runs there
NEEDED = ("ip", "unshare", "nsenter", "/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync", "screen")
_SUBNET = "10.88.0"
_START_SECONDS = 30.0

# What a machine's first process does, before it becomes its sshd. The overlay is of this machine's own root.
_BOOT = """
set -e
for group in {groups}; do
  mkdir -p $group/{net}
  [ ! -e $group/{net}/cpu.cfs_quota_us ] || echo 100000 > $group/{net}/cpu.cfs_quota_us
  echo 0 > $group/{net}/cgroup.procs
done
ip link set lo up
ip route replace default dev eth0   # else Ray takes 127.0.0.1 for this machine's address
hostname {name}
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir={own}/upper,workdir={own}/work {own}/root
mount --rbind /dev {own}/root/dev
mount -t tmpfs -o size=3g tmpfs {own}/root/dev/shm
mount -t proc proc {own}/root/proc
mount --rbind /sys {own}/root/sys
for group in {groups}; do mount --bind $group/{net} {own}/root$group; done
mount -t tmpfs tmpfs {own}/root/run
mkdir -p {own}/root/run/sshd
mount -t tmpfs tmpfs {own}/root/tmp
for same in {same}; do mkdir -p {own}/root$same; mount --bind $same {own}/root$same; done
install -m 600 {folder}/key {own}/root/root/.ssh/id_machines
install -m 600 {folder}/key.pub {own}/root/root/.ssh/authorized_keys
install -m 600 {folder}/host {own}/root/run/sshd/host
[ -e {own}/upper/root/.bashrc ] || cp {folder}/profile {own}/root/root/.bashrc
exec chroot {own}/root /usr/sbin/sshd -D -e -h /run/sshd/host \\
  -o UsePAM=no -o PidFile=none -o StrictModes=no -o MaxStartups=100 -o UseDNS=no
"""


# What a machine is made of, in spaces that end with it.
_TRIAL = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
ip link add one type veth peer name other
ip link add bridge type bridge
"""


def refusal() -> str:
    """Return why machines cannot be had here, or nothing."""
    if os.geteuid() != 0:
        return "machines of their own need root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*spaces, "sh", "-ec", _TRIAL], capture_output=True, text=True, check=False)
    return f"machines of their own are refused: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(kw_only=True)
class Machines:
    """Machines by name, `desk` first; addresses are given in the order of names."""

    folder: Path
    names: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)  # of every shell on them
    booted: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    entered: dict[str, list[subprocess.Popen[str]]] = field(default_factory=dict)  # commands that were begun on each

    def __enter__(self) -> Machines:
        (self.folder / "shared").mkdir(parents=True)
        for key in ("key", "host"):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        told = {"PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", **self.environment}
        (self.folder / "profile").write_text("".join(f"export {name}={value!r}\n" for name, value in told.items()))
        _call("ip", "netns", "add", self._net("switch"))
        _call("ip", "-n", self._net("switch"), "link", "add", "bridge", "type", "bridge")
        _call("ip", "-n", self._net("switch"), "link", "set", "bridge", "up")
        try:
            for name in (DESK, *self.names):
                self._install(name)
                self._plug_in(name)
                self.boot(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.booted):
            self.power_off(name)
        for name in ("switch", DESK, *self.names):
            subprocess.run(["ip", "netns", "del", self._net(name)], capture_output=True, check=False)
            subprocess.run(["umount", "--lazy", self.folder / name], capture_output=True, check=False)
            for group in _groups():
                with suppress(OSError):
                    (group / self._net(name)).rmdir()

    def address(self, name: str) -> str:
        """Return a machine's IP address."""
        return f"{_SUBNET}.{10 + (DESK, *self.names).index(name)}"

    @property
    def shared(self) -> Path:
        """Return the folder that all machines have, and this one too, at the same path."""
        return self.folder / "shared"

    def boot(self, name: str) -> None:
        """Start a machine: with its disk as it left it, and with nothing in /tmp."""
        own = self.folder / name
        self._plug(name, "up")
        script = self.folder / f"{name}.sh"
        found = {"own": own, "folder": self.folder, "net": self._net(name), "groups": " ".join(map(str, _groups()))}
        here = [path for path in (ROOT, BIN.parent) if path.is_relative_to("/tmp")]  # which a machine has for itself
        found["same"] = " ".join(map(str, [self.shared, *here]))
        script.write_text(_BOOT.format(name=name, **found))
        spaces = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child", "--mount-proc"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.booted[name] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._net(name)}", *spaces, "bash", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_SECONDS
        while self.run(name, "bash -c '</dev/tcp/127.0.0.1/22'").returncode != 0:
            assert time.monotonic() < until, (self.folder / f"{name}.log").read_text()
            time.sleep(0.05)

    def power_off(self, name: str) -> None:
        """Pull a machine's plug: all that ran on it is gone at once, and what lay on its disks."""
        self._plug(name, "down")  # else its kernel would tell everybody that nobody is there any more
        first, outer = self._first(name), self.booted.pop(name)
        with suppress(ProcessLookupError):
            os.kill(first or outer.pid, signal.SIGKILL)
        for command in self.entered.pop(name, ()):
            if command.poll() is None:  # it stands still where what it watches did, and has to see that end
                os.kill(command.pid, signal.SIGCONT)
        outer.wait(timeout=_START_SECONDS)

    def of(self, pid: int) -> str:
        """Return the machine on which a process runs, whose pid is that seen from here."""
        own = os.readlink(f"/proc/{pid}/ns/net")
        return next(name for name in self.booted if os.readlink(f"/proc/{self._first(name)}/ns/net") == own)

    def run(
        self, name: str, command: str, *, timeout: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Carry out a shell command on a machine, in a login of its own."""
        started = self.start(name, command, **environment)
        try:
            out, err = started.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            out, err = self.end(started)
            raise AssertionError(f"{name}: {command}: not done in {timeout:.0f} s\n{out}\n{err}") from late
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def start(self, name: str, command: str, **environment: str) -> subprocess.Popen[str]:
        """Begin a shell command on a machine."""
        first = self._first(name)
        enter = ["nsenter", "-t", str(first), "-m", "-p", "-u", "-i", "-n", "-r", "-w"] if first else ["false"]
        joined = "; ".join(f"echo 0 > {group / self._net(name)}/cgroup.procs" for group in _groups())
        told = {"HOME": "/root", "USER": "root", "TERM": "dumb", "LANG": "C.UTF-8", **environment}
        login = ["env", "-i", *(f"{key}={value}" for key, value in told.items()), "bash", "-c"]
        begun = subprocess.Popen(
            ["sh", "-c", f'{joined}; exec "$@"', "sh", *enter, *login, f". /root/.bashrc; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        going = [one for one in self.entered.get(name, ()) if one.poll() is None]
        self.entered[name] = [*going, begun]
        return begun

    def end(self, started: subprocess.Popen[str]) -> tuple[str, str]:
        """End a command at once, with all that it has started; return what it said."""
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # `nsenter` alone would leave what it has entered with
        return started.communicate()

    def call(self, name: str, command: str, *, timeout: float = 120.0, **environment: str) -> str:
        """Carry out a shell command that must not fail; return what it says."""
        done = self.run(name, command, timeout=timeout, **environment)
        assert done.returncode == 0, f"{name}: {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _first(self, name: str) -> int:
        """Return the pid, seen from here, of a machine's first process; 0: there is none."""
        pid = self.booted[name].pid
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                return int(child)
        return 0

    def _install(self, name: str) -> None:
        """Give a machine a disk, on which nothing is to be seen of what this machine's user keeps to itself."""
        own = self.folder / name
        own.mkdir()
        _call("mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", str(own))
        for part in ("upper/root", "work", "root"):
            (own / part).mkdir(parents=True)
        for hidden in (".ray", ".ssh", ".aws"):
            (own / "upper/root" / hidden).mkdir(mode=0o700)
            os.setxattr(own / "upper/root" / hidden, "trusted.overlay.opaque", b"y")

    def _plug_in(self, name: str) -> None:
        switch, net = self._net("switch"), self._net(name)
        _call("ip", "netns", "add", net)
        _call("ip", "-n", switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", net)
        _call("ip", "-n", switch, "link", "set", name, "master", "bridge")
        _call("ip", "-n", net, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _call("ip", "-n", net, "link", "set", "eth0", "up")

    def _plug(self, name: str, state: str) -> None:
        _call("ip", "-n", self._net("switch"), "link", "set", name, state)

    def _net(self, name: str) -> str:
        return f"rc{os.getpid()}-{name}"


def _groups() -> list[Path]:
    """Return where control groups are made that count and bound what a machine uses, of version 1 or 2."""
    root = Path("/sys/fs/cgroup")
    return [root / one for one in ("cpu", "cpuacct") if (root / one).is_dir()] or [root]


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
