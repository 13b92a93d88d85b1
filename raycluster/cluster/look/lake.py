"""The lake becomes findings: its store answers, lets us list, write, commit and delete, and what lies there opens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from raycluster.cluster.look import Finding, Level, Site
from raycluster.cluster.look._endpoint import ask, endpoint
from raycluster.units import show_bytes

_SLOW_SECONDS = 0.5  # a request: a commit makes several, one after the other
_MOST_DATASETS = 50
_FEW_BYTES, _TOO_FEW_BYTES = 20 * 10**9, 10**9
_CODE = re.compile(r"<Code>(\w+)</Code>")
_RENEW = "renew the credentials (aws sso login, or a new session token), and give every node the same ones"
_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the instance's role"
_CODES = {
    "AccessDenied": "allow this identity s3:ListBucket on the bucket, s3:GetObject, PutObject and DeleteObject in it",
    "AllAccessDisabled": "the bucket's owner has closed it: ask them",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "ExpiredToken": _RENEW,
    "InvalidAccessKeyId": _KEYS,
    "InvalidToken": _RENEW,
    "NoSuchBucket": "make the bucket, or mend its name in --lake or RAYCLUSTER_LAKE",
    "RequestTimeTooSkewed": "this machine's clock is wrong: timedatectl set-ntp true, or install chrony",
    "SignatureDoesNotMatch": _KEYS,
    "SlowDown": "the store throttles: wait, or ask for more requests a second",
    "TokenRefreshRequired": _RENEW,
}
# What Lance says where there is no code of S3: the words, what it means, what to do.
_WORDS = (
    ("configured region", "the bucket lies in another region", "set AWS_REGION to the bucket's region"),
    ("169.254.169.254", "there are no credentials: none in the environment, and no instance's role", _KEYS),
    ("redential", "there are no credentials that hold", _KEYS),
)
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "beegfs"}
_PASSING = {"tmpfs": "memory, and gone with the next start", "overlay": "a container's own layer, and gone with it"}


def look(site: Site) -> Iterator[Finding]:
    """Try the lake as a run would use it."""
    if "://" in site.lake:
        yield from _remote(site.lake)
    else:
        yield from _local(Path(site.lake).expanduser().absolute())


def _remote(uri: str) -> Iterator[Finding]:
    if url := endpoint(uri):
        try:
            seconds = ask(url).seconds
        except OSError as error:
            fix = "check the endpoint (off AWS, AWS_ENDPOINT_URL), the proxy (HTTPS_PROXY), and the way there"
            yield Finding("problem", f"the store does not answer: {error}", url, fix)
            return
        yield Finding("ok", f"the store answers in {seconds * 1000:.0f} ms", url)
    yield from _tried(uri, uri)


def _local(path: Path) -> Iterator[Finding]:
    place = path
    while not place.exists():
        place = place.parent
    if place != path:
        yield Finding("note", "there is no lake yet; the first run makes it", str(path))
    elif not path.is_dir():
        fix = "name a folder with --lake or RAYCLUSTER_LAKE"
        yield Finding("problem", "it is not a folder, so it cannot be a lake", str(path), fix)
        return
    kind = _file_system(place)
    if kind in _REMOTE or kind.startswith("fuse"):
        what = f"it lies on {kind}: what several machines write there rests on locks and renames of that server"
        yield Finding("warning", what, str(path), "where several nodes write, keep the lake on an object store")
    elif kind in _PASSING:
        fix = "keep it on a disk or an object store: --lake, RAYCLUSTER_LAKE"
        yield Finding("warning", f"it lies in {_PASSING[kind]}", str(path), fix)
    yield from _room(path, place)
    yield from _tried(str(path), str(place))


def _room(path: Path, place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    if free < _FEW_BYTES:
        what = f"{show_bytes(free)} are free on its disk"
        level: Level = "problem" if free < _TOO_FEW_BYTES else "warning"
        yield Finding(level, what, str(path), "free space there: raycluster gc DATASET, or move the lake")


def _tried(uri: str, place: str) -> Iterator[Finding]:
    """Try a place out, then open what lies in the lake."""
    from raycluster.errors import LakeError
    from raycluster.lake.trial import NotExclusive, trial

    steps: dict[str, float] = {}
    try:
        for step, seconds in trial(place):
            steps[step] = seconds
    except NotExclusive as error:
        yield Finding("problem", error.message, uri, error.fix)
        return
    except LakeError as error:
        yield _refused(error, uri, list(steps))
        return
    told = ", ".join(f"{step} {seconds * 1000:.0f} ms" for step, seconds in steps.items())
    if max(steps[step] for step in ("list", "write", "read")) > _SLOW_SECONDS:
        fix = "run in the store's region, or look at the network between"
        yield Finding("warning", f"it works, and is slow: {told}", uri, fix)
    else:
        yield Finding("ok", f"it can be used: {told}; only one of several writers at once makes a version", uri)
    if uri == place:
        yield from _datasets(uri)


def _refused(error: Exception, uri: str, done: list[str]) -> Finding:
    """Say why a step failed, in the store's own word where it has one."""
    from raycluster.errors import LakeError

    assert isinstance(error, LakeError)
    doing = error.message.partition(" ")[2].partition(f" {uri}")[0]
    worked = f"; {', '.join(done)} worked" if done else ""
    if code := _CODE.search(error.message):
        return Finding("problem", f"cannot {doing} it: {code[1]}{worked}", uri, _CODES.get(code[1], error.fix))
    for words, meaning, fix in _WORDS:
        if words in error.message:
            return Finding("problem", f"cannot {doing} it: {meaning}{worked}", uri, fix)
    return Finding("problem", f"{error.message}{worked}", uri, error.fix)


def _datasets(uri: str) -> Iterator[Finding]:
    from raycluster.errors import RayclusterError
    from raycluster.lake.lake import Lake

    lake = Lake(uri)
    names = lake.datasets()
    for name in names[:_MOST_DATASETS]:
        try:
            lake.table(name).version()
        except RayclusterError as error:
            yield Finding("problem", error.message, uri, error.fix)
    if names:
        more = ", ..." if len(names) > len(names[:5]) else ""
        yield Finding("ok", f"datasets that are there: {len(names)} ({', '.join(names[:5])}{more})", uri)


def _file_system(place: Path) -> str:
    """Return the type of the file system that a path lies on, as the kernel's list of mounts names it (proc(5))."""
    found, longest = "", -1
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4].encode().decode("unicode_escape"))
        if place.resolve().is_relative_to(mount) and len(mount.parts) >= longest:
            found, longest = right.split()[0], len(mount.parts)
    return found
