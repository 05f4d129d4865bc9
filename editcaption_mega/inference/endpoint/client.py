"""The one client of every model endpoint: requests in, replies out, each kept before it is handed on.

Generation, judging and whatever else asks a model for text over HTTP call `complete`. Image edits (`image_edits.py`)
are another `Service` of the same scheduler, transport, cache and call log."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.words import one_line

from .address import Endpoint, EndpointError
from .cache import CacheError, ReplyCache, open_cache, read_calls
from .messages import STATUSES, Message, Picture, Reply, Request, Usage
from .openai_protocol import RequestWriter, checked, read_completion
from .outcome import Outcome, Response
from .picture_limits import PictureLimits
from .scheduler import RequestScheduler
from .secret import Secret
from .service import Job

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

# What is kept: definite answers, and the words of those that are asked for again by a later run, once.
_KEPT = ("ok", "refused", "malformed")

_log = logging.getLogger(__name__)


def complete[Value](
    endpoint: Endpoint,
    requests: Iterable[Request[Value]],
    cache: Path | None,
    *,
    progress: Progress = no_progress,
    total: int | None = None,
    ids_differ: bool = False,
) -> Iterator[Reply[Value]]:
    """The reply of each request, in order of completion; every request gets one, whatever happens to it.

    `requests` is consumed as places become free, so pictures of waiting requests only are in memory. `cache` is a
    folder: a reply that is ok or refused is in its responses.sqlite before it is yielded, a later call yields it from
    there; every attempt is a line of its calls.jsonl. Requests that ask the same are asked once. A malformed reply is
    kept too, and a later call asks for it once more, not `max_attempts` times. None: nothing is kept.

    ids_differ: the caller sees to it, so that the ids of a million requests need not be remembered here.

    A request that can't be sent (a damaged picture, more than max_request_mib) ends as failed, without a call.

    Raises ValueError for a missing key (at once), an id that comes twice or an unusable cache; EndpointError when
    the endpoint as a whole is of no use (nobody there, key refused, unknown model, 50 requests failed in a row, 20 in a
    row answered in no usable form)."""
    secret = endpoint.secret()

    def replies() -> Iterator[Reply[Value]]:
        with open_cache(cache) as (kept, log):
            chat = _Chat(endpoint, secret, kept)
            with RequestScheduler(endpoint, secret, chat, log) as scheduler:
                yield from scheduler.results(requests if ids_differ else _distinct(requests))

    return iter(progress(replies(), total, endpoint.model))


class _Chat:
    """Chat completions, as the scheduler sees them."""

    path = "/chat/completions"
    max_reply_mib = 2.0
    look_ahead = 64

    def __init__(self, endpoint: Endpoint, secret: Secret, cache: ReplyCache | None):
        self._endpoint, self._secret, self._cache = endpoint, secret, cache
        self._writer = RequestWriter(endpoint)
        self._limits = PictureLimits(endpoint.min_pixels, endpoint.max_pixels)
        self._versions = _Versions(endpoint, cache)

    def look_up(self, requests: Sequence[Request[Any]]) -> Iterator[Job]:
        if self._cache is None:
            yield from (Job(request.id, request) for request in requests)
            return
        keys = [self._writer.key(request) for request in requests]
        rows = self._cache.get(keys) if keys else {}
        for key, request in zip(keys, requests, strict=True):
            if key in rows:
                kept = _kept_reply(self._cache, rows[key], request)
                yield Job(key, request, kept, known=rows[key]["status"] == "malformed")
            else:
                yield Job(key, request)

    def fit(self, request: Request[Any]) -> Request[Any]:
        messages = self._limits.fit(request.messages)
        return request if messages is request.messages else replace(request, messages=messages)

    def unsendable(self, request: Request[Any], reason: str) -> Reply[Any]:
        nothing: dict[str, Any] = {"text": "", "model": "", "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
        return Reply(request.id, "failed", reason=one_line(reason), attempts=0, cached=False, **nothing)

    def write(self, request: Request[Any]) -> tuple[bytes, str]:
        return self._writer.body(request), "application/json"

    async def read(self, request: Request[Any], answer: Response) -> Outcome:
        return checked(read_completion(answer, quotes=request.quotes), request, self._secret)

    def keep(self, done: Sequence[tuple[Job, Outcome]]) -> list[Reply[Any]]:
        replies = [self._reply(job, outcome) for job, outcome in done]
        kept = [
            (job.key, _kept_fields(reply))
            for (job, _), reply in zip(done, replies, strict=True)
            if reply.status in _KEPT
        ]
        if self._cache is not None and kept:
            self._cache.put(self._endpoint.model, self._endpoint.identity, kept)
        for reply in replies:
            self._versions.see(reply.model)
        return replies

    def _reply(self, job: Job, outcome: Outcome) -> Reply[Any]:
        return Reply(
            id=job.request.id,
            status=outcome.status,
            text=outcome.text,
            reason=outcome.reason,
            model=outcome.model,
            prompt_tokens=job.prompt_tokens,
            completion_tokens=job.completion_tokens,
            cost=self._endpoint.cost(job.prompt_tokens, job.completion_tokens),
            attempts=job.attempts,
            cached=False,
            thought=outcome.thought,
            ending=outcome.ending,
            value=outcome.value,
        )


def _kept_fields(reply: Reply[Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(reply).items() if name not in ("id", "cached", "value")}


def _kept_reply(cache: ReplyCache, row: dict[str, Any], request: Request[Any]) -> Reply[Any] | None:
    """The reply in a row of the cache, None where it must be asked for. What one `parse` refused another one may take
    (another mode of judging), and the other way round."""
    if not _is_reply(row):
        raise CacheError(f"{cache.path} holds a reply of another form: use another folder")
    if row["status"] == "malformed" and (not row["text"] or request.parse is None):
        return None
    value = None
    if row["status"] in ("ok", "malformed") and request.parse is not None:
        try:
            value = request.parse(row["text"])
        except ValueError:
            return None
        row = row | {"status": "ok", "reason": ""}
    return Reply(id=request.id, cached=True, value=value, **row)


_FIELDS = {
    "status": str, "text": str, "reason": str, "model": str, "prompt_tokens": int, "completion_tokens": int,
    "cost": int | float, "attempts": int, "thought": str, "ending": str,
}  # fmt: skip
_ADDED = {"thought", "ending"}  # later: older replies have none


def _is_reply(row: Any) -> bool:
    if not isinstance(row, dict) or row.keys() - _FIELDS.keys() or _FIELDS.keys() - row.keys() - _ADDED:
        return False
    if not all(isinstance(value, _FIELDS[name]) for name, value in row.items()):
        return False
    return row["status"] in _KEPT


def _distinct(requests: Iterable[Request[Any]]) -> Iterator[Request[Any]]:
    """Raises ValueError, naming the request, for an id that was there before."""
    ids = set()
    for request in requests:
        if request.id in ids:
            raise ValueError(f"two requests have the id {request.id}: each needs its own")
        ids.add(request.id)
        yield request


class _Versions:
    """Says once when the server's version of the model is another one than that of kept replies."""

    def __init__(self, endpoint: Endpoint, cache: ReplyCache | None):
        self._model, self._warned = endpoint.model, False
        self._seen = cache.served(endpoint.model, endpoint.identity) if cache is not None else set()

    def see(self, version: str) -> None:
        if not version or version in self._seen:
            return
        if self._seen and not self._warned:
            self._warned = True
            _log.warning(
                "%s: the server now says it serves %s; kept replies are of %s, so this run mixes versions",
                self._model,
                version,
                ", ".join(sorted(self._seen)),
            )
        self._seen.add(version)
