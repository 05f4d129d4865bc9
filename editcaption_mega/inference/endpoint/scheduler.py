"""Requests in, results out: how many are held, which of them ask the same, and what an earlier run has kept."""

import contextlib
import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator

from .address import Endpoint
from .cache import CallLog
from .request_loop import News, RequestLoop
from .secret import Secret
from .service import Service

_HELD_PER_SLOT = 4  # requests held in all, those that back off included, per request in flight
_LOOK_SECONDS = 10.0  # between looks whether the loop still runs
_BATCH = 32  # requests looked up at once
_BATCH_SECONDS = 0.005


class RequestScheduler[Asked, Result]:
    """A context manager; `results` is for the thread that opened it, once."""

    def __init__(self, endpoint: Endpoint, secret: Secret, service: Service[Asked, Result], log: CallLog | None):
        self._most, self._service = endpoint.max_concurrency, service
        self._held = 0  # requests taken, whose result has not been handed on
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._loop = RequestLoop(endpoint, secret, service, log, self._news.put)

    def __enter__(self) -> "RequestScheduler[Asked, Result]":
        self._loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.stop()

    def results(self, requests: Iterable[Asked]) -> Iterator[Result]:
        """What each request came to, in order of completion. `requests` is consumed as places become free.

        Raises EndpointError when the endpoint is of no use, and what the service raised."""
        source = iter(requests)
        in_flight: dict[str, list[Asked]] = {}  # keys, with the requests that wait for the same answer
        waiting: deque[Asked] = deque()  # those of them whose turn it is
        while True:
            batch = self._take(waiting, source)
            if not batch and not self._held:
                return
            for request, job in zip(batch, self._service.look_up(batch), strict=True):
                if job.key in in_flight:
                    self._held += 1
                    in_flight[job.key].append(request)
                elif job.kept is not None:
                    self._loop.trust.answers_in_form = True
                    yield job.kept
                else:
                    try:
                        job.request = self._service.fit(request)
                    except ValueError as error:
                        yield self._service.unsendable(request, str(error))
                        continue
                    self._held += 1
                    in_flight[job.key] = []
                    self._loop.add(job)
            if not batch or not self._news.empty():
                for key, result in self._receive():
                    same = in_flight.pop(key)
                    self._held -= 1 + len(same)
                    waiting.extend(same)
                    yield result

    def _take(self, waiting: deque[Asked], source: Iterator[Asked]) -> list[Asked]:
        """What there is room for, of those that wait and then of the source: some at a time, and fewer of a slow
        source, so that neither results nor the endpoint wait for it."""
        batch: list[Asked] = []
        begin = time.monotonic()
        while self._has_room(len(batch)) and len(batch) < _BATCH and time.monotonic() - begin < _BATCH_SECONDS:
            request = waiting.popleft() if waiting else next(source, None)
            if request is None:
                break
            batch.append(request)
        return batch

    def _has_room(self, taken: int) -> bool:
        """Whether one more request finds a place, beside so many that are about to be added."""
        held = self._held + taken - self._service.look_ahead
        return held - self._loop.backing_off < self._most and held < _HELD_PER_SLOT * self._most

    def _receive(self) -> list[tuple[str, Result]]:
        """Wait for news: (key, result) of ended requests, or nothing, when only room has become free."""
        while True:
            alive = self._loop.alive
            with contextlib.suppress(queue.Empty):
                news = self._news.get(timeout=_LOOK_SECONDS if alive else 0)
                if isinstance(news, BaseException):
                    raise news
                return news
            if not alive:
                raise RuntimeError("the thread that asks the endpoint has ended without a reason")
