"""One command, `raycluster`: one function a verb. What is said to people is written in `terminal/`."""

from raycluster.cli import access, cluster, costs, deploy, doctor, frame, jobs, lake, logs, packages, serve, work
from raycluster.cli.frame import NoLake, main

__all__ = [
    "NoLake",
    "access",
    "cluster",
    "costs",
    "deploy",
    "doctor",
    "frame",
    "jobs",
    "lake",
    "logs",
    "main",
    "packages",
    "serve",
    "work",
]
