"""An object of S3 becomes a link that anybody may follow for some minutes, without passing through this application.

Credentials, region and endpoint are those that the reader uses (`_arrow.py`). A link holds for whatever lies at the
key when it is followed.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from raycluster.errors import InvalidUse
from raycluster.read._arrow import endpoint_and_region
from raycluster.stage import need

_FIX = "leave `link` out: the bytes come through this application"


def sign(uri: str, *, seconds: int, media_type: str, disposition: str) -> str:
    """Return a link to an object.

    Args:
        uri: of the object.
        seconds: how long the link holds.
        media_type: what the store is to call it.
        disposition: whether and under what name a browser is to save it, as `Content-Disposition`.

    Raises:
        InvalidUse: its store has no links, or there are no credentials to sign with.
        MissingPackage: botocore, which signs, is not installed.
    """
    scheme, _, path = uri.partition("://")
    if scheme != "s3":
        raise InvalidUse(f"there are no links to {scheme}:// objects", where="link", fix=_FIX)
    bucket, _, key = path.partition("/")
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"):
        raise InvalidUse("objects are read without credentials, so that no link can be signed", where="link", fix=_FIX)
    client = _client(*endpoint_and_region(bucket))
    asked = {
        "Bucket": bucket,
        "Key": key,
        "ResponseContentType": media_type,
        "ResponseContentDisposition": disposition,
    }
    try:
        return str(client.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds))
    except need("botocore.exceptions", "botocore").BotoCoreError as error:
        raise InvalidUse(f"the link cannot be signed: {error}", where="link", fix=_FIX) from error


@lru_cache(maxsize=16)
def _client(endpoint: str | None, region: str) -> Any:
    # Other makers' endpoints have one name for all buckets, as the reader takes them.
    style = {"addressing_style": "path" if endpoint else "virtual"}
    settings = need("botocore.config", "botocore").Config(signature_version="s3v4", s3=style)
    session = need("botocore.session", "botocore").get_session()
    return session.create_client("s3", region_name=region, endpoint_url=endpoint, config=settings)
