"""A loaded reward model as an AsyncScorer: hash, decode once, look up past ads, batch across requests, put into words.

The event loop hashes small files and waits; `decoders` threads decode and look up; one thread asks the model.

Legend: P patches of an image, W the tower's width.
"""

import asyncio
import ctypes
import functools
import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from numpy.typing import NDArray
from PIL.Image import Image

from countryreward.data.decoding import ImageError, ImageFacts, declared_pixels, read_image
from countryreward.models.reward_prompts import Example
from countryreward.scoring.contracts import Verdict
from countryreward.scoring.prior_scorer import Question, SeenImage
from countryreward.scoring.reward_judge import Judged, Prepared, RewardJudge, encode_patches
from countryreward.serving.inference.async_scorer import RequestImageError, ScoreRequest
from countryreward.serving.inference.batching import TokenBatcher
from countryreward.serving.inference.bounded_cache import BoundedCache, Key
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig

_HASH_IN_THREAD = 2**20  # bytes: hashing more would hold up other requests
_IMAGES_PER_PASS = 32
_CHUNK = 40  # questions looked up or put into words at a time
_REMEMBERED = 400  # requests over which the time of preparing one is averaged
_BIG_PIXELS = 4_000_000  # decoded one at a time: a picture takes 8 bytes a pixel for a moment, as WEBP 20


@dataclass(eq=False)
class KeptImage:
    """What is kept of an image: never its bytes, never its pixels once it is encoded."""

    seen: SeenImage
    patches: torch.Tensor | None  # [P, values] float32 until it is encoded
    features: torch.Tensor | None = None  # [P, W] on the model's device


@dataclass(frozen=True, eq=False)
class _Pair:
    example: Example
    images: dict[str, KeptImage]  # by content hash


