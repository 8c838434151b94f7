"""A loaded CountryReward as a ServedScorer: hash, decode once, look up past ads, batch across requests, build verdicts.

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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from numpy.typing import NDArray
from PIL.Image import Image

from countryreward import markets
from countryreward.data.decoding import ImageError, ImageFacts, declared_pixels, read_image
from countryreward.scoring.contracts import RequestImageError, ScoreRequest, Verdict
from countryreward.scoring.country_reward import CountryReward, PreparedPair
from countryreward.scoring.prior_lookup import EncodedImage, MarketPair
from countryreward.serving.inference.batching import TokenBatcher
from countryreward.serving.inference.bounded_cache import BoundedCache, Key
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig

_HASH_IN_THREAD = 2**20  # bytes: hashing more would hold up other requests
_IMAGES_PER_PASS = 32
_CHUNK = 40  # pairs looked up, or made verdicts, at a time
_REMEMBERED = 400  # requests over which the time of preparing one is averaged
_BIG_PIXELS = 4_000_000  # decoded one at a time: a picture takes 8 bytes a pixel for a moment, as WEBP 20


@dataclass(eq=False)
class KeptImage:
    """What is kept of an image: never its bytes, never its pixels once it is encoded."""

    image: EncodedImage
    patches: torch.Tensor | None  # [P, values] float32 until it is encoded
    features: torch.Tensor | None = None  # [P, W] on the model's device


class InferenceEngine:
    """One model with its knowledge base, answering. Belongs to one event loop."""

    def __init__(
        self, reward: CountryReward, config: RewardServiceConfig, watching: MetricsObserver | None = None
    ) -> None:
        self.reward, self.config, self.watching = reward, config, watching or MetricsObserver()
        self.markets: tuple[str, ...] = reward.folder.trained_markets
        self.loaded = datetime.now(UTC)
        self.encodes = 0
        """Images that went through the tower."""
        self.cache: BoundedCache[KeptImage] = BoundedCache(config.cache_mib * 2**20, config.cache_s)
        self.batcher: TokenBatcher[tuple[Any, dict[str, KeptImage]]] = TokenBatcher(self._run, config.batch_tokens)
        self.batcher.seen = self.watching.forward_pass
        self._pool = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        self._one_big = threading.Lock()
        self._decoding: dict[Key, asyncio.Future[KeptImage]] = {}
        self._open_requests = self._preparing = self._prepared = 0
        self._pool_s = 0.0

    async def about(self) -> dict[str, Any]:
        """Versions of model and knowledge base, the markets of the training, those that are no countries, when it was loaded."""
        folder = self.reward.folder
        return {
            "model": folder.artifact.manifest.version,
            "knowledge_base": folder.base.version,
            "markets": list(self.markets),
            "defined": [asdict(market) for market in markets.defined()],
            "loaded": self.loaded.isoformat(timespec="seconds"),
        }

    def ready(self) -> bool:
        """Always: it is loaded."""
        return True

    def busy(self, tenant: str = "") -> float | None:
        """Seconds beyond what `config` lets a call of this tenant wait; None: there is room."""
        each = self._pool_s / max(self._prepared, 1) / self.config.decoders
        wait = self.batcher.wait_s(tenant) + self._preparing * each
        room = min(self.config.max_wait_passes * self.batcher.pass_s() or math.inf, self.config.max_wait_s)
        return wait - room if wait > room else None

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        """In the order of the request's questions. Raises `RequestImageError`, `UserError` for a market that is none."""
        self._open_requests += 1
        try:
            prepared, kept = await self._prepare(request)
            work = [
                ((pair.prepared, kept), self.reward.judge.tokens(pair.prepared))
                for pair in prepared
                if pair.prepared is not None
            ]
            logits = iter(await self.batcher.ask(work, tenant=request.tenant, urgent=request.urgent))
        finally:
            self._open_requests -= 1
        for name, image in kept.items():  # smaller now: features instead of patches
            self.cache.put((request.tenant, name), image, _size(image))
        self.watching.verdicts(len(prepared))
        answers = [(pair, None if pair.prepared is None else next(logits)) for pair in prepared]
        verdicts = functools.partial(self._verdicts, evidence=request.evidence)
        few = request.evidence is not None and len(answers) * request.evidence <= _CHUNK
        return verdicts(answers) if few else await self._in_chunks(verdicts, answers)

    async def _prepare(self, request: ScoreRequest) -> tuple[list[PreparedPair], dict[str, KeptImage]]:
        """Everything up to the model: the pairs in the order of their verdicts, the images by content hash."""
        self._preparing += 1
        try:
            questions = request.questions()
            files = [creative.image for creative in request.creatives]
            names = await self._hash(files)
            kept = dict(zip(names, await self._keep(request.tenant, names, files), strict=True))
            encoded = [kept[name].image for name in names]
            pairs = [MarketPair.of(request, market, a, b, encoded) for market, a, b in questions]
            prepared = await self._in_chunks(self.reward.prepare, pairs)
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
        while self._open_requests:
            await asyncio.sleep(0.01)
        await self.batcher.close()
        self._pool.shutdown(wait=False)

    def _verdicts(self, answers: Sequence[tuple[PreparedPair, float | None]], *, evidence: int | None) -> list[Verdict]:
        return [self.reward.verdict(pair, logit, evidence) for pair, logit in answers]

    async def _hash(self, images: Sequence[bytes]) -> list[str]:
        if sum(map(len, images)) <= _HASH_IN_THREAD:
            return _hashes(images)
        return await self._in_pool(_hashes, images)

    async def _keep(self, tenant: str, names: list[str], files: list[bytes]) -> list[KeptImage]:
        """Every image, from the cache, from a request that is decoding it right now, or decoded."""
        waiting: list[asyncio.Future[KeptImage]] = []
        loop = asyncio.get_running_loop()
        for name, data in zip(names, files, strict=True):
            key = (tenant, name)
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
                raise RequestImageError(position, one.reason, one.field_value) from None
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
            return self._kept(*read_image(data, **limits))
        with self._one_big:
            try:
                return self._kept(*read_image(data, **limits))
            finally:
                _give_back()

    def _kept(self, facts: ImageFacts, picture: Image) -> KeptImage:
        vector: NDArray = self.reward.lookup.image_encoder.encode([picture])[0]
        return KeptImage(EncodedImage.of(facts, vector), self.reward.judge.patches(picture))

    def _run(self, work: list[tuple[Any, dict[str, KeptImage]]]) -> list[float]:
        """In the model's thread: encode what is new, then one forward pass. work: prepared questions, each with its images."""
        judge = self.reward.judge
        images = [(name, kept[name]) for prepared, kept in work for name in judge.images(prepared)]
        new = list(dict.fromkeys(image for _, image in images if image.features is None))
        for start in range(0, len(new), _IMAGES_PER_PASS):
            group = new[start : start + _IMAGES_PER_PASS]
            values = torch.cat([image.patches for image in group if image.patches is not None])
            for image, features in zip(group, judge.encode_patches(values, len(group)), strict=True):
                image.features, image.patches = features.clone(), None
        self.encodes += len(new)
        self.watching.encoded(len(new))
        features = {name: image.features for name, image in images if image.features is not None}
        prepared = [question for question, _ in work]
        return judge.logits(prepared, lambda names: torch.stack([features[name] for name in names])).tolist()


def _give_back() -> None:
    """To the system, what glibc keeps of a large picture for the next one; other C libraries keep little."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _hashes(images: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(image).hexdigest() for image in images]


def _size(image: KeptImage) -> int:
    tensors = [tensor for tensor in (image.patches, image.features) if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + image.image.vector.nbytes + 500
