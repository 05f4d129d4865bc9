"""The nouns of a conversation with a model endpoint: what is asked, what comes back, and what it adds up to."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from editcaption_mega.data.images.formats import media_type

STATUSES = ("ok", "truncated", "refused", "malformed", "failed")


@dataclass(frozen=True)
class Picture:
    """An encoded image; sent as a base64 data URL."""

    data: bytes = field(repr=False)
    limited: bool = False  # `PictureLimits` has made it what is sent

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def mime(self) -> str:
        """From the first bytes. Raises ValueError for anything but PNG, JPEG, WebP and GIF."""
        return media_type(self.data)


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    parts: tuple[str | Picture, ...]  # sent in this order


@dataclass(frozen=True)
class Request[Value]:
    id: str  # unique within one call of `complete`
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    repeat: int = 0  # part of the cache key, so n repeats are n calls
    # What a text is worth (`Reply.value`). Raises ValueError(why) when it is of no use: then it is asked for again, up
    # to `max_attempts` times. Not part of the cache key; a kept reply that it refuses is asked for anew.
    parse: Callable[[str], Value] | None = None
    # The reply may quote a text of somebody else, so a mark of a thought inside it means nothing (`answer.py`).
    quotes: bool = False


@dataclass(frozen=True)
class Reply[Value]:
    """How a request ended.

    ok; truncated: cut off at max_tokens; refused: by the model or a content filter; malformed: there is no answer in it
    (`answer.py`), or `parse` refuses it, at every attempt; failed: no usable answer came, or the server would not
    have the request."""

    id: str
    status: str  # one of STATUSES
    text: str  # of an ok or truncated reply, and of one that `parse` refuses (the last attempt's); else ""
    reason: str  # one sentence, unless ok
    model: str  # the version that the server says it served
    # Over all attempts that this reply took; of a cached reply, when it was made.
    prompt_tokens: int
    completion_tokens: int
    cost: float
    attempts: int
    cached: bool
    thought: str = ""  # what the model wrote before its answer
    ending: str = ""  # the server's word for why the text ends; "" where it gave none
    value: Value | None = None  # what `parse` made of the text of an ok reply; None without a `parse`


@dataclass
class Usage:
    """Totals over replies. Tokens, cost and attempts are those of this run: a cached reply adds none."""

    calls: int = 0  # replies
    attempts: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    by_status: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Reply[Any]) -> None:
        self.calls += 1
        self.by_status[reply.status] += 1
        if reply.cached:
            self.cached += 1
            return
        self.attempts += reply.attempts
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cost += reply.cost

    def join(self, other: "Usage") -> None:
        self.calls += other.calls
        self.attempts += other.attempts
        self.cached += other.cached
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cost += other.cost
        self.by_status += other.by_status

    def __str__(self) -> str:
        ends = ", ".join(f"{self.by_status[status]} {status}" for status in STATUSES if self.by_status[status])
        spent = f"{self.prompt_tokens} + {self.completion_tokens} tokens"
        cost = f", cost {self.cost:.4g}" if self.cost else ""
        return f"{self.calls} replies ({ends or 'none'}; {self.cached} cached), {self.attempts} attempts, {spent}{cost}"