class InferenceEngine:
    """One model with its knowledge base, answering. Belongs to one event loop."""

    def __init__(
        self, judge: RewardJudge, config: RewardServiceConfig, watching: MetricsObserver | None = None
    ) -> None:
        self.reward, self.config, self.watching = judge, config, watching or MetricsObserver()
        self.markets: tuple[str, ...] = judge.folder.trained_markets
        self.loaded = datetime.now(UTC)
        self.encodes = 0
        """Images that went through the tower."""
        self.cache: BoundedCache[KeptImage] = BoundedCache(config.cache_mib * 2**20, config.cache_s)
        self.batcher: TokenBatcher[_Pair] = TokenBatcher(self._run, config.batch_tokens)
        self.batcher.seen = self.watching.forward_pass
        self._pool = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        self._one_big = threading.Lock()
        self._decoding: dict[Key, asyncio.Future[KeptImage]] = {}
        self._asks = self._preparing = self._prepared = 0
        self._pool_s = 0.0

    def about(self) -> dict[str, Any]:
        """See `AsyncScorer`."""
        folder = self.reward.folder
        return {
            "model": folder.artifact.manifest.version,
            "knowledge_base": folder.base.version,
            "markets": list(self.markets),
            "loaded": self.loaded.isoformat(timespec="seconds"),
        }

    def ready(self) -> bool:
        """See `AsyncScorer`."""
        return True

    def busy(self, tenant: str = "") -> float | None:
        """See `AsyncScorer`."""
        each = self._pool_s / max(self._prepared, 1) / self.config.decoders
        wait = self.batcher.wait_s(tenant) + self._preparing * each
        room = min(self.config.max_wait_passes * self.batcher.pass_s() or math.inf, self.config.max_wait_s)
        return wait - room if wait > room else None

    async def judge(self, ask: ScoreRequest) -> list[Verdict]:
        """See `AsyncScorer`. Raises `RequestImageError`."""
        self._asks += 1
        try:
            prepared, kept = await self._prepare(ask)
            works = [(_Pair(one.example, kept), _tokens(one.example)) for one in prepared if one.example is not None]
            logits = iter(await self.batcher.ask(works, tenant=ask.tenant, urgent=ask.urgent))
        finally:
            self._asks -= 1
        for name, image in kept.items():  # smaller now: features instead of patches
            self.cache.put((ask.tenant, name), image, _size(image))
        self.watching.verdicts(len(prepared))
        judged = [one.judged(None if one.example is None else next(logits)) for one in prepared]
        words = functools.partial(self._words, evidence=ask.evidence)
        return await self._in_chunks(words, judged) if len(judged) * ask.evidence > _CHUNK else words(judged)

    async def _prepare(self, ask: ScoreRequest) -> tuple[list[Prepared], dict[str, KeptImage]]:
        """Everything up to the model: the questions in the order of their verdicts, the images by content hash."""
        self._preparing += 1
        try:
            names = await self._hash(ask.images)
            kept = dict(zip(names, await self._keep(ask, names), strict=True))
            questions = [
                Question(
                    product=ask.product,
                    images=(kept[names[a]].seen, kept[names[b]].seen),
                    market=market,
                    as_of=ask.as_of,
                )
                for market in ask.markets
                for a, b in ask.pairs
            ]
            prepared = await self._in_chunks(self.reward.prepare, questions)
        finally:
            self._preparing -= 1
            self._prepared += 1
            if self._prepared > _REMEMBERED:
                self._prepared, self._pool_s = self._prepared // 2, self._pool_s / 2
        return prepared, kept

    async def _in_chunks(self, work: Callable[[list[Any]], list[Any]], items: list[Any]) -> list[Any]:
        """In the pool, with room for others after every chunk."""
        parts = [await self._in_pool(work, items[at : at + _CHUNK]) for at in range(0, len(items), _CHUNK)]
        return [one for part in parts for one in part]

    async def _in_pool(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """In one of the decoders' threads; its time is counted."""

        def timed() -> Any:
            started = time.perf_counter()
            try:
                return work(*arguments)
            finally:
                self._pool_s += time.perf_counter() - started

        return await asyncio.get_running_loop().run_in_executor(self._pool, timed)

    async def close(self) -> None:
        """End when everything asked has been answered."""
        while self._asks:
            await asyncio.sleep(0.01)
        await self.batcher.close()
        self._pool.shutdown(wait=False)

    def _words(self, judged: Sequence[Judged], *, evidence: int) -> list[Verdict]:
        return [self.reward.verdict(one, evidence=evidence) for one in judged]

    async def _hash(self, images: Sequence[bytes]) -> list[str]:
        if sum(map(len, images)) <= _HASH_IN_THREAD:
            return _hashes(images)
        return await self._in_pool(_hashes, images)

    async def _keep(self, ask: ScoreRequest, names: list[str]) -> list[KeptImage]:
        """Every image, from the cache, from a request that is decoding it right now, or decoded."""
        waiting: list[asyncio.Future[KeptImage]] = []
        loop = asyncio.get_running_loop()
        for name, data in zip(names, ask.images, strict=True):
            key = (ask.tenant, name)
            known = self.cache.get(key)
            self.watching.cache(hit=known is not None)
            if known is not None:
                future: asyncio.Future[KeptImage] = loop.create_future()
                future.set_result(known)
            elif key in self._decoding:
                future = self._decoding[key]
            else:
                future = asyncio.ensure_future(self._decode(key, data))
                self._decoding[key] = future
                future.add_done_callback(lambda _, key=key: self._decoding.pop(key, None))
            waiting.append(future)
        done = await asyncio.gather(*map(asyncio.shield, waiting), return_exceptions=True)
        for position, one in enumerate(done):
            if isinstance(one, ImageError):
                raise RequestImageError(position, one) from None
            if isinstance(one, BaseException):
                raise one
        return [one for one in done if isinstance(one, KeptImage)]

    async def _decode(self, key: Key, data: bytes) -> KeptImage:
        image = await self._in_pool(self._read, data)
        self.cache.put(key, image, _size(image))
        return image

    def _read(self, data: bytes) -> KeptImage:
        limits = {"max_bytes": self.config.max_image_bytes, "max_pixels": self.config.max_pixels}
        if declared_pixels(data, **limits) <= _BIG_PIXELS:
            return self._seen(*read_image(data, **limits))
        with self._one_big:
            try:
                return self._seen(*read_image(data, **limits))
            finally:
                _give_back()

    def _seen(self, facts: ImageFacts, picture: Image) -> KeptImage:
        vector: NDArray = self.reward.prior.image_encoder.encode([picture])[0]
        seen = SeenImage(content_hash=facts.content_hash, perceptual_hash=int(facts.perceptual_hash, 16), vector=vector)
        return KeptImage(seen, self.reward.patches(picture))

    def _run(self, pairs: list[_Pair]) -> list[float]:
        """In the model's thread: encode what is new, then one forward pass."""
        images = [(name, pair.images[name]) for pair in pairs for name in pair.example.images]
        new = list(dict.fromkeys(image for _, image in images if image.features is None))
        for start in range(0, len(new), _IMAGES_PER_PASS):
            group = new[start : start + _IMAGES_PER_PASS]
            values = torch.cat([image.patches for image in group if image.patches is not None])
            for image, features in zip(group, encode_patches(self.reward.model, values, len(group)), strict=True):
                image.features, image.patches = features.clone(), None
        self.encodes += len(new)
        self.watching.encoded(len(new))
        features = {name: image.features for name, image in images if image.features is not None}
        examples = [pair.example for pair in pairs]
        return self.reward.one_pass(examples, lambda names: torch.stack([features[name] for name in names])).tolist()


def _give_back() -> None:
    """To the system, what glibc keeps of a large picture for the next one; other C libraries keep little."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _hashes(images: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(image).hexdigest() for image in images]


def _tokens(example: Example) -> int:
    return len(example.ids) * (2 if example.swapped is not None else 1)


def _size(image: KeptImage) -> int:
    tensors = [tensor for tensor in (image.patches, image.features) if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + image.seen.vector.nbytes + 500
