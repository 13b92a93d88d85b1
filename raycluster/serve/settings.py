"""What `raycluster serve` and a Serve config file say becomes one value, which every replica is given."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from raycluster.govern.gate import Rules
from raycluster.lake.lake import DEFAULT

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve a lake. These are the `args` of the application in a Serve config file."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    lake: str = DEFAULT
    rules: Rules = Rules()
    # What `POST /v1/data` may fetch by uri: prefixes such as `s3://bucket/photos/`. None at all unless named: otherwise
    # whoever may add objects could read every file and address that this machine can.
    sources: tuple[str, ...] = ()
    most_body: Annotated[int, Field(gt=0)] = 64 * _MIB  # bytes of a request other than an upload
    most_upload: Annotated[int, Field(gt=0)] = 1024 * _MIB  # bytes of an upload
    timeout: Annotated[float, Field(gt=0)] = 30.0  # seconds a request may take
    at_once: Annotated[int, Field(gt=0)] = 64  # requests that one replica works on
    waiting: Annotated[int, Field(ge=0)] = 256  # requests that wait in one replica; more are refused with 429
    follow: Annotated[float, Field(gt=0)] = 1.0  # seconds between two looks at the tag `live`
    # Bytes of vectors, and of what is shown of their rows, that a machine's replicas hold in memory; 0: none. What does
    # not fit is searched through Lance's index.
    hot: Annotated[int, Field(ge=0)] = 1024 * _MIB
    gateways: Annotated[int, Field(gt=0)] = 1  # replicas at least
    most_gateways: Annotated[int, Field(gt=0)] = 4

    @classmethod
    def read(cls, args: Any) -> Settings:
        """Return the settings in the args of a Serve config file."""
        return TypeAdapter(cls).validate_python(args)

    def write(self) -> dict[str, Any]:
        """Return them as a Serve config file has them."""
        found: dict[str, Any] = TypeAdapter(Settings).dump_python(self, mode="json", exclude_defaults=True)
        return found
