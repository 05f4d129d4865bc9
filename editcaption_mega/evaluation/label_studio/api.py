"""Label Studio's HTTP API: one call, its token, and its failures in a sentence.

Calls go out, wait, are logged and fail as those of model endpoints, through the same transport, backoff, call log and
classification of errors. They come one at a time, so there is no scheduler; and nothing is cached, since people go on
working."""

import contextlib
import json
import os
import time
import urllib.parse
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from editcaption_mega.inference.endpoint.address import check_address
from editcaption_mega.inference.endpoint.cache import CallLog, call_record
from editcaption_mega.inference.endpoint.concurrency import backoff
from editcaption_mega.inference.endpoint.failures import cleaned, error_words, read_body, read_error
from editcaption_mega.inference.endpoint.outcome import Outcome, Response
from editcaption_mega.inference.endpoint.secret import Secret
from editcaption_mega.inference.endpoint.transport import MIB, NoAnswer, TooLarge, Transport, wait_for
from editcaption_mega.words import one_line

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"

_REFRESH = "/api/token/refresh/"
_LARGEST = 24 * MIB  # of one answer; exports are asked for in parts


class LabelStudioError(ValueError):
    """The server refused, or nothing usable answered. One printable sentence that never holds the token."""

    def __init__(self, sentence: str):
        super().__init__(one_line(sentence, 1000))


class TooLargeError(LabelStudioError):
    """The answer is larger than is read at once."""


class _TokenRefusedError(Exception):
    pass


