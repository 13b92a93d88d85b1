"""A lake becomes the keeper of keys that only its servers know: made once, the same for every replica.

A key lies in the metadata of an empty dataset, because creating one is put-if-absent on every store that Lance knows
(`store.create`): of two replicas that start together, both read the key of the one that came first. On a disk only
the owner may enter the folder; in a bucket give readers of datasets no access to `_secrets/`. To change a key, delete
its dataset and start the servers anew.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from raycluster.lake import store
from raycluster.lake.lake import Lake

_KEY = b"raycluster:key"
_BYTES = 32


def secret(lake: Lake, name: str) -> bytes:
    """Return a lake's key of that name, made now if it has none.

    Raises:
        LakeError: it can be neither read nor made.
    """
    return _secret(lake.uri, name)


@lru_cache(maxsize=16)
def _secret(lake: str, name: str) -> bytes:
    if "://" not in lake:
        with store.explained(lake, "write to"):
            Path(lake, "_secrets").mkdir(mode=0o700, parents=True, exist_ok=True)
    uri = f"{lake}/_secrets/{name}.lance"
    store.create(uri, pa.schema([("nothing", pa.null())], metadata={_KEY: secrets.token_bytes(_BYTES).hex().encode()}))
    found: bytes = store.open_dataset(uri).schema.metadata[_KEY]
    return bytes.fromhex(found.decode())
