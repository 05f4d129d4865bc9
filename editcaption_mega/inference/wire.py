"""The OpenAI chat completion as bytes: a request's body and cache key, and what an HTTP answer means."""

import base64
import email.utils
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .answer import read_choice
from .chat import Message, Picture, Request
from .endpoint import Endpoint, Secret
from .pace import LONGEST_PAUSE

_LONGEST_LINE = 300  # characters of a server's message that are kept

# HTTP codes that say "not now" rather than "not this".
_MAY_PASS = {408, 409, 425, 429}

# How providers say that a filter, not a failure, is why there is no text: codes and wording of OpenAI, Azure, Gemini,
# DashScope, Kimi and GLM.
_FILTER = re.compile(
    r"content[ _-]?(filter|policy|management|moderation)|contentfilter|responsible ?ai|usage polic|moderation|"
    r"data_inspection|inappropriate content|sensitive content|prohibited_content|considered high risk|flagged",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(r"insufficient_quota|billing_hard_limit|insufficient balance|payment required", re.IGNORECASE)


@dataclass(slots=True)
class Outcome:
    """What one attempt came to."""

    status: str  # as of a Reply
    reason: str = ""
    text: str = ""
    thought: str = ""
    ending: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    http: int | None = None
    may_pass: bool = False  # worth another attempt
    overload: bool = False  # of the server or the way to it, and so a sign to slow down
    retry_after: float | None = None  # seconds, as the server asks
    stops: str = ""  # it is the endpoint as a whole: "always" ends the run, "first" unless a reply has come before


def body(endpoint: Endpoint, request: Request, picture: Callable[[Picture], Any]) -> dict[str, Any]:
    """The request's JSON, with `picture(p)` in the place of each picture's URL."""
    fields: dict[str, Any] = {
        "model": endpoint.model,
        "messages": messages_json(request.messages, picture),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": False,
    }
    if request.seed is not None:
        fields["seed"] = request.seed
    fields |= endpoint.extra
    return {name: value for name, value in fields.items() if value is not None}


def messages_json(messages: Iterable[Message], picture: Callable[[Picture], Any]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": _content(message.parts, picture)} for message in messages]


def body_bytes(endpoint: Endpoint, request: Request) -> bytes:
    return json.dumps(body(endpoint, request, data_url)).encode()


def cache_key(endpoint: Endpoint, request: Request) -> str:
    """sha256 over all that the answer depends on: the server, the request, the pictures' digests."""
    described = {"server": endpoint.identity, "repeat": request.repeat}
    described["body"] = body(endpoint, request, lambda picture: picture.sha256)
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def data_url(picture: Picture) -> str:
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode()}"


def _content(parts: tuple[str | Picture, ...], picture: Callable[[Picture], Any]) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]  # the older form, which every chat template takes
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": picture(part)}}
        for part in parts
    ]


def read_answer(http: int, headers: Mapping[str, str], raw: bytes) -> Outcome:
    """What an HTTP answer means. Never raises, whatever the server sent."""
    data, unreadable = {}, ""
    try:
        found = json.loads(raw)
        if isinstance(found, dict):
            data = found
        else:
            unreadable = f"a JSON {type(found).__name__} where an object was expected"
    except (ValueError, RecursionError) as error:
        # The body itself is not quoted: cut off anywhere, it could hold a part of whatever the server echoes.
        unreadable = f"a body of {len(raw)} bytes that is not JSON ({type(error).__name__})"
    if http == 200 and unreadable:
        return Outcome("failed", f"the server sent {unreadable}", http=http, may_pass=True)
    if http == 200 and "choices" in data:
        outcome = _completion(data)
        outcome.http = http
        return outcome
    return _error(http, headers, data)


