"""One command, `raycluster`: one function a verb. What is said to people is written in `terminal/`."""

from raycluster.cli import frame, lake, packages, work
from raycluster.cli.frame import NoLake, main

__all__ = ["NoLake", "frame", "lake", "main", "packages", "work"]
