"""The OpenAI chat completion as bytes: a request's body and cache key, and what an HTTP answer means."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .address import Endpoint
from .answer import read_choice
from .failures import FILTER, as_text, cleaned, error_words, read_error, read_object, token_count
from .messages import Message, Picture, Request
from .outcome import Outcome, Response
from .secret import Secret


def body(endpoint: Endpoint, request: Request[Any], picture: Callable[[Picture], Any]) -> dict[str, Any]:
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


def body_bytes(endpoint: Endpoint, request: Request[Any]) -> bytes:
    return json.dumps(body(endpoint, request, data_url)).encode()


def cache_key(endpoint: Endpoint, request: Request[Any]) -> str:
    """sha256 over all that the answer depends on: the server, the request, the pictures' digests and limits."""
    described: dict[str, Any] = {"server": endpoint.identity, "repeat": request.repeat}
    if any(isinstance(part, Picture) for message in request.messages for part in message.parts):
        described["pixels"] = [endpoint.min_pixels, endpoint.max_pixels]
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


def read_completion(answer: Response, *, quotes: bool = False) -> Outcome:
    """What an HTTP answer means; quotes: as `Request.quotes`. Never raises, whatever the server sent."""
    data = read_object(answer, "choices")
    if isinstance(data, Outcome):
        return data
    outcome = _completion(data, quotes)
    outcome.http = answer.http
    return outcome


def _completion(data: dict[str, Any], quotes: bool) -> Outcome:
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    model = data.get("model")
    outcome = Outcome(
        "ok",
        model=model if isinstance(model, str) else "",
        prompt_tokens=token_count(usage.get("prompt_tokens")),
        completion_tokens=token_count(usage.get("completion_tokens")),
    )
    choices = data["choices"]
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not ({"message", "finish_reason"} & choice.keys()):
        code, words = error_words(data)
        if FILTER.search(f"{code} {words} {as_text(data.get('prompt_feedback', ''))}"):
            return replace(outcome, status="refused", reason=words or "content filter")
        return replace(outcome, status="failed", reason="the answer has no choices", may_pass=True)
    message = choice.get("message")
    for place in (choice, message if isinstance(message, dict) else {}):
        if place.get("error"):  # what stands beside it is a part of an answer
            error = read_error(200, {}, {"error": place["error"]})
            return replace(
                outcome, status=error.status, reason=error.reason, may_pass=error.may_pass, stops=error.stops
            )
    answer = read_choice(choice, quotes=quotes)
    outcome.status, outcome.text, outcome.reason = answer.status, answer.text, answer.reason
    outcome.thought, outcome.ending, outcome.may_pass = answer.thought, answer.ending, answer.may_pass
    return outcome


def checked(outcome: Outcome, request: Request[Any], secret: Secret) -> Outcome:
    """The outcome (changed in place) without the key, wherever the server echoed it, and with the value of its text, or
    the reason why it has none."""
    outcome.text, outcome.thought = secret.redact(outcome.text), secret.redact(outcome.thought)
    if outcome.status == "ok" and request.parse is not None:
        try:
            outcome.value = request.parse(outcome.text)
        except ValueError as error:
            outcome.status, outcome.reason, outcome.may_pass = "malformed", str(error) or "unusable", True
    outcome.unusable = outcome.status == "malformed" or (outcome.status == "truncated" and request.parse is not None)
    return cleaned(outcome, secret)
