"""What a `RequestScheduler` must know of a service, and a request on its way to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .outcome import Outcome, Response


@dataclass(slots=True)
class Job:
    key: str  # requests of one key ask the same, so one of them is asked for all
    request: Any
    kept: Any = None  # the result, where an earlier run has it
    known: bool = False  # an earlier run got no usable answer to it: then it is asked once
    attempts: int = 0
    put_off: int = 0  # times that the server had too much to do
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Service[Asked, Result](Protocol):
    """What an endpoint is asked: how a request is written, what its answer means, how the result is kept.

    A request has an `id`. `look_up`, `fit` and `unsendable` are called in the caller's thread; `write`, `read` and
    `keep` in that of the event loop. What they raise, beyond what is said here, ends the run."""

    path: str  # after the endpoint's url
    max_reply_mib: float  # where the endpoint does not say
    look_ahead: int  # requests that wait for their first attempt

    def look_up(self, requests: Sequence[Asked]) -> Iterator[Job]:
        """A job for each, in order, with the result that is kept."""
        ...

    def fit(self, request: Asked) -> Asked:
        """The request as it is sent. Raises ValueError when there is no such request."""
        ...

    def unsendable(self, request: Asked, reason: str) -> Result:
        """The result of a request that `fit` refuses."""
        ...

    def write(self, request: Asked) -> tuple[bytes, str]:
        """The body and its content type."""
        ...

    async def read(self, request: Asked, answer: Response) -> Outcome:
        """What the answer means, in words that may be printed and kept."""
        ...

    def keep(self, done: Sequence[tuple[Job, Outcome]]) -> list[Result]:
        """What the caller gets of each of these requests that have ended, kept where it is worth it."""
        ...
