"""Requests in flight: one thread with an event loop that sends, waits, tries again, and keeps what came before it
hands it on."""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .address import Endpoint, EndpointError
from .cache import CallLog
from .concurrency import Pace, backoff
from .outcome import Outcome
from .secret import Secret
from .transport import MIB, NoAnswer, Response, Transport
from .trust import Trust

_LOOK_AHEAD = 64  # requests that wait for their first attempt
_HELD_PER_SLOT = 4  # requests held in all, those that back off included, per request in flight
_PUT_OFF = (429, 503, 529)
_LOOK_SECONDS = 10.0  # between looks whether the loop still runs


@dataclass(slots=True)
class Job:
    key: str
    request: Any
    known: bool = False  # an earlier run got no usable answer to it: then it is asked once
    attempts: int = 0
    put_off: int = 0  # times that the server had too much to do
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Service(Protocol):
    """What an endpoint is asked: how a request is written, what its answer means, how the result is kept.

    All is called in the loop's thread. What `read` or `keep` raises ends the run."""

    path: str  # after the endpoint's url
    max_reply_mib: float  # where the endpoint does not say

    def write(self, request: Any) -> tuple[bytes, str]:
        """The body and its content type. Raises ValueError when there is none: then the request fails for that."""

    async def read(self, request: Any, answer: Response) -> Outcome:
        """What the answer means, in words that may be printed and kept."""

    def keep(self, done: Sequence[tuple[Job, Outcome]]) -> list[Any]:
        """What the caller gets of each of these requests that have ended, kept where it is worth it."""


class Exchange:
    """A context manager; `submit` and `receive` are for the thread that opened it.

    A request that backs off gives its place in flight to the next one. Requests that have been sent before go first,
    and while the endpoint is in trouble no others are begun, so that an outage costs few rows."""

    def __init__(self, endpoint: Endpoint, secret: Secret, service: Service, log: CallLog | None):
        self._endpoint, self._secret, self._service, self._log = endpoint, secret, service, log
        self.held = 0  # submitted, not yet received
        self.trust = Trust()
        self._inbox: deque[Job] = deque()
        self._called = False  # whether the loop has been told of the inbox
        self._outbox: queue.SimpleQueue[list[tuple[str, Any]] | BaseException] = queue.SimpleQueue()
        # From here on all belongs to the loop's thread.
        self._pace = Pace(endpoint.max_concurrency)
        self._fresh: deque[Job] = deque()
        self._again: deque[Job] = deque()
        self._tasks: set[asyncio.Task] = set()
        self._backing_off = 0
        self._met = False  # whether a usable answer has come
        self._calls: list[dict] = []
        self._done: list[tuple[Job, Outcome]] = []
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

    def submit(self, key: str, request: Any, known: bool = False) -> None:
        self.held += 1
        self._inbox.append(Job(key, request, known))
        if not self._called:  # one call wakes the loop for whatever has come until it looks
            self._called = True
            self._tell(self._take)

    def pending(self) -> bool:
        """Whether `receive` would not wait."""
        return not self._outbox.empty()

    def receive(self) -> list[tuple[str, Any]]:
        """Wait for news: (key, result) of ended requests, or nothing, when only room has become free. Raises
        EndpointError when the endpoint is of no use, and what the service raised."""
        news = self._wait()
        if isinstance(news, BaseException):
            raise news
        self.held -= len(news)
        return news

    def _wait(self) -> list[tuple[str, Any]] | BaseException:
        while True:
            running = self._thread.is_alive()
            with contextlib.suppress(queue.Empty):
                return self._outbox.get(timeout=_LOOK_SECONDS if running else 0)
            if not running:
                raise RuntimeError("the thread that asks the endpoint has ended without a reason")

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
        async with Transport(
            self._endpoint.url,
            timeout=self._endpoint.timeout,
            largest=int((self._endpoint.max_reply_mib or self._service.max_reply_mib) * MIB),
            connections=self._endpoint.max_concurrency,
        ) as self._transport:
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
            task.add_done_callback(self._attempted)

    def _resume(self) -> None:
        self._resuming = False
        self._fill()

    def _attempted(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)  # a defect, ours or that of the service: it must reach the caller
        self._fill()

    async def _attempt(self, job: Job) -> None:
        epoch, begun = self._pace.epoch, self._loop.time()
        job.attempts += 1
        outcome = await self._ask(job.request)
        now = self._loop.time()
        self._pace.heard(epoch, outcome.overload, outcome.retry_after, now)
        self._met = self._met or (outcome.http is not None and outcome.http < 300)
        self._note(job, outcome, now - begun)
        useless = self.trust.answered(outcome, first=job.attempts == 1, known=job.known)
        if useless:
            self._end(job, outcome)
            self._give_up(f"as {self._endpoint.model} {useless}")
        elif outcome.stops == "always" or (outcome.stops == "first" and not self._met):
            self._give_up(f"can't be used for {self._endpoint.model}: {outcome.reason}")
        elif outcome.may_pass and job.attempts < (1 if job.known and outcome.unusable else self._endpoint.max_attempts):
            self._loop.call_later(backoff(job.put_off, outcome.retry_after), self._return, job)
            # A single fault is chance and soon tried again; waiting longer each time is for load and for outages.
            limited = outcome.http in _PUT_OFF and self._pace.limit < self._pace.most
            job.put_off += limited or self._pace.in_trouble
            self._backing_off += 1
            self._outbox.put([])  # there is room for another
        else:
            self._end(job, outcome)

    async def _ask(self, request: Any) -> Outcome:
        try:
            body, content_type = self._service.write(request)
        except ValueError as error:
            return Outcome("failed", str(error), sent=False)
        if len(body) > self._endpoint.max_request_mib * MIB:
            limit = f"more than max_request_mib={self._endpoint.max_request_mib:g} of this endpoint"
            return Outcome("failed", f"a request of {len(body) / MIB:.1f} MiB is not sent: {limit}", sent=False)
        try:
            answer = await self._transport.call("POST", self._service.path, body, self._secret, content_type)
        except NoAnswer as error:
            stops = "first" if error.unreachable else ""
            return Outcome("failed", str(error), may_pass=error.may_pass, overload=error.may_pass, stops=stops)
        return await self._service.read(request, answer)

    def _note(self, job: Job, outcome: Outcome, seconds: float) -> None:
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

    def _return(self, job: Job) -> None:
        self._backing_off -= 1
        self._again.append(job)
        self._fill()

    def _end(self, job: Job, outcome: Outcome) -> None:
        self._done.append((job, outcome))
        self._flush_soon()
        if failing := self.trust.ended(outcome):
            self._give_up(failing)

    def _give_up(self, why: str) -> None:
        self._stop(EndpointError(f"{self._endpoint.url} {why}"))

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
            results = self._service.keep(done) if done else []
        except Exception as error:
            self._stop(error)
            return
        if done:
            self._outbox.put([(job.key, result) for (job, _), result in zip(done, results, strict=True)])

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict) -> None:
        if "handle" in context:  # one of our callbacks raised: the run must end, not hang
            self._stop(context["exception"])
        else:
            loop.default_exception_handler(context)

    def _stop(self, error: BaseException) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            if self._calls or self._done:
                self._flush()
            self._outbox.put(error)
