"""Label Studio's HTTP API: one call, its token, and its failures in a sentence."""

import json
import os
import urllib.parse
from collections.abc import Mapping
from typing import Any

from editcaption_mega.inference.endpoint.failures import error_words, read_json
from editcaption_mega.inference.endpoint.secret import Secret
from editcaption_mega.inference.endpoint.transport import (
    MIB,
    NoAnswer,
    Response,
    TooLarge,
    Transport,
    check_address,
    wait_for,
)
from editcaption_mega.words import one_line

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"

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

    timeout: seconds for a whole call."""

    def __init__(self, url: str, token: str, *, timeout: float = 120.0):
        self.url, self.timeout = url.rstrip("/"), timeout
        self._personal = token.count(".") == 2  # a JSON web token
        try:
            check_address(url, "Label Studio's url", "http://host:8080")
            self._token = Secret(token, "Token")
        except ValueError as error:
            raise LabelStudioError(f"Label Studio can't be asked: {error}") from None
        self._refresh_body = {"refresh": token} if self._personal else None
        self._access = Secret("") if self._personal else self._token

    @classmethod
    def from_environment(cls, url: str, variable: str = TOKEN_VARIABLE) -> "LabelStudio":
        """The token is in the environment variable, so that no command line or file holds it."""
        token = os.environ.get(variable, "").strip()
        if not token:
            raise LabelStudioError(f"no token: set {variable} to the one on Label Studio's page 'Account & Settings'")
        return cls(url, token)

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
            found = self._call("POST", "/api/token/refresh/", self._refresh_body, {})
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
        try:
            answer = wait_for(self._ask(method, address, data))
        except TooLarge as error:
            raise TooLargeError(f"{method} {path}: {self.url} sends {error}") from None
        except NoAnswer as error:
            raise LabelStudioError(
                f"no answer from {self.url}{path} ({error}); what arrived there stays, so start again"
            ) from None
        return self._read(method, path, answer)

    async def _ask(self, method: str, address: str, data: bytes) -> Response:
        async with Transport(self.url, timeout=self.timeout, largest=_LARGEST) as transport:
            return await transport.call(method, address, data, self._access)

    def _read(self, method: str, path: str, answer: Response) -> Any:
        if answer.http == 401:
            raise _TokenRefusedError
        if 300 <= answer.http < 400:
            where = self._clean(answer.headers.get("Location", "another address"))
            raise LabelStudioError(f"{self.url} redirects to {where}: give that server's base URL")
        try:
            found = read_json(answer.body)
        except ValueError as error:
            if 200 <= answer.http < 300:
                raise LabelStudioError(f"{self.url}{path} answers with {error}: is it Label Studio?") from None
            found = {"detail": answer.body[:65536].decode("utf-8", "replace")}
        if 200 <= answer.http < 300:
            return found
        words = self._clean(error_words(found)[1]) or "no reason given"
        raise LabelStudioError(f"{method} {path} failed with {answer.http}: {words}")

    def _clean(self, text: str) -> str:
        return one_line(self._access.redact(self._token.redact(text)))
