"""The one client of every model endpoint: requests in, replies out, each kept before it is handed on.

Generation, judging and whatever else asks a model over HTTP call `complete`."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .cache import CacheError, CallLog, ReplyCache, read_calls
from .chat import STATUSES, Message, Picture, Reply, Request, Usage
from .endpoint import Endpoint, EndpointError, Secret
from .exchange import Exchange
from .wire import cache_key

__all__ = [
    "STATUSES",
    "CacheError",
    "Endpoint",
    "EndpointError",
    "Message",
    "Picture",
    "Reply",
    "Request",
    "Usage",
    "complete",
    "read_calls",
]

_BATCH = 32  # requests looked up in the cache at once
_BATCH_SECONDS = 0.005

_log = logging.getLogger(__name__)


def complete(
    endpoint: Endpoint,
    requests: Iterable[Request],
    cache: Path | None,
    *,
    progress: Callable[..., Iterable] = lambda items, *_: items,
    total: int | None = None,
) -> Iterator[Reply]:
    """The reply of each request, in order of completion; every request gets one, whatever happens to it.

    `requests` is consumed as places become free, so pictures of waiting requests only are in memory. `cache` is a
    folder: a reply that is ok or refused is in its responses.sqlite before it is yielded, a later call yields it from
    there; every attempt is a line of its calls.jsonl. Requests that ask the same are asked once. None: nothing is kept.

    Raises ValueError for a missing key (at once), a request that can't be sent or an unusable cache; EndpointError when
    the endpoint as a whole is of no use (nobody there, key refused, unknown model, 50 requests failed in a row)."""
    secret = endpoint.secret()
    return iter(progress(_replies(endpoint, secret, requests, cache), total, endpoint.model))


def _replies(endpoint: Endpoint, secret: Secret, requests: Iterable[Request], folder: Path | None) -> Iterator[Reply]:
    with contextlib.ExitStack() as stack:
        cache = log = None
        if folder is not None:
            cache = stack.enter_context(contextlib.closing(ReplyCache(folder)))
            log = stack.enter_context(contextlib.closing(CallLog(folder)))
        exchange = stack.enter_context(Exchange(endpoint, secret, cache, log))
        versions = _Versions(endpoint, cache)
        source = _sendable(requests)
        asked: dict[str, list[Request]] = {}  # keys in flight, with the requests that wait for the same answer
        waiting: deque[Request] = deque()  # those of them whose turn it is
        while True:
            batch = _take(exchange, waiting, source)
            if not batch and not exchange.held:
                return
            keys = [cache_key(endpoint, request) if cache is not None else request.id for request in batch]
            rows = cache.get(keys) if cache is not None and keys else {}
            for key, request in zip(keys, batch, strict=True):
                if key in asked:
                    exchange.held += 1
                    asked[key].append(request)
                elif key in rows and (kept := _kept_reply(cache, rows[key], request)) is not None:
                    yield kept
                else:
                    asked[key] = []
                    exchange.submit(key, request)
            if not batch or exchange.pending():
                for key, reply in exchange.receive():
                    same = asked.pop(key)
                    exchange.held -= len(same)
                    waiting.extend(same)
                    versions.see(reply.model)
                    yield reply


def _take(exchange: Exchange, waiting: deque[Request], source: Iterator[Request]) -> list[Request]:
    """What there is room for, of those that wait and then of the source: some at a time, and fewer of a slow source, so
    that neither replies nor the endpoint wait for it."""
    batch: list[Request] = []
    begin = time.monotonic()
    while exchange.has_room(len(batch)) and len(batch) < _BATCH and time.monotonic() - begin < _BATCH_SECONDS:
        request = waiting.popleft() if waiting else next(source, None)
        if request is None:
            break
        batch.append(request)
    return batch


def _kept_reply(cache: ReplyCache, row: dict[str, Any], request: Request) -> Reply | None:
    if row["status"] == "ok" and request.require is not None:
        try:
            request.require(row["text"])
        except ValueError:
            return None
    try:
        return Reply(id=request.id, cached=True, **row)
    except TypeError:
        raise CacheError(f"{cache.path} holds a reply of another form: use another folder") from None


def _sendable(requests: Iterable[Request]) -> Iterator[Request]:
    """Raises ValueError, naming the request, for an id that was there before and for what is no picture."""
    ids = set()
    for request in requests:
        if request.id in ids:
            raise ValueError(f"two requests have the id {request.id}: each needs its own")
        ids.add(request.id)
        for message in request.messages:
            for part in message.parts:
                try:
                    _ = part.mime if isinstance(part, Picture) else None
                except ValueError as error:
                    raise ValueError(f"request {request.id}: {error}") from None
        yield request


class _Versions:
    """Says once when the server's version of the model is another one than that of kept replies."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache | None):
        self._model, self._said = endpoint.model, False
        self._seen = cache.served(endpoint.model, endpoint.identity) if cache is not None else set()

    def see(self, version: str) -> None:
        if not version or version in self._seen:
            return
        if self._seen and not self._said:
            self._said = True
            _log.warning(
                "%s: the server now says it serves %s; kept replies are of %s, so this run mixes versions",
                self._model,
                version,
                ", ".join(sorted(self._seen)),
            )
        self._seen.add(version)