def _error(http: int, headers: Mapping[str, str], data: dict) -> Outcome:
    code, message = _message(data)
    said = f"HTTP {http}" + (f": {message}" if message else "")
    if http == 200:
        # Gateways wrap the error of the server behind them; its code is inside.
        inner = int(code) if code.isdecimal() and len(code) == 3 else 0
        if inner and inner != 200:
            return replace(_error(inner, headers, data), http=http)
        if _FILTER.search(f"{code} {message}"):
            return Outcome("refused", message, http=http)
        return Outcome("failed", message or "the answer has no choices", http=http, may_pass=True)
    if http < 500 and http != 429 and _FILTER.search(f"{code} {message}"):
        return Outcome("refused", said, http=http)
    if http in (401, 402) or _NO_MONEY.search(f"{code} {message}"):
        return Outcome("failed", said, http=http, stops="always")
    if http in (403, 404):
        return Outcome("failed", said, http=http, stops="first")
    may_pass = http >= 500 or http in _MAY_PASS
    retry_after = read_retry_after(headers) if may_pass else None
    if 300 <= http < 400:
        said = f"HTTP {http}: the server sends us elsewhere; give the final address as the endpoint's url"
    return Outcome(
        "failed", said, http=http, may_pass=may_pass, overload=http >= 500 or http == 429, retry_after=retry_after
    )


def _completion(data: dict) -> Outcome:
    usage = data.get("usage") if isinstance(data.get("usage"), dict) else {}
    tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, completion_tokens = (n if type(n) is int and n >= 0 else 0 for n in tokens)
    model = data.get("model")
    outcome = Outcome(
        "ok",
        model=model if isinstance(model, str) else "",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )
    choices = data["choices"]
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        code, said = _message(data)
        if _FILTER.search(f"{code} {said} {json.dumps(data.get('prompt_feedback', ''))}"):
            return replace(outcome, status="refused", reason=said or "content filter")
        return replace(outcome, status="failed", reason="the answer has no choices", may_pass=True)
    answer = read_choice(choice)
    return replace(
        outcome, status=answer.status, reason=answer.reason, text=answer.text, may_pass=answer.may_pass,
        thought=answer.thought, ending=answer.ending,
    )  # fmt: skip


def _message(data: dict) -> tuple[str, str]:
    """(code, message) of an error body, in the forms that servers use: OpenAI's, FastAPI's, a bare string."""
    error = data.get("error", data.get("detail", data.get("message", "")))
    if not isinstance(error, dict):
        return str(data.get("code") or ""), error if isinstance(error, str) else json.dumps(error)
    inner = error.get("innererror") if isinstance(error.get("innererror"), dict) else {}
    codes = [str(part) for part in (error.get("code"), error.get("type"), inner.get("code")) if part]
    code = codes[0] if codes and codes[0].isdecimal() else " ".join(codes)
    return code, str(error.get("message") or code)


def checked(outcome: Outcome, request: Request, secret: Secret) -> Outcome:
    """The outcome (changed in place) without the key, wherever the server echoed it, and held to what the request
    requires."""
    outcome.text, outcome.thought = secret.redact(outcome.text), secret.redact(outcome.thought)
    outcome.model, outcome.ending = (one_line(secret.redact(one)) for one in (outcome.model, outcome.ending))
    if outcome.status == "ok" and request.require is not None:
        try:
            request.require(outcome.text)
        except ValueError as error:
            outcome.status, outcome.reason, outcome.may_pass = "malformed", str(error) or "unusable", True
    if (outcome.retry_after or 0) > LONGEST_PAUSE:
        outcome.reason += f" (come back in {outcome.retry_after:.0f} s: longer than is waited for)"
        outcome.may_pass = False
    outcome.reason = one_line(secret.redact(outcome.reason))
    return outcome


def one_line(text: str) -> str:
    """A server's words as one line of bounded length that a file takes."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..."


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait (a number or an HTTP date), 0 or more; None where it does not say."""
    asked = headers.get("Retry-After", "").strip()
    try:
        if "retry-after-ms" in headers:
            return max(0.0, min(float(headers["retry-after-ms"]) / 1000, 1e9))
        if re.fullmatch(r"\d+(\.\d+)?", asked):
            return min(float(asked), 1e9)
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time()) if asked else None
    except (ValueError, TypeError, OverflowError):
        return None
