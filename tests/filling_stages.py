"""Private encoders for columns that come later: cheap, exact, and each with a revision."""

import os
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raycluster.encode import Encode


@dataclass(frozen=True, kw_only=True)
class Counting(Encode):
    """Writes a text's number of letters, times `scale`, into its own column and the shared one."""

    takes = "text"

    scale: float = 1.0
    width: int = 4
    seconds: float = 0.0  # that each text takes
    strict: bool = True

    @property
    def revision(self) -> str:
        return f"counting@{self.scale}"

    @property
    def writes(self) -> pa.Schema:
        vector = pa.list_(pa.float32(), self.width)
        return pa.schema([("counting", vector), ("vector", vector)])

    def encoder(self):
        def count(texts):
            if self.strict and any("RAISE" in text for text in texts):
                raise ValueError("it says so")
            if any("SEGFAULT" in text for text in texts):
                os.abort()
            time.sleep(self.seconds * len(texts))
            made = [np.full(self.width, len(text) * self.scale, np.float32) for text in texts]
            return {"counting": made, "vector": made}

        return count


@dataclass(frozen=True, kw_only=True)
class Colours(Encode):
    """Writes a picture's mean colour."""

    takes = "pixels"

    scale: float = 1.0

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([("colours", pa.list_(pa.float32(), 3)), ("vector", pa.list_(pa.float32(), 4))])

    def encoder(self):
        def mean(pixels):
            means = [one.reshape(-1, 3).mean(0).astype(np.float32) * self.scale for one in pixels]
            return {"colours": means, "vector": [np.append(one, np.float32(1)) for one in means]}

        return mean


@dataclass(frozen=True, kw_only=True)
class Titling(Encode):
    """Writes a text for a picture, as recognising letters or speech does; none for a dark one."""

    takes = "pixels"

    word: str = "picture"

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([("text", pa.string())])

    def encoder(self):
        return lambda pixels: {"text": [f"{self.word} {one.mean():.0f}" if one.mean() > 80 else None for one in pixels]}
