"""How fast an endpoint may be asked: adaptive concurrency, and how long a fault waits before it is tried again."""

import random

_SMALLEST_WINDOW = 8  # answers
_TOLERATED = 1 / 3  # share of overloaded answers in a window that may be chance
_TROUBLE = 16  # overloaded answers in a row: then the endpoint is down rather than unlucky
_GROWTH = 1 / 8

FIRST_BACKOFF = 0.5  # seconds, at most
_LONGEST_BACKOFF = 30.0
LONGEST_PAUSE = 600.0  # seconds that a server may ask for by Retry-After; who asks for more is not waited for


class ConcurrencyLimiter:
    """Additive increase, multiplicative decrease (AIMD) of the requests in flight, from `maximum` on.

    A window is about one answer per request in flight. More than a third of them overloaded (429, 5xx, timeouts, broken
    connections): the limit is halved and a new epoch begins; answers to requests of an older epoch say nothing about
    the new limit and are not counted, so it is halved once per window. Else it grows by an eighth."""

    def __init__(self, maximum: int):
        self.maximum = maximum
        self.limit = float(maximum)
        self.epoch = 0
        self.not_before = 0.0  # on the loop's clock; nothing is sent earlier
        self._answers = self._overloaded = self._overloaded_in_a_row = 0

    @property
    def in_trouble(self) -> bool:
        return self._overloaded_in_a_row >= _TROUBLE

    def record(self, epoch: int, overload: bool, retry_after: float | None, now: float) -> None:
        """An answer to a request that was sent in `epoch`."""
        self._overloaded_in_a_row = self._overloaded_in_a_row + 1 if overload else 0
        if epoch != self.epoch:
            return
        self._answers += 1
        self._overloaded += overload
        window = max(_SMALLEST_WINDOW, int(self.limit))
        if self._overloaded > window * _TOLERATED:
            self.limit = max(1.0, self.limit / 2)
            self.epoch += 1
            self._answers = self._overloaded = 0
            if retry_after is not None:
                self.not_before = max(self.not_before, now + min(retry_after, LONGEST_PAUSE))
        elif self._answers >= window:
            self.limit = min(float(self.maximum), self.limit + max(1.0, self.limit * _GROWTH))
            self._answers = self._overloaded = 0


def backoff(put_off: int, retry_after: float | None) -> float:
    """Seconds until the next attempt of a request that load has put off so many times before: what the server asks and
    up to a tenth more, so that not all come back at once; where it asks for nothing, exponential with full jitter."""
    if retry_after is not None:
        return retry_after * random.uniform(1.0, 1.1)
    return random.uniform(0.0, min(_LONGEST_BACKOFF, FIRST_BACKOFF * 2**put_off))
