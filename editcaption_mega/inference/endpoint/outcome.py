"""What one attempt to ask an endpoint came to, whatever service it is: an HTTP answer, and what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Response:
    http: int
    headers: Mapping[str, str]  # whatever the case of their names
    body: bytearray  # decompressed


@dataclass(slots=True)
class Outcome:
    """What one attempt came to."""

    status: str  # as of a Reply
    reason: str = ""
    text: str = ""
    thought: str = ""
    ending: str = ""
    value: Any = None  # what the request's `parse` made of the text
    picture: bytes = b""  # of an image edit
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    http: int | None = None
    may_pass: bool = False  # worth another attempt
    overload: bool = False  # of the server or the way to it, and so a sign to slow down
    retry_after: float | None = None  # seconds, as the server asks
    sent: bool = True  # False: there is no such request, so the endpoint was not asked
    unusable: bool = False  # an answer came, and not what was asked for
    stops: str = ""  # it is the endpoint as a whole: "always" ends the run, "first" unless a reply has come before
