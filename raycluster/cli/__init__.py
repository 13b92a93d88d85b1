"""One command, `raycluster`: one function a verb. What is said to people is written in `terminal/`."""

from raycluster.cli import costs, frame, lake, packages, serve, work
from raycluster.cli.frame import NoLake, main

__all__ = ["NoLake", "costs", "frame", "lake", "main", "packages", "serve", "work"]
