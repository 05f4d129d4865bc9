"""A model behind an OpenAI-compatible address: where it is, its limits and prices, and the secret that opens it."""

import base64
import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

# Shorter "keys" (EMPTY, none) are what local servers are content with; taking such words out of texts would harm them.
_SHORTEST_SECRET = 8
# What a message names; lower case letters are refused, since a key pasted here by mistake mostly has some.
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


class EndpointError(RuntimeError):
    """The endpoint as a whole is of no use (key refused, nobody there, unknown model): the run stops with one sentence
    rather than failing its rows one by one."""

    exit_code = 1


@dataclass(frozen=True)
class Endpoint:
    """Raises ValueError at construction for what can never work. The key itself is never in here."""

    url: str  # base address up to and with /v1: requests go to {url}/chat/completions
    model: str  # the server's name for the model
    api_key_env: str = ""  # name of the environment variable that holds the key; empty: no key
    max_concurrency: int = 32  # requests in flight, at most
    timeout: float = 300.0  # seconds per attempt
    max_attempts: int = 6  # for faults that may pass
    prompt_price: float = 0.0  # per million tokens, in any currency
    completion_price: float = 0.0
    # Further fields of the request body, part of the cache key; null takes a field out ({"max_tokens": None}).
    extra: Mapping[str, Any] = field(default_factory=dict)
    # What replies are kept under in the place of the address: that of a server which moved, or a mark of the weights
    # that an address serves today ("step 2000"). Empty: the address.
    cache_as: str = ""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("an endpoint's url must look like http://host:8000/v1: this one is no such address")
        if parts.username or parts.password or parts.query or parts.fragment:
            # The address is written to caches and reports, so a secret must not be part of it: it is not shown here.
            raise ValueError(
                f"the endpoint at {parts.hostname} has a user name, a password, a query or a fragment in its url: give "
                "the plain address, and the key by api_key_env"
            )
        if not self.model:
            raise ValueError(f"endpoint {self.url}: model is empty; give the name that the server knows")
        if self.api_key_env and not _VARIABLE_NAME.fullmatch(self.api_key_env):
            raise ValueError(
                f"endpoint {self.url}: api_key_env must be the name of an environment variable in capitals, such as "
                "OPENAI_API_KEY, and not the key itself"
            )
        for name, least in (("max_concurrency", 1), ("max_attempts", 1), ("prompt_price", 0), ("completion_price", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"endpoint {self.url}: {name}={getattr(self, name)} must be at least {least}")
        if not self.timeout > 0:
            raise ValueError(f"endpoint {self.url}: timeout={self.timeout} must be above 0 seconds")
        if "messages" in self.extra or "stream" in self.extra or "n" in self.extra:
            raise ValueError(f"endpoint {self.url}: extra must not hold messages, stream or n: the client sets them")
        try:
            json.dumps(dict(self.extra), allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(f"endpoint {self.url}: extra must be plain JSON") from None

    @property
    def identity(self) -> str:
        """Which server this is: replies of one are never those of another, whatever their models are called."""
        if self.cache_as:
            return self.cache_as.rstrip("/")
        parts = urlsplit(self.url)
        standard = {"http": 80, "https": 443}[parts.scheme]
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        port = f":{parts.port}" if parts.port not in (None, standard) else ""
        return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def proxy(self) -> str | None:
        """The proxy that the environment names for this address (HTTP_PROXY and its kin), as other clients take it."""
        parts = urlsplit(self.url)
        return None if proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)

    def secret(self) -> "Secret":
        """The key from the environment. Raises ValueError when its variable is missing, empty or no key at all."""
        if not self.api_key_env:
            return Secret("")
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ValueError(
                f"the environment variable {self.api_key_env} is missing or empty: it must hold the key of {self.url}"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError(
                f"the environment variable {self.api_key_env} holds something else than a key (spaces, line breaks or "
                "other signs that no HTTP header can carry)"
            )
        return Secret(key)


def refuse_mixed(candidates: Mapping[str, Endpoint], others: Mapping[str, Endpoint]) -> None:
    """Raises ValueError when one candidate's texts would be another's: two addresses that share kept replies, or two
    candidates that ask one server for the same. Others (judges) may ask one server for the same.

    Each: who asks ("model base", "judge gpt") -> where."""
    seen: dict[tuple[str, str], tuple[str, Endpoint]] = {}
    for name, endpoint in [*candidates.items(), *others.items()]:
        first, other = seen.setdefault((endpoint.identity, endpoint.model), (name, endpoint))
        if replace(other, cache_as="").identity != replace(endpoint, cache_as="").identity:
            raise ValueError(
                f"{first} and {name} ask for {endpoint.model!r} at two addresses ({other.url}, {endpoint.url}) and "
                f"would share the replies kept for {endpoint.identity}: give each its own cache_as, or none"
            )
    asked: dict[str, str] = {}
    for name, endpoint in candidates.items():
        first = asked.setdefault(json.dumps([endpoint.identity, endpoint.model, dict(endpoint.extra)]), name)
        if first != name:
            raise ValueError(
                f"{first} and {name} ask for the same: {endpoint.model!r} of {endpoint.identity}, so both would have "
                "one set of texts; if other weights were served there in the meantime, give each its own cache_as"
            )


class Secret:
    """A key that shows itself nowhere: not in its repr, and `redact` takes it out of whatever a server echoes."""

    def __init__(self, key: str):
        self._key = key
        quoted = key.replace("'", "\\'")  # as Python shows a text that has both kinds of quotes
        spellings = {key, quoted, json.dumps(key)[1:-1], html.escape(key), quote(key, safe=""), _base64(key)}
        self._spellings = sorted(spellings, key=len, reverse=True) if len(key) >= _SHORTEST_SECRET else []

    def __repr__(self) -> str:
        return "Secret(...)"

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def redact(self, text: str) -> str:
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, "[key]")
        return text


def _base64(key: str) -> str:
    """What of the key's base64 form does not depend on the padding."""
    return base64.b64encode(key.encode()).decode().rstrip("=")
