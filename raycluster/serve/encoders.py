"""Questions become vectors in a deployment of their own: models live there, and gateways stay small and many.

Texts that arrive while others are embedded go through the model together; nobody waits for company. A gateway
remembers what it has asked for: an embedding tells nothing of the lake, so that it may serve whoever asks the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ray import serve

from raycluster.errors import RayclusterError
from raycluster.lake.follow import Follower
from raycluster.lake.lake import Lake
from raycluster.search import Embedded, Question, embed, embed_texts
from raycluster.serve import trace
from raycluster.serve.call import called
from raycluster.serve.settings import Settings

log = logging.getLogger(__name__)

Embed = Callable[[str, "int | str", Question], Awaitable[Embedded]]

_MOST_TOGETHER = 32  # texts; beyond that MiniLM on CPU gains nothing more
_REMEMBERED = 4096  # embeddings a gateway: 8 MB at 384 dimensions
_MOST_WARMED = 32  # datasets whose encoders are opened before the first question


@serve.deployment(
    name="encoders", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=256, graceful_shutdown_wait_loop_s=0.2
)
class Encoders:
    """Embeds questions, with the encoders that made the dataset."""

    def __init__(self, settings: Settings) -> None:
        self.follower = Follower(Lake(settings.lake), every=settings.follow)
        self.follower.start()
        for name in self.follower.lake.datasets()[:_MOST_WARMED]:
            try:
                embed_texts(self.follower.table(name), "live", ["warm"])
            except RayclusterError as error:  # no live version, no encoder of text: nothing to warm
                log.info("%s is not warmed: %s", name, error)

    async def embed(self, name: str, version: int | str, question: Question, carried: dict[str, str]) -> Embedded:
        """Return a question as what can be searched for."""
        with trace.resume(carried, "embed", dataset=name):
            if question.text is not None:
                own: Any = self  # Ray's types of `batch` know functions only, no methods
                found: Embedded | RayclusterError = await own._texts((name, version, question.text))
                if isinstance(found, RayclusterError):
                    raise found
                return found
            return await asyncio.to_thread(embed, self.follower.table(name), question)

    @serve.batch(max_batch_size=_MOST_TOGETHER, batch_wait_timeout_s=0.0)  # type: ignore[arg-type]
    async def _texts(self, asked: list[tuple[str, int | str, str]]) -> Sequence[Embedded | RayclusterError]:  # type: ignore[misc]
        return await asyncio.to_thread(self._together, asked)

    def _together(self, asked: list[tuple[str, int | str, str]]) -> Sequence[Embedded | RayclusterError]:
        """Embed texts, those for one version of a dataset at once; what is wrong with one is told to its asker only."""
        found: dict[tuple[str, int | str, str], Embedded | RayclusterError] = {}
        for name, version in dict.fromkeys((name, version) for name, version, _ in asked):
            texts = list(dict.fromkeys(text for *of, text in asked if of == [name, version]))
            try:
                made = embed_texts(self.follower.table(name), version, texts)
                found |= {(name, version, text): one for text, one in zip(texts, made, strict=True)}
            except RayclusterError as error:
                found |= {(name, version, text): error for text in texts}
        return [found[one] for one in asked]


class Remembered:
    """A gateway's way to the encoders: what was asked lately is at hand."""

    def __init__(self, handle: Any, follower: Follower) -> None:
        self.handle, self.follower = handle, follower
        self._known: OrderedDict[bytes, Embedded] = OrderedDict()

    async def __call__(self, name: str, version: int | str, question: Question) -> Embedded:
        """Return a question as what can be searched for."""
        key = _key(name, self.follower.versions().get(name, 0) if version == "live" else version, question)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        found: Embedded = await called(lambda: self.handle.embed.remote(name, version, question, trace.carry()))
        self._known[key] = found
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found


def _key(name: str, version: int | str, question: Question) -> bytes:
    said = repr((name, version, question.mode, question.text, question.image is None))
    whole = hashlib.sha256(said.encode())
    whole.update(question.image or question.audio or b"")  # as it is: written out, 32 MiB became 92 and took 0.33 s
    return whole.digest()
