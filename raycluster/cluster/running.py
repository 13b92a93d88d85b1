"""A shape becomes how its cluster would run: started as Ray understands, metered, of one version, over when idle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import metadata

import ray
from packaging.specifiers import SpecifierSet

from raycluster.cluster.look import Finding
from raycluster.cluster.shape import NodeType, Shape, Start
from raycluster.declare.document import At, nearest

_HOOK, _METER = "RAY_RUNTIME_ENV_HOOK", "raycluster.account.job.runtime_env"
_ACCOUNT = "raycluster cluster account"
_IMAGE = re.compile(r"(?:^|/)ray(?:-ml|-llm)?:(?:(\d+\.\d+\.\d+)[\w.]*?(?:-py3(\d+))?(?:-|$|@)|)")
_WHEEL = re.compile(r"\bray-(\d[\w.]*)-cp3(\d+)")
_PINNED = re.compile(r"\bray(?:\[[^\]]*\])?==(\d[\w.]*)")
_PYTHON = re.compile(r"(?:--python[= ](?:python)?|\bpython==?)3\.(\d+)\b")
_LONG_MINUTES = 60.0  # a node that did nothing for so long was paid for an hour


def troubles(shape: Shape) -> Iterator[Finding]:
    """Say what would not start, would not be accounted for, or would not end."""
    for names, start in shape.starts:
        yield from _options(shape, start)
        yield from _meter(shape, names, start)
    if not any(_ACCOUNT in command for command in shape.head.start.commands):
        what = "nothing accounts for the cluster between runs: idle time is on no bill"
        fix = f"`{_ACCOUNT} --lake URI` after the head's `ray start`"
        yield Finding("warning", what, shape.where(shape.head.start.at), fix)
    for one in shape.node_types:
        yield from _image(shape, one)
    yield from _versions(shape)
    yield from _idle(shape)


def _options(shape: Shape, start: Start) -> Iterator[Finding]:
    """Say what options `ray start` has not: on a node that is up already, it would end with an error."""
    if start.flags is None:
        yield Finding("problem", f"{start.at[0]} never start Ray", shape.where(start.at), "one is `ray start ...`")
    for name in (start.flags or {}).keys() - _known():
        where, fix = shape.where((*start.flags_at, name)), nearest(name, sorted(_known()))
        yield Finding("problem", f"`ray start` has no option --{name}", where, fix)


@cache
def _known() -> frozenset[str]:
    from ray.scripts.scripts import start

    return frozenset(one.lstrip("-") for parameter in start.params for one in parameter.opts)


def _meter(shape: Shape, names: str, start: Start) -> Iterator[Finding]:
    """Say where work would be done that no meter sees."""
    if start.environment.get(_HOOK) != _METER:
        what = f"{names}: no meter where Ray starts: jobs that others submit are billed to nobody"
        yield Finding("warning", what, shape.where(start.at), f"{_HOOK}={_METER} in the environment of `ray start`")


def _image(shape: Shape, one: NodeType) -> Iterator[Finding]:
    found = _IMAGE.search(one.image or "")
    if found is None:
        return
    place: At = (*one.at, "template", "spec", "containers", 0, "image") if shape.provider == "kuberay" else ("docker",)
    where, fix = shape.where(place), f"rayproject/ray:{ray.__version__}-py311, or an image of your own with it"
    if found[1] is None:
        yield Finding("warning", f"{one.image}: the tag holds no version, and changes", where, fix)
    elif found[1] != ray.__version__:
        yield Finding("problem", _other("Ray", found[1], ray.__version__), where, fix)
    if found[1] and found[2] is None:
        yield Finding("warning", f"{one.image}: the tag does not say which Python", where, fix)
    elif found[2] and f"3.{found[2]}" not in _pythons():
        yield Finding("problem", _other("Python", f"3.{found[2]}", str(_pythons())), where, fix)


def _versions(shape: Shape) -> Iterator[Finding]:
    """Say which other Ray or Python is named, in manifests and in commands: those that Ray adds of its own included."""
    if shape.spec.get("rayVersion", ray.__version__) != ray.__version__:
        what = _other("Ray", shape.spec["rayVersion"], ray.__version__)
        yield Finding("problem", what, shape.where((*shape.at, "rayVersion")), f'rayVersion: "{ray.__version__}"')
    places = {text: at for at, text in shape.document.texts.items()}
    for command in dict.fromkeys(one for each in shape.node_types for one in each.start.commands):
        at = places.get(command, ())
        where, fix = shape.where(at), "install requirements.txt, as cluster.yaml does"
        if not at:
            fix = f"Ray's own for {shape.provider}, as the file has no setup_commands: {fix}"
        rays = {*_PINNED.findall(command), *(version for version, _ in _WHEEL.findall(command))}
        pythons = {*_PYTHON.findall(command), *(minor for _, minor in _WHEEL.findall(command))}
        for version in sorted(rays - {ray.__version__}):
            yield Finding("problem", _other("Ray", version, ray.__version__), where, fix)
        for minor in sorted(one for one in pythons if f"3.{one}" not in _pythons()):
            yield Finding("problem", _other("Python", f"3.{minor}", str(_pythons())), where, fix)


def _other(what: str, found: str, wanted: str) -> str:
    return f"nodes would get {what} {found}, this package wants {wanted}"


@cache
def _pythons() -> SpecifierSet:
    return SpecifierSet(metadata("raycluster")["Requires-Python"])


def _idle(shape: Shape) -> Iterator[Finding]:
    """Say what goes on costing money when nothing is done."""
    if shape.provider == "local" or not any(one.most for one in shape.node_types if not one.is_head):
        return
    at: At = ("idle_timeout_minutes",)
    minutes = shape.spec.get("idle_timeout_minutes")
    if shape.provider == "kuberay":
        at = (*shape.at, "autoscalerOptions", "idleTimeoutSeconds")
        minutes = (shape.spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds", 60) / 60
        if shape.spec.get("enableInTreeAutoscaling") is not True:
            what = f"{shape.name} does not scale: its pods cost what they cost until it is deleted"
            fix = "enableInTreeAutoscaling: true"
            yield Finding("warning", what, shape.where((*shape.at, "enableInTreeAutoscaling")), fix)
        job = shape.document.value["spec"] if shape.kind == "RayJob" else {"shutdownAfterJobFinishes": True}
        if not job.get("shutdownAfterJobFinishes"):
            what = f"the cluster of {shape.name} stays when its job has ended"
            yield Finding("warning", what, shape.where(("spec",)), "shutdownAfterJobFinishes: true")
    elif at[0] not in shape.document.value:
        yield Finding("warning", f"no idle_timeout_minutes: Ray takes {minutes}", shape.where(()), "say it in the file")
    if minutes is not None and minutes > _LONG_MINUTES:
        what = f"idle nodes stay for {minutes:g} minutes"
        yield Finding("warning", what, shape.where(at), f"{_LONG_MINUTES:g} minutes or less: 5 is usual")
