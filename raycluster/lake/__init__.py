"""Rows become versioned Lance tables: written by workers, committed by the driver, indexed, searched.

The only folder that imports lance. `lake.py` names the places; `table.py` is one dataset; `write.py` runs on workers;
`commit.py` holds the protocol; `index.py`, `query.py`, `quarantine.py` and `runs.py` each do what they are called.
"""

from __future__ import annotations

import os

# Lance's Rust side logs deprecation notes to stderr, in the middle of what people read; it looks here when imported.
os.environ.setdefault("LANCE_LOG", "error")
# Statistics of an index need not carry its centroids: 12 MB at 8,192 partitions of 384 dimensions.
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
