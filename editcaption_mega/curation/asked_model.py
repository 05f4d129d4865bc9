"""The model that a step asks about every pair: behind an address, or served by the job itself."""

import gc
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import batched, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from editcaption_mega.data.shards.reader import SIDES, ShardReader
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.endpoint.messages import Picture, Reply, Request
from editcaption_mega.inference.endpoint.picture_limits import PictureLimits
from editcaption_mega.inference.local.folder import folder_digests
from editcaption_mega.inference.serving.asking import Served, replies
from editcaption_mega.inference.serving.programs import gpu_count
from editcaption_mega.inference.serving.server import OwnServer
from editcaption_mega.settings import EndpointSettings, PixelLimits, ServerSettings

_THREADS = 4  # that read and resize pictures: both leave the interpreter to others
_PAIRS_PER_TASK = 8  # of a thread: handing over costs as much as reading small pictures
_TASKS_AHEAD = 8  # whose requests wait for their pictures
_COLLECTIONS = (20_000, 20, 20)  # new objects between two, as of `gc.set_threshold`

# `transformers serve` takes a temperature and still says what is likeliest, unless the model's folder or this says not.
_SAMPLED = {"transformers": {"generation_config": '{"do_sample": true}'}}

Place = tuple[int, int]  # of a pair in the shards, and its sample
_Group = tuple[tuple[int, list[int]], ...]  # places of pairs, and the samples that are wanted of each


@dataclass(frozen=True)
class AskedModel:
    """settings.url is empty where `server` says what the job serves itself. temperature: at which it is asked."""

    settings: EndpointSettings
    server: ServerSettings
    pictures: PixelLimits  # how large pictures are sent
    temperature: float = 0.0

    @property
    def is_own(self) -> bool:
        return bool(self.server.program)

    @property
    def name(self) -> str:
        return self.settings.model or self.server.model

    @property
    def gpus(self) -> int:
        """Of this job; 0 where it asks somebody else's, or has none."""
        return gpu_count() if self.is_own else 0

    @property
    def extra(self) -> dict[str, Any]:
        """More fields of each request: the settings', and what the job's own program needs to draw at all."""
        drawn = _SAMPLED.get(self.server.program, {}) if self.temperature > 0 else {}
        return drawn | self.settings.extra

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What answers depend on, beside what is asked. A folder is known by its weights, wherever it lies."""
        if not self.is_own:
            endpoint = self._endpoint(self.settings.url)
            return {"model": endpoint.model, "extra": endpoint.extra, "server": endpoint.identity}
        served: dict[str, Any] = {"served_by": self.server.program, "extra": self.extra}
        if self.settings.cache_as:
            served["server"] = self.settings.cache_as
        if Path(self.server.model).is_dir():
            return served | folder_digests(self.server.model)
        return served | {"model": self.name}

    @contextmanager
    def serving(self, log: Path) -> Iterator[OwnServer | None]:
        """The job's own server, which ends with the block; None where somebody else's is asked. log: of the server."""
        if not self.is_own:
            yield None
            return
        with OwnServer(self.server, log) as server:
            yield server

    def replies[Value](
        self, unanswered: Callable[[], Iterator[Request[Value]]], cache: Path, server: Served | None
    ) -> Iterator[Reply[Value]]:
        """As `serving.asking.replies`. server: of `serving`, or its stand-in in another process."""
        with _few_collections():
            yield from self._replies(unanswered, cache, server)

    def _replies[Value](
        self, unanswered: Callable[[], Iterator[Request[Value]]], cache: Path, server: Served | None
    ) -> Iterator[Reply[Value]]:
        if not self.is_own:
            yield from replies(self._endpoint(self.settings.url), None, unanswered, cache)
            return
        own = {name: value for name, value in self.identity.items() if name != "extra"}
        kept_as = json.dumps(own)

        def endpoint(url: str) -> Endpoint:
            return self._endpoint(url, cache_as=kept_as)

        yield from replies(endpoint, server, unanswered, cache)

    def share(self, in_flight: int) -> "AskedModel":
        """The same for a process that keeps so many requests in flight."""
        other = replace(self, settings=replace(self.settings, max_concurrency=in_flight))
        other.__dict__["identity"] = self.identity  # weights are read once
        return other

    def check(self) -> None:
        """Raises ValueError for what can never work, before anything is started or asked."""
        if self.is_own:
            OwnServer(self.server, Path())
            self._endpoint("http://127.0.0.1:1/v1")
        self._endpoint(self.settings.url or "http://127.0.0.1:1/v1").secret()

    def _endpoint(self, url: str, cache_as: str = "") -> Endpoint:
        kept_as = cache_as or self.settings.cache_as
        settings = replace(self.settings, url=url, model=self.name, cache_as=kept_as, extra=self.extra)
        return Endpoint.of(settings, self.pictures)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Requests and replies are many objects in no circles: looking for such costs a twentieth of the processor."""
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class PairRequests:
    """Requests about pairs, in order, with the pictures of some pairs read and resized ahead."""

    def __init__(self, reader: ShardReader, pictures: PixelLimits):
        self._reader, self._limits = reader, PictureLimits(pictures.min_pixels, pictures.max_pixels)

    def of[Value](
        self, places: Iterator[Place], make: Callable[[int, int, Picture, Picture], Request[Value] | None]
    ) -> Iterator[Request[Value]]:
        """make(place in the shards, sample, source, target) -> its request, or None for nothing to ask."""
        waiting: deque[tuple[_Group, Future[list[tuple[Picture, Picture]]]]] = deque()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures") as pool:
            pairs = ((at, [sample for _, sample in group]) for at, group in groupby(places, key=itemgetter(0)))
            groups = batched(pairs, _PAIRS_PER_TASK)
            while True:
                while len(waiting) < _TASKS_AHEAD and (group := next(groups, None)) is not None:
                    waiting.append((group, pool.submit(self._pictures, [at for at, _ in group])))
                if not waiting:
                    return
                group, pictures = waiting.popleft()
                for (at, samples), (source, target) in zip(group, pictures.result(), strict=True):
                    for sample in samples:
                        if (request := make(at, sample, source, target)) is not None:
                            yield request

    def _pictures(self, places: Sequence[int]) -> list[tuple[Picture, Picture]]:
        return [self._of_pair(at) for at in places]

    def _of_pair(self, at: int) -> tuple[Picture, Picture]:
        """A damaged one is sent as it is, so that its request fails by itself, with its reason."""
        meta = self._reader.meta(at)

        def picture(side: Any) -> Picture:
            data = self._reader.picture(at, side)
            try:
                return self._limits.stored(data, meta.size(side))
            except ValueError:
                return Picture(data)

        source, target = (picture(side) for side in SIDES)
        return source, target
