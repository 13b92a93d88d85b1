"""Who has not the token, or not the certificate, gets nothing from a cluster of two nodes; who has both, works on it.

What TLS covers is told by Ray's ports themselves: a handshake, and who is sent away from it.
"""

import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import ray
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from heads import RAY, Head, free_port, head

pytestmark = pytest.mark.slow
# More than what travels inside a message: the nodes' object stores exchange it.
_WORK = """
import json, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
@ray.remote(resources={"second": 0.1})
def there(): return bytes(2_000_000)
print(json.dumps([len(ray.get(there.remote())), [node["Alive"] for node in ray.nodes()]]))
"""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # as every call of gRPC begins


@dataclass(frozen=True)
class Authority:
    """A certificate authority of this test's own, and what it signed."""

    folder: Path

    def __post_init__(self):
        key, name = ec.generate_private_key(ec.SECP256R1()), self._name("raycluster test authority")
        self._keep("ca", key, self._signed(name, name, key.public_key(), key, ca=True))
        own = ec.generate_private_key(ec.SECP256R1())
        self._keep("node", own, self._signed(self._name("node"), name, own.public_key(), key, ca=False))

    @staticmethod
    def _name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    @staticmethod
    def _signed(subject, issuer, public, key, *, ca):
        now = datetime.now(UTC)
        addresses = {"127.0.0.1", ray.util.get_node_ip_address()}
        names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses)]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256())
        )

    def _keep(self, name, key, certificate):
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(secret)
        (self.folder / f"{name}.key").chmod(0o600)
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def environment(self):
        """As docs/cluster.md has it."""
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(self.folder / "node.crt"),
            "RAY_TLS_SERVER_KEY": str(self.folder / "node.key"),
            "RAY_TLS_CA_CERT": str(self.folder / "ca.crt"),
        }


@dataclass(frozen=True)
class Two:
    """A cluster of two nodes, with token and TLS: its second node's ports, by their names of `ray start`."""

    head: Head
    authority: Authority
    ports: dict[str, int]

    def work(self, **changed):
        """Return a driver that uses both nodes."""
        told = {**self.head.environment, **self.authority.environment, **changed}
        command = [sys.executable, "-c", _WORK, f"127.0.0.1:{self.head.port}"]
        return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def greet(self, port, how):
        """Say hello to a port as a client of gRPC does, and return what it is to that."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            if how == "in the clear":
                return self._answer(plain)
            context = ssl.create_default_context(cafile=self.authority.folder / "ca.crt")
            context.set_alpn_protocols(["h2"])
            if how == "with a certificate":
                context.load_cert_chain(self.authority.folder / "node.crt", self.authority.folder / "node.key")
            try:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as speaking:
                    return self._answer(speaking)
            except ssl.SSLError:  # of TLS 1.3, also where the certificate is missed: the client has spoken by then
                return "refuses"

    @staticmethod
    def _answer(connection):
        connection.sendall(_HELLO)
        try:
            return "answers" if connection.recv(1)[:1] == b"\x00" else "refuses"  # a frame of HTTP/2, or the end
        except ConnectionError:
            return "refuses"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("tls"))
    ports = {name: free_port() for name in ("object-manager", "node-manager", "metrics-export", "agent")}
    with head(cpus=1, environment=authority.environment) as first:
        command = [RAY, "start", "--block", f"--address=127.0.0.1:{first.port}", "--node-ip-address=127.0.0.1"]
        command += ["--num-cpus=1", '--resources={"second": 1}', "--disable-usage-stats"]
        command += [f"--{name}-port={ports[name]}" for name in ("object-manager", "node-manager", "metrics-export")]
        command += [f"--dashboard-agent-listen-port={ports['agent']}"]
        with (first.folder / "second").open("wb") as said:
            told = {**first.environment, **authority.environment}
            second = subprocess.Popen(command, env=told, stdout=said, stderr=subprocess.STDOUT)
        try:
            yield Two(first, authority, ports)
        finally:
            children = psutil.Process(second.pid).children(recursive=True) if second.poll() is None else []
            second.terminate()
            second.wait(60)
            for one in psutil.wait_procs(children, timeout=20)[1]:
                one.kill()


def test_who_has_both_works_on_both_nodes(two):
    until = time.monotonic() + 90
    while True:
        driver = two.work()
        out, said = driver.communicate(timeout=90)
        if driver.returncode == 0:
            break
        assert time.monotonic() < until, said
    assert json.loads(out) == [2_000_000, [True, True]]


def test_a_driver_without_the_token_is_refused(two, tmp_path):
    (tmp_path / "token").write_text("0" * 64)
    drivers = [two.work(RAY_AUTH_MODE="disabled"), two.work(RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))]
    for driver in drivers:
        out, said = driver.communicate(timeout=90)
        assert (driver.returncode, out) == (1, "")
        assert "Authentication token is missing or incorrect" in said


@pytest.mark.parametrize("name", ["gcs", "object-manager", "node-manager"])
def test_calls_and_objects_go_by_tls_and_want_a_certificate(two, name):
    port = {"gcs": two.head.port, **two.ports}[name]
    assert two.greet(port, "with a certificate") == "answers"
    assert two.greet(port, "without a certificate") == "refuses"
    assert two.greet(port, "in the clear") == "refuses"


def test_what_speaks_http_does_so_in_the_clear(two):
    """As docs/cluster.md says: Ray's TLS is of its calls. The dashboard keeps to loopback, metrics know no token."""
    for port in (two.ports["agent"], two.ports["metrics-export"], int(two.head.dashboard.rpartition(":")[2])):
        assert two.greet(port, "with a certificate") == "refuses"
    metrics = requests.get(f"http://127.0.0.1:{two.ports['metrics-export']}/metrics", timeout=10)
    assert metrics.ok
    assert "ray_" in metrics.text


@pytest.mark.parametrize("path", ["/api/jobs/", "/nodes?view=summary", "/api/v0/actors"])
def test_dashboard_and_job_api_want_the_token(two, path):
    url = f"{two.head.dashboard}{path}"
    assert requests.get(url, headers={"Authorization": f"Bearer {two.head.token}"}, timeout=30).ok
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, headers={"Authorization": "Bearer " + "0" * 64}, timeout=10).status_code == 403


def test_no_job_is_taken_without_the_token(two):
    job = {"entrypoint": "touch /tmp/this-must-not-run"}
    assert requests.post(f"{two.head.dashboard}/api/jobs/", json=job, timeout=10).status_code == 401
    agent = f"http://127.0.0.1:{two.ports['agent']}"
    assert requests.post(f"{agent}/api/job_agent/jobs/", json=job, timeout=10).status_code == 401
    assert requests.get(f"{agent}/api/local_raylet_healthz", timeout=10).ok
