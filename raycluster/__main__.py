"""`python -m raycluster` is the command `raycluster`."""

from raycluster.cli import main

main()
