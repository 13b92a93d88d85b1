"""A cluster file becomes shapes: that of a `ray up` file, or those of Kubernetes manifests."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from raycluster.cluster import kuberay, ray_up
from raycluster.cluster.look import Finding
from raycluster.cluster.shape import Shape
from raycluster.declare.document import Document, load_all


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """What a file holds: its documents, the clusters that they describe, and what cannot be read."""

    path: str
    documents: tuple[Document, ...]
    shapes: tuple[Shape, ...]
    findings: tuple[Finding, ...]


def load_cluster(path: str | Path) -> ClusterFile:
    """Read a cluster file.

    Raises:
        NotFound: no such file.
        InvalidFile: it is no YAML, or nothing that describes a cluster could be in it.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it notes of defaults would stand among the findings
    documents = load_all(path)
    is_manifest = any("apiVersion" in one.value for one in documents)
    if not is_manifest and len(documents) > 1:
        documents[1].report("a `ray up` file is one document", (), "one file a cluster")
        documents[1].finish()
    read = kuberay.read if is_manifest else ray_up.read
    pairs = [read(one) for one in documents]
    shapes = tuple(shape for shape, _ in pairs if shape)
    findings = tuple(one for _, found in pairs for one in found)
    if not shapes and not findings:
        first = documents[0]
        message = f"describes no cluster: neither a `ray up` file nor one of {', '.join(kuberay.KINDS)}"
        first.report(message, ("kind",), "a cluster file, as cluster.yaml or workloads/clusters/")
        first.finish()
    return ClusterFile(path=str(path), documents=tuple(documents), shapes=shapes, findings=findings)
