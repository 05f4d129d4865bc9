"""Requests in flight: one thread with an event loop that sends, waits, tries again, and keeps what came before it
hands it on."""

import asyncio
import contextlib
import io
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from .cache import CallLog, ReplyCache
from .chat import Reply, Request
from .endpoint import Endpoint, EndpointError, Secret
from .pace import Pace, backoff
from .wire import Outcome, body_bytes, checked, read_answer

_LOOK_AHEAD = 64  # requests that wait for their first attempt
_HELD_PER_SLOT = 4  # requests held in all, those that back off included, per request in flight
_GIVE_UP = 50  # rows that failed in a row: then it is the endpoint and not the rows
_CONNECT_SECONDS = 30.0
_PUT_OFF = (429, 503, 529)
_KEPT = ("ok", "refused")  # definite answers; the others are asked for again by a later run


@dataclass(slots=True)
class _Job:
    key: str
    request: Request
    attempts: int = 0
    put_off: int = 0  # times that the server had too much to do
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Exchange:
    """A context manager; `submit` and `receive` are for the thread that opened it.

    A request that backs off gives its place in flight to the next one. Requests that have been sent before go first,
    and while the endpoint is in trouble no others are begun, so that an outage costs few rows."""

    def __init__(self, endpoint: Endpoint, secret: Secret, cache: ReplyCache | None, log: CallLog | None):
        self._endpoint, self._secret, self._cache, self._log = endpoint, secret, cache, log
        self._url = endpoint.url.rstrip("/") + "/chat/completions"
        self.held = 0  # submitted, not yet received
        self._inbox: deque[_Job] = deque()
        self._called = False  # whether the loop has been told of the inbox
        self._outbox: queue.SimpleQueue[list[tuple[str, Reply]] | BaseException] = queue.SimpleQueue()
        # From here on all belongs to the loop's thread.
        self._pace = Pace(endpoint.max_concurrency)
        self._fresh: deque[_Job] = deque()
        self._again: deque[_Job] = deque()
        self._tasks: set[asyncio.Task] = set()
        self._backing_off = 0
        self._met = False  # whether a usable answer has come
        self._failed_in_a_row = 0
        self._calls: list[dict] = []
        self._done: list[tuple[str, Reply]] = []
        self._flushing = self._resuming = False

    def __enter__(self) -> "Exchange":
        begun = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(begun,), name="endpoint", daemon=True)
        self._thread.start()
        begun.wait()
        return self

    def __exit__(self, *_) -> None:
        self._tell(lambda: self._stopped.set())
        self._thread.join()

    def _tell(self, callback: Callable[[], None]) -> None:
        """Have the loop call it. A loop that has ended by itself has put its reason into the outbox."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def has_room(self, taken: int) -> bool:
        """Whether one more request finds a place, beside so many that are about to be submitted."""
        most, held = self._endpoint.max_concurrency, self.held + taken
        return held - self._backing_off < most + _LOOK_AHEAD and held < _HELD_PER_SLOT * most + _LOOK_AHEAD

    def submit(self, key: str, request: Request) -> None:
        self.held += 1
        self._inbox.append(_Job(key, request))
        if not self._called:  # one call wakes the loop for whatever has come until it looks
            self._called = True
            self._tell(self._take)

    def pending(self) -> bool:
        """Whether `receive` would not wait."""
        return not self._outbox.empty()

    def receive(self) -> list[tuple[str, Reply]]:
        """Wait for news: (key, reply) of ended requests, or nothing, when only room has become free. Raises
        EndpointError when the endpoint is of no use, CacheError when a reply could not be kept."""
        news = self._outbox.get()
        if isinstance(news, BaseException):
            raise news
        self.held -= len(news)
        return news

    def _run(self, begun: threading.Event) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve(begun))
        except BaseException as error:
            self._outbox.put(error)
        finally:
            begun.set()

    async def _serve(self, begun: threading.Event) -> None:
        self._stopped = asyncio.Event()
        self._loop.set_exception_handler(self._defect)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._endpoint.max_concurrency),
            timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout, sock_connect=_CONNECT_SECONDS),
            headers={"Content-Type": "application/json", **self._secret.headers()},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._endpoint.proxy(),
        ) as self._session:
            begun.set()
            await self._stopped.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._flush()

    def _take(self) -> None:
        self._called = False
        while self._inbox:
            self._fresh.append(self._inbox.popleft())
        self._fill()

    def _fill(self) -> None:
        if self._stopped.is_set():
            return
        if self._loop.time() < self._pace.not_before:
            if not self._resuming:
                self._resuming = True
                self._loop.call_at(self._pace.not_before, self._resume)
            return
        while len(self._tasks) < int(self._pace.limit):
            if self._again:
                job = self._again.popleft()
            elif self._fresh and not (self._pace.in_trouble and self._backing_off):
                job = self._fresh.popleft()
            else:
                return
            task = self._loop.create_task(self._attempt(job))
            self._tasks.add(task)

    def _resume(self) -> None:
        self._resuming = False
        self._fill()

    async def _attempt(self, job: _Job) -> None:
        epoch, begun = self._pace.epoch, self._loop.time()
        job.attempts += 1
        try:
            outcome = checked(await self._ask(job.request), job.request, self._secret)
        except Exception as error:  # a defect, ours or that of `require`: it must reach the caller
            self._stop(error)
            return
        finally:
            self._tasks.discard(asyncio.current_task())
        now = self._loop.time()
        self._pace.heard(epoch, outcome.overload, outcome.retry_after, now)
        self._met = self._met or (outcome.http is not None and outcome.http < 300)
        self._note(job, outcome, now - begun)
        if outcome.stops == "always" or (outcome.stops == "first" and not self._met):
            self._stop(
                EndpointError(f"{self._endpoint.url} can't be used for {self._endpoint.model}: {outcome.reason}")
            )
        elif outcome.may_pass and job.attempts < self._endpoint.max_attempts:
            self._loop.call_later(backoff(job.put_off, outcome.retry_after), self._return, job)
            # A single fault is chance and soon tried again; waiting longer each time is for load and for outages.
            limited = outcome.http in _PUT_OFF and self._pace.limit < self._pace.most
            job.put_off += limited or self._pace.in_trouble
            self._backing_off += 1
            self._outbox.put([])  # there is room for another
        else:
            self._end(job, outcome)
        self._fill()

    async def _ask(self, request: Request) -> Outcome:
        try:
            data = io.BytesIO(body_bytes(self._endpoint, request))
            async with self._session.post(self._url, data=data, allow_redirects=False) as response:
                raw = await response.read()
            return read_answer(response.status, response.headers, raw)
        except TimeoutError as error:
            reason = f"no answer within {self._endpoint.timeout:g} s"
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                reason = f"no connection within {_CONNECT_SECONDS:g} s"
            return Outcome("failed", reason, may_pass=True, overload=True)
        except aiohttp.ClientConnectorError as error:
            reason = f"no connection ({error.os_error.strerror or type(error).__name__})"
            return Outcome("failed", reason, may_pass=True, overload=True, stops="first")
        except (aiohttp.ClientError, OSError) as error:
            # Of these errors only the kind is told: their text may quote headers.
            return Outcome("failed", f"the connection broke ({type(error).__name__})", may_pass=True, overload=True)

    def _note(self, job: _Job, outcome: Outcome, seconds: float) -> None:
        job.prompt_tokens += outcome.prompt_tokens
        job.completion_tokens += outcome.completion_tokens
        if self._log is None:
            return
        self._calls.append(
            {
                "time": round(time.time(), 3),
                "id": job.request.id,
                "key": job.key,
                "model": self._endpoint.model,
                "attempt": job.attempts,
                "status": outcome.status,
                "http": outcome.http,
                "reason": outcome.reason,
                "prompt_tokens": outcome.prompt_tokens,
                "completion_tokens": outcome.completion_tokens,
                "cost": self._endpoint.cost(outcome.prompt_tokens, outcome.completion_tokens),
                "seconds": round(seconds, 4),
            }
        )
        self._flush_soon()

    def _return(self, job: _Job) -> None:
        self._backing_off -= 1
        self._again.append(job)
        self._fill()

    def _end(self, job: _Job, outcome: Outcome) -> None:
        reply = Reply(
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
        )
        self._done.append((job.key, reply))
        self._flush_soon()
        self._failed_in_a_row = self._failed_in_a_row + 1 if reply.status == "failed" else 0
        if self._failed_in_a_row >= _GIVE_UP:
            self._stop(
                EndpointError(
                    f"{self._endpoint.url} failed {_GIVE_UP} requests in a row, the last with: {outcome.reason}; what "
                    "it answered before is kept, a later run asks for the rest"
                )
            )

    def _flush_soon(self) -> None:
        # Whatever ends within one turn of the loop shares a transaction.
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Keep what has ended, then hand it on."""
        calls, done = self._calls, self._done
        self._calls, self._done, self._flushing = [], [], False
        try:
            if self._log is not None and calls:
                self._log.append(calls)
            kept = [(key, _kept(reply)) for key, reply in done if reply.status in _KEPT]
            if self._cache is not None and kept:
                self._cache.put(self._endpoint.model, self._endpoint.identity, kept)
        except Exception as error:
            self._stop(error)
            return
        if done:
            self._outbox.put(done)

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict) -> None:
        if "handle" in context:  # one of our callbacks raised: the run must end, not hang
            self._stop(context["exception"])
        else:
            loop.default_exception_handler(context)

    def _stop(self, error: Exception) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            if self._calls or self._done:
                self._flush()
            self._outbox.put(error)


def _kept(reply: Reply) -> dict:
    return {name: value for name, value in vars(reply).items() if name not in ("id", "cached")}
