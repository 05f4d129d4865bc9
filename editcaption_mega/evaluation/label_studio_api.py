"""Label Studio's HTTP API: one call, its token, and its failures in a sentence."""

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"


class LabelStudioError(ValueError):
    """The server refused, or nothing usable answered. Never holds the token."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would take the token along to another host, and make a GET of a POST."""

    def redirect_request(self, request, file, code, message, headers, url):
        raise LabelStudioError(f"Label Studio redirects to {url}: give that server's base URL")


class LabelStudio:
    """One server. The token is a legacy one or a personal access token, which is exchanged for short-lived ones."""

    def __init__(self, url: str, token: str, *, timeout: float = 120.0):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise LabelStudioError(f"url is {url!r}, expected that of a Label Studio server, such as http://host:8080")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._token = token
        self._personal = token.count(".") == 2  # a JSON web token
        self._authorization = "" if self._personal else f"Token {token}"
        self._opener = urllib.request.build_opener(_NoRedirects)

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
        """The JSON that comes back. Raises LabelStudioError."""
        if self._personal and not self._authorization:
            self._refresh()
        try:
            return self._call(method, path, body, query)
        except PermissionError:
            if not self._personal:
                raise LabelStudioError(
                    f"{self.url} refuses the token (401): is it of this server, and whole?"
                ) from None
        self._refresh()  # an access token lives for some minutes
        try:
            return self._call(method, path, body, query)
        except PermissionError:
            raise LabelStudioError(f"{self.url} refuses the token (401): is it of this server, and whole?") from None

    def _refresh(self) -> None:
        self._authorization = ""
        try:
            found = self._call("POST", "/api/token/refresh/", {"refresh": self._token}, {})
            self._authorization = f"Bearer {found['access']}"
        except (PermissionError, KeyError, TypeError):
            raise LabelStudioError(f"{self.url} does not take the personal access token: make a new one") from None

    def _call(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> Any:
        address = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
        if self._authorization:
            request.add_header("Authorization", self._authorization)
        try:
            with self._opener.open(request, timeout=self.timeout) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise PermissionError from None
            told = self._without_token(error.read(2000).decode("utf-8", "replace"))
            raise LabelStudioError(f"{method} {path} failed with {error.code}: {_detail(told)}") from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise LabelStudioError(
                f"no answer from {self.url}{path} ({why}); what arrived there stays, so start again"
            ) from None
        except json.JSONDecodeError:
            raise LabelStudioError(
                f"{self.url}{path} answers with something that is not JSON: is it Label Studio?"
            ) from None

    def _without_token(self, text: str) -> str:
        return text.replace(self._token, "***")


def _detail(body: str) -> str:
    try:
        found = json.loads(body)
        return json.dumps(found.get("validation_errors") or found["detail"], ensure_ascii=False)
    except (json.JSONDecodeError, KeyError, AttributeError):
        return " ".join(body.split())[:200] or "no reason given"
