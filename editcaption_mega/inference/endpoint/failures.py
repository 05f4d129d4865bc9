"""What an HTTP answer that is no result means, whatever service sent it: the one classification of failures.

Forms: OpenAI, Azure, Gemini (OpenAI-compatible; errors in a list), Anthropic, vLLM, SGLang, FastAPI (transformers
serve), Label Studio, and gateways that wrap the error of the server behind them."""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from editcaption_mega.words import one_line

from .concurrency import LONGEST_PAUSE
from .outcome import Outcome, Response
from .secret import Secret

# Brackets and separators of an answer, at most: a few bytes of JSON can become hundreds in memory.
_MOST_VALUES = 400_000
_LONGEST_MESSAGE = 20_000  # characters that are looked at; far fewer are kept
_MOST_TOKENS = 10**9  # of one call; a server that says more is not believed

# Where servers put what went wrong; the first that says something counts.
_WHERE_ERRORS = ("error", "errors", "validation_errors", "detail", "message", "error_msg", "msg")

# HTTP codes that say "not now" rather than "not this".
_MAY_PASS = {408, 409, 425, 429}

# How providers say that a filter, not a failure, is why there is no result: codes and wording of OpenAI, Azure, Gemini,
# DashScope, Kimi and GLM. "Flagged" alone can be said of an account or a model.
FILTER = re.compile(
    r"content[ _-]?(filter|policy|management|moderation)|contentfilter|responsible ?ai|usage polic|moderation|"
    r"data_inspection|inappropriate content|sensitive content|prohibited_content|considered high risk|safety system|"
    r"\b(input|prompt|request|content|message|text|image|picture|output|response)s?\b(\W+\w+){0,3}\W+flagged|"
    r"flagged (as|by|for) (\w+ )?(potential|content|safety|harm|unsafe|violat|sexual|hate|self)",
    re.IGNORECASE,
)
# HTTP codes that can be about what was asked; the others are about who asks, and where.
_ABOUT_CONTENT = {400, 403, 409, 422, 424, 451}
_NO_MONEY = re.compile(
    r"insufficient_quota|billing_hard_limit|billing_not_active|billing_error|insufficient balance|payment required|"
    r"credit balance is too low|(requests|tokens)perday",
    re.IGNORECASE,
)
# An account that is closed is closed for every request, whatever code and whatever reason it was closed for.
_CLOSED_ACCOUNT = re.compile(
    r"\b(account|organi[sz]ation|workspace|subscription|project|api key)s?\b(\W+\w+){0,4}\W+"
    r"(flagged|deactivated|suspended|disabled|banned|terminated|restricted|closed)\b|"
    r"(account|organi[sz]ation|project|key)_(deactivated|suspended|disabled|banned|terminated|restricted)",
    re.IGNORECASE,
)
# A key that is wrong is wrong for every request, whatever code says so (Gemini: 400).
_WRONG_KEY = re.compile(
    r"api_key_(invalid|expired|service_blocked)|invalid_?api_?key|incorrect api key|api key (not valid|not found)|"
    r"api key (has )?expired|api key was reported as leaked|authentication_error|unauthenticated|invalid x-api-key|"
    r"invalid_?token|(missing|invalid)( or (missing|invalid))? authorization header|no api key|invalid api.?key",
    re.IGNORECASE,
)
# A field that the server does not know is in every request. Forms: OpenAI, Gemini, Anthropic, FastAPI and Mistral.
_UNKNOWN_FIELD = re.compile(
    r"(?:unsupported|unknown|unrecognized|unexpected)(?:\s+\w+){0,2}?\s+(?:parameter|argument|field|name|value)s?"
    r"(?:\s+supplied)?[\s:]*[\"'`\\]*([a-z]\w{0,40})\b|"
    r"extra_forbidden[^{}]{0,80}\"body\", \"(\w{1,40})\"\]|\b(\w{1,40}): extra inputs are not permitted",
    re.IGNORECASE,
)
_FIELDS = ("max_tokens", "temperature", "top_p", "seed", "stream", "response_format", "size", "n")  # that are sent


def read_body(body: bytes | bytearray) -> Any:
    """The JSON of an answer. Raises ValueError that says what it is instead; the body itself is not quoted, for cut off
    anywhere it could hold a part of whatever the server echoes."""
    if len(body) > _MOST_VALUES < sum(body.count(sign) for sign in b"[{,:"):
        raise ValueError(f"a body of more than {_MOST_VALUES:,} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a body of {len(body)} bytes that is not JSON ({type(error).__name__})") from None


def read_object(answer: Response, expected: str) -> dict[str, Any] | Outcome:
    """The JSON object of an answer that has the field of a result; else what it means. Never raises."""
    try:
        data, unreadable = read_body(answer.body), ""
    except ValueError as error:
        data, unreadable = None, str(error)
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict) and "error" in data[0]:
        data = data[0]  # Gemini's form
    if 200 <= answer.http < 300:
        if not isinstance(data, dict):
            unreadable = unreadable or f"a JSON {type(data).__name__} where an object was expected"
            return Outcome("failed", f"the server sent {unreadable}", http=answer.http, may_pass=True)
        if expected in data and not data.get("error"):
            return data  # a result beside an error is a part of one
    outcome = read_error(answer.http, answer.headers, data)
    outcome.reason = outcome.reason or f"the answer has no {expected}"
    return outcome


