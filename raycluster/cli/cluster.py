"""The verbs about a cluster itself, rather than the work on it: `raycluster cluster ...`.

A verb of it is written `@partial(verb, of=cluster)`.
"""

from __future__ import annotations

from raycluster.cli.frame import main


@main.group()
def cluster() -> None:
    """Check a cluster before it costs money, and account for all of it from its start."""
