"""The OpenAI chat completion as bytes: a request's body and cache key, and what an HTTP answer means."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count, zip_longest
from typing import Any

import pybase64

from .address import Endpoint
from .answer import read_choice
from .failures import FILTER, as_text, cleaned, error_words, read_error, read_object, token_count
from .messages import Message, Picture, Request
from .outcome import Outcome, Response
from .secret import Secret

_MOST_FORMS = 64  # that are remembered: those of judges differ in their texts


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


class RequestWriter:
    """Bodies and cache keys of the requests to one endpoint, for any thread.

    What requests share beside their pictures (of a run's captions: all of it) is written once. Pictures go in as bytes:
    their base64 needs no escaping, and is megabytes, for which Python's own takes ten times as long as `pybase64`."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self._forms: dict[Any, _Form] = {}

    def body(self, request: Request[Any]) -> bytes:
        pictures, form = self._form(request)
        return _filled(form.body, [_data_url_bytes(picture) for picture in pictures])

    def key(self, request: Request[Any]) -> str:
        """sha256 over all that the answer depends on: the server, the request, the pictures' digests and limits."""
        pictures, form = self._form(request)
        return hashlib.sha256(_filled(form.key, [picture.sha256.encode() for picture in pictures])).hexdigest()

    def _form(self, request: Request[Any]) -> "tuple[list[Picture], _Form]":
        pictures: list[Picture] = []
        shape: list[Any] = [request.max_tokens, request.temperature, request.top_p, request.seed, request.repeat]
        shape += map(type, shape[:])  # 0 and 0.0 are equal, and two texts
        for message in request.messages:
            shape.append(message.role)
            for part in message.parts:
                if isinstance(part, Picture):
                    pictures.append(part)
                    shape.append(None)
                else:
                    shape.append(part)
            shape.append(len(message.parts))
        name = tuple(shape)
        form = self._forms.get(name)
        if form is None:
            if len(self._forms) >= _MOST_FORMS:
                self._forms.clear()
            form = self._forms[name] = self._written(request, len(pictures))
        return pictures, form

    def _written(self, request: Request[Any], pictures: int) -> "_Form":
        slot = next(name for name in map("\0{}\0".format, count()) if not _says(request, name))
        fields = body(self._endpoint, request, lambda _: slot)
        described: dict[str, Any] = {"server": self._endpoint.identity, "repeat": request.repeat}
        if pictures:
            described["pixels"] = [self._endpoint.min_pixels, self._endpoint.max_pixels]
        described["body"] = fields
        between = json.dumps(slot)[1:-1]
        return _Form(
            tuple(part.encode() for part in json.dumps(fields).split(between)),
            tuple(part.encode() for part in json.dumps(described, sort_keys=True).split(between)),
        )


@dataclass(frozen=True, slots=True)
class _Form:
    """What stands before, between and behind a request's pictures."""

    body: tuple[bytes, ...]
    key: tuple[bytes, ...]


def _says(request: Request[Any], words: str) -> bool:
    return any(isinstance(part, str) and words in part for message in request.messages for part in message.parts)


def _filled(parts: tuple[bytes, ...], between: list[bytes]) -> bytes:
    return b"".join(piece for pair in zip_longest(parts, between, fillvalue=b"") for piece in pair)


def cache_key(endpoint: Endpoint, request: Request[Any]) -> str:
    return RequestWriter(endpoint).key(request)


def _data_url_bytes(picture: Picture) -> bytes:
    return b"data:%b;base64,%b" % (picture.mime.encode(), pybase64.b64encode(picture.data))


def data_url(picture: Picture) -> str:
    return _data_url_bytes(picture).decode()


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