def read_error(http: int, headers: Mapping[str, str], data: Any) -> Outcome:
    """What an error means. data: its JSON, None where there is none. Never raises."""
    code, message = error_words(data)
    words = f"{code} {message} {_details(data)}"
    described = f"HTTP {http}" + (f": {message}" if message else "")
    if 200 <= http < 300:
        # Gateways wrap the error of the server behind them; its code is inside.
        inner = int(code) if code.isascii() and code.isdecimal() and len(code) == 3 else 0
        if inner and not 200 <= inner < 300:
            return replace(read_error(inner, headers, data), http=http)
    if http in (401, 402) or _CLOSED_ACCOUNT.search(words):
        return Outcome("failed", described, http=http, stops="always")
    if (200 <= http < 300 or http in _ABOUT_CONTENT) and FILTER.search(words):
        return Outcome("refused", message if http < 300 else described, http=http)
    if _NO_MONEY.search(words) or _WRONG_KEY.search(words):
        return Outcome("failed", described, http=http, stops="always")
    if 200 <= http < 300:
        return Outcome("failed", message, http=http, may_pass=True)
    if http in (400, 422) and (mend := _without_field(words)):
        return Outcome("failed", f"{described} ({mend})", http=http, stops="first")
    if http in (403, 404, 410):
        return Outcome("failed", described, http=http, stops="first")
    may_pass = http >= 500 or http in _MAY_PASS
    retry_after = (read_retry_after(headers) or _retry_info(data)) if may_pass else None
    if 300 <= http < 400:
        described = f"HTTP {http}: the server sends us elsewhere; give the final address as the endpoint's url"
    return Outcome(
        "failed", described, http=http, may_pass=may_pass, overload=http >= 500 or http == 429, retry_after=retry_after
    )


def _without_field(words: str) -> str:
    """How to leave out the field that an error says the server does not know; "" for an error of another kind."""
    unknown = _UNKNOWN_FIELD.search(words)
    name = next(filter(None, unknown.groups())) if unknown else ""
    if name not in _FIELDS:
        return ""
    instead = ", max_completion_tokens: N" if name == "max_tokens" else ""
    return f"leave it out with extra: {{{name}: null{instead}}}"


def cleaned(outcome: Outcome, secret: Secret) -> Outcome:
    """The outcome (changed in place) with words that may be printed, logged and kept: without the key, wherever the
    server echoed it, without control characters, of bounded length."""
    if (outcome.retry_after or 0) > LONGEST_PAUSE:
        outcome.reason += f" (come back in {outcome.retry_after:.0f} s: longer than is waited for)"
        outcome.may_pass = False
    outcome.model = one_line(secret.redact(outcome.model))
    outcome.ending = one_line(secret.redact(outcome.ending))
    outcome.reason = one_line(secret.redact(outcome.reason))
    return outcome


def token_count(value: Any) -> int:
    """A server's count of tokens; 0 for what is none."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def error_words(data: Any) -> tuple[str, str]:
    """(code, message) of an error body, in the forms that servers use; ("", "") where it has none."""
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return "", ""
    error = next((data[name] for name in _WHERE_ERRORS if data.get(name)), "")
    codes = [data.get(name) for name in ("code", "error_code", "type")]
    if isinstance(error, list) and error and isinstance(error[0], dict) and "message" in error[0]:
        error = error[0]
    if isinstance(error, dict) and error is not data.get("validation_errors"):
        inner = error.get("innererror")
        inner = inner if isinstance(inner, dict) else {}
        codes = [error.get(name) for name in ("code", "type", "status")] + [inner.get("code")]
        error = next((error[name] for name in ("message", "error", "detail") if error.get(name)), "")
    written = [str(code) for code in codes if code and isinstance(code, str | int) and not _long(code)]
    code = next((code for code in written if code.isdecimal()), " ".join(written))
    return code, (error[:_LONGEST_MESSAGE] if isinstance(error, str) else as_text(error)) or code


def _long(value: str | int) -> bool:
    return value.bit_length() > 64 if isinstance(value, int) else len(value) > 200


def _details(data: Any) -> str:
    """Whatever else an error body says: reasons of Gemini's details stand nowhere else."""
    try:
        error = (data[0] if isinstance(data, list) else data)["error"]
        return as_text([error["status"], error.get("details", "")])
    except (KeyError, TypeError, IndexError, AttributeError):
        return ""


def as_text(value: Any) -> str:
    """A server's value as text of bounded length."""
    try:
        return json.dumps(value, ensure_ascii=False)[:_LONGEST_MESSAGE]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def _retry_info(data: Any) -> float | None:
    """Gemini's form of Retry-After: details of kind RetryInfo with "retryDelay": "3s"."""
    asked = re.search(r'"retryDelay": "(\d{1,9}(?:\.\d{1,9})?)s"', _details(data), re.ASCII)
    return float(asked[1]) if asked else None


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait (a number or an HTTP date), 0 or more; None where it does not say."""
    asked = headers.get("Retry-After", "").strip()
    try:
        if "retry-after-ms" in headers:
            milliseconds = float(headers["retry-after-ms"])
            return max(0.0, min(milliseconds / 1000, 1e9)) if milliseconds == milliseconds else None
        if re.fullmatch(r"\d+(\.\d+)?", asked, re.ASCII):
            return min(float(asked), 1e9)
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time()) if asked else None
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
