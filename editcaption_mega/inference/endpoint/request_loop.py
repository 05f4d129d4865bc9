"""The half of a `RequestScheduler` that runs in an event loop: it sends, waits, tries again, and keeps what came before
it hands it on."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .address import Endpoint, EndpointError
from .cache import CallLog, call_record
from .concurrency import ConcurrencyLimiter, backoff
from .outcome import Outcome
from .secret import Secret
from .service import Job, Service
from .transport import MIB, NoAnswer, Transport
from .trust import Trust

_PUT_OFF = (429, 503, 529)

News = list[tuple[str, Any]] | BaseException  # (key, result) of requests that have ended, or what has ended the run


class RequestLoop:
    """Attempts at requests, in a thread with an event loop.

    `start`, `add`, `stop` and what is public are for the other thread; all else belongs to the loop's. hand_on: called
    in the loop's thread; with no result when only room has become free.

    A request that backs off gives its place in flight to the next one. Requests that have been sent before go first,
    and while the endpoint is in trouble no others are begun, so that an outage costs few rows."""

    def __init__(
        self,
        endpoint: Endpoint,
        secret: Secret,
        service: Service[Any, Any],
        log: CallLog | None,
        hand_on: Callable[[News], None],
    ):
        self._endpoint, self._secret, self._service, self._hand_on = endpoint, secret, service, hand_on
        self.trust = Trust()
        self.backing_off = 0  # requests that wait for their next attempt
        self._inbox: deque[Job] = deque()
        self._called = False  # whether the loop has been told of the inbox
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._begun = threading.Event()
        # From here on all belongs to the loop's thread.
        self._ledger = _Ledger(self._loop, service, log, hand_on)
        self._limiter = ConcurrencyLimiter(endpoint.max_concurrency)
        self._fresh: deque[Job] = deque()
        self._again: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._met = False  # whether a usable answer has come
        self._resuming = False

    def start(self) -> None:
        self._thread.start()
        self._begun.wait()

    def add(self, job: Job) -> None:
        self._inbox.append(job)
        if not self._called:  # one call wakes the loop for whatever has come until it looks
            self._called = True
            self._tell(self._take)

    def stop(self) -> None:
        self._tell(lambda: self._stopped.set())
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _tell(self, callback: Callable[[], None]) -> None:
        """Have the loop call it. A loop that has ended by itself has handed on the reason."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._hand_on(error)
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        self._loop.set_exception_handler(self._defect)
        self._loop.set_task_factory(asyncio.eager_task_factory)  # an attempt is on its way when it is begun
        async with Transport(
            self._endpoint.url,
            timeout=self._endpoint.timeout,
            largest=int((self._endpoint.max_reply_mib or self._service.max_reply_mib) * MIB),
            connections=self._endpoint.max_concurrency,
        ) as self._transport:
            self._begun.set()
            await self._stopped.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ledger.flush()

    def _take(self) -> None:
        self._called = False
        while self._inbox:
            self._fresh.append(self._inbox.popleft())
        self._fill()

    def _fill(self) -> None:
        if self._stopped.is_set():
            return
        limiter = self._limiter
        if self._loop.time() < limiter.not_before:
            if not self._resuming:
                self._resuming = True
                self._loop.call_at(limiter.not_before, self._resume)
            return
        while len(self._tasks) < int(limiter.limit) and not self._stopped.is_set():
            if self._again:
                job = self._again.popleft()
            elif self._fresh and not (limiter.in_trouble and self.backing_off):
                job = self._fresh.popleft()
            else:
                return
            task = self._loop.create_task(self._attempt(job))
            self._tasks.add(task)
            task.add_done_callback(self._attempted)

    def _resume(self) -> None:
        self._resuming = False
        self._fill()

    def _attempted(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)  # a defect, ours or that of the service: it must reach the caller
        self._fill()

    async def _attempt(self, job: Job) -> None:
        epoch, begun = self._limiter.epoch, self._loop.time()
        job.attempts += 1
        outcome = await self._ask(job.request)
        now = self._loop.time()
        self._limiter.record(epoch, outcome.overload, outcome.retry_after, now)
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
            limited = outcome.http in _PUT_OFF and self._limiter.limit < self._limiter.maximum
            job.put_off += limited or self._limiter.in_trouble
            self.backing_off += 1
            self._hand_on([])  # there is room for another
        else:
            self._end(job, outcome)

    async def _ask(self, request: Any) -> Outcome:
        body, content_type = self._service.write(request)
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
        cost = self._endpoint.cost(outcome.prompt_tokens, outcome.completion_tokens)
        self._ledger.note(
            call_record(job.request.id, job.key, self._endpoint.model, job.attempts, outcome, seconds, cost)
        )

    def _return(self, job: Job) -> None:
        self.backing_off -= 1
        self._again.append(job)
        self._fill()

    def _end(self, job: Job, outcome: Outcome) -> None:
        self._ledger.end(job, outcome)
        if failing := self.trust.ended(outcome):
            self._give_up(failing)

    def _give_up(self, why: str) -> None:
        self._stop(EndpointError(f"{self._endpoint.url} {why}"))

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:  # one of our callbacks raised: the run must end, not hang
            self._stop(context["exception"])
        else:
            loop.default_exception_handler(context)

    def _stop(self, error: BaseException) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._ledger.flush()
            self._hand_on(error)


class _Ledger:
    """What has ended is kept, then handed on; what ends within one turn of the loop shares a transaction.

    All in the loop's thread; where something can't be kept, that is raised from a callback of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        service: Service[Any, Any],
        log: CallLog | None,
        hand_on: Callable[[News], None],
    ):
        self._loop, self._service, self._log, self._hand_on = loop, service, log, hand_on
        self._calls: list[dict[str, Any]] = []
        self._done: list[tuple[Job, Outcome]] = []
        self._flushing = False

    def note(self, call: dict[str, Any]) -> None:
        if self._log is not None:
            self._calls.append(call)
            self._flush_soon()

    def end(self, job: Job, outcome: Outcome) -> None:
        self._done.append((job, outcome))
        self._flush_soon()

    def flush(self) -> None:
        calls, done = self._calls, self._done
        self._calls, self._done, self._flushing = [], [], False
        if self._log is not None and calls:
            self._log.append(calls)
        if done:
            results = self._service.keep(done)
            self._hand_on([(job.key, result) for (job, _), result in zip(done, results, strict=True)])

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)