class LabelStudio:
    """One server. The token is a legacy one or a personal access token, which is exchanged for short-lived ones.

    timeout: seconds for an attempt, from the connection to the last byte. max_attempts: of a call that may be made
    again: one that only asks, or that the server turned away (429). log: the folder whose calls.jsonl gets a line per
    attempt."""

    def __init__(
        self, url: str, token: str, *, timeout: float = 120.0, max_attempts: int = 6, log: str | Path | None = None
    ):
        self.url, self.timeout, self.max_attempts = url.rstrip("/"), timeout, max_attempts
        self._log = log
        self._met = False  # whether the server has answered
        self._personal = token.count(".") == 2  # a JSON web token
        try:
            check_address(url, "Label Studio's url", "http://host:8080")
            self._token = Secret(token, "Token")
        except ValueError as error:
            raise LabelStudioError(f"Label Studio can't be asked: {error}") from None
        self._refresh_body = {"refresh": token} if self._personal else None
        self._access = Secret("") if self._personal else self._token

    @classmethod
    def from_environment(
        cls, url: str, variable: str = TOKEN_VARIABLE, *, log: str | Path | None = None
    ) -> "LabelStudio":
        """The token is in the environment variable, so that no command line or file holds it."""
        token = os.environ.get(variable, "").strip()
        if not token:
            raise LabelStudioError(f"no token: set {variable} to the one on Label Studio's page 'Account & Settings'")
        return cls(url, token, log=log)

    def __repr__(self) -> str:
        return f"LabelStudio({self.url!r})"

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON that comes back. Raises LabelStudioError, and nothing else whatever the server does."""
        if self._personal and not self._access:
            self._refresh()
        try:
            try:
                return self._call(method, path, body, query)
            except _TokenRefusedError:
                if not self._personal:
                    raise
            self._refresh()  # an access token lives for some minutes
            return self._call(method, path, body, query)
        except _TokenRefusedError:
            raise LabelStudioError(f"{self.url} refuses the token (401): is it of this server, and whole?") from None

    def odd(self, what: str) -> LabelStudioError:
        """For an answer that is JSON, but not what the API promises."""
        return LabelStudioError(f"{self.url} does not answer as Label Studio does ({self._clean(what)}): is it one?")

    def field[Kind](self, data: Any, name: str, kind: type[Kind]) -> Kind:
        """A field of an answer. Raises LabelStudioError where it is missing or of another type."""
        value = data.get(name) if isinstance(data, dict) else None
        if type(value) is not kind:
            raise self.odd(f"{name} is {type(value).__name__}, expected {kind.__name__}")
        return value

    def objects(self, data: Any, what: str) -> list[dict[str, Any]]:
        """A list of objects. Raises LabelStudioError for anything else."""
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise self.odd(f"{what} are no list of objects")
        return data

    def _refresh(self) -> None:
        self._access = Secret("")
        try:
            found = self._call("POST", _REFRESH, self._refresh_body, {})
            self._access = Secret(self.field(found, "access", str))
        except _TokenRefusedError:
            raise LabelStudioError(f"{self.url} does not take the personal access token: make a new one") from None
        except LabelStudioError:
            raise
        except ValueError:
            raise self.odd("access is no token") from None

    def _call(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> Any:
        address = path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else "")
        data = b"" if body is None else json.dumps(body).encode()
        for attempt in count(1):
            begun = time.monotonic()
            try:
                answer: Response | NoAnswer = wait_for(self._ask(method, address, data))
            except NoAnswer as error:
                answer = error
            content, outcome = self._judged(answer)
            self._note(f"{method} {path}", attempt, outcome, time.monotonic() - begun)
            repeatable = method == "GET" or path == _REFRESH or outcome.http == 429
            if not (outcome.may_pass and repeatable and attempt < self.max_attempts):
                break
            time.sleep(backoff(attempt - 1, outcome.retry_after))
        if isinstance(answer, TooLarge):
            raise TooLargeError(f"{method} {path}: {self.url} sends {answer}")
        if isinstance(answer, NoAnswer):
            raise LabelStudioError(
                f"no answer from {self.url}{path} ({answer}); what arrived there stays, so start again"
            )
        return self._result(method, path, answer, content)

    async def _ask(self, method: str, address: str, data: bytes) -> Response:
        async with Transport(self.url, timeout=self.timeout, largest=_LARGEST) as transport:
            return await transport.call(method, address, data, self._access)

    def _judged(self, answer: Response | NoAnswer) -> tuple[Any, Outcome]:
        """What an attempt came to: the answer's JSON, or the error that there is in its place; and whether another
        attempt may end better."""
        if isinstance(answer, NoAnswer):
            # Where nobody ever was, nobody is waited for.
            may_pass = answer.may_pass and (self._met or not answer.unreachable)
            return answer, Outcome("failed", str(answer), may_pass=may_pass)
        self._met = True
        try:
            content = read_body(answer.body)
        except ValueError as error:
            content = error
        if 200 <= answer.http < 300:
            return content, Outcome("ok", http=answer.http)
        described = None if isinstance(content, ValueError) else content
        outcome = cleaned(read_error(answer.http, answer.headers, described), self._token)
        outcome.reason = self._clean(outcome.reason)
        return content, outcome

    def _note(self, call: str, attempt: int, outcome: Outcome, seconds: float) -> None:
        if self._log is not None:
            with contextlib.closing(CallLog(Path(self._log))) as log:
                log.append([call_record(call, "", "Label Studio", attempt, outcome, seconds)])

    def _result(self, method: str, path: str, answer: Response, content: Any) -> Any:
        if answer.http == 401:
            raise _TokenRefusedError
        if 300 <= answer.http < 400:
            where = self._clean(answer.headers.get("Location", "another address"))
            raise LabelStudioError(f"{self.url} redirects to {where}: give that server's base URL")
        if 200 <= answer.http < 300:
            if isinstance(content, ValueError):
                raise LabelStudioError(f"{self.url}{path} answers with {content}: is it Label Studio?")
            return content
        if isinstance(content, ValueError):
            content = {"detail": answer.body[:65536].decode("utf-8", "replace")}
        words = self._clean(error_words(content)[1]) or "no reason given"
        raise LabelStudioError(f"{method} {path} failed with {answer.http}: {words}")

    def _clean(self, text: str) -> str:
        return one_line(self._access.redact(self._token.redact(text)))
