"""A model behind an OpenAI-compatible address: where it is, its limits and prices."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from editcaption_mega.settings import EndpointSettings, PixelLimits

from .secret import Secret

# What a message names; lower case letters are refused, since a key pasted here by mistake mostly has some.
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")

# Least and most of each number: what is beyond is a slip, and some of it would stop a run in the middle.
_RANGES = {
    "max_concurrency": (1, 10_000),
    "timeout": (0.001, 7 * 86_400),
    "max_attempts": (1, 1000),
    "prompt_price": (0, 1e6),
    "completion_price": (0, 1e6),
    "max_request_mib": (0.001, 1024),
    "max_reply_mib": (0, 1024),
}


def check_address(url: str, what: str, example: str = "http://host:8000/v1") -> None:
    """Raises ValueError for an address that can never work or that holds a secret: addresses are written to caches and
    reports. what: whose address it is, for the message, which does not show it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and url.isprintable() and " " not in url
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{what} must look like {example}: this one is no such address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{what} at {parts.hostname} has a user name, a password, a query or a fragment in it: give the plain "
            "address, and the key by its environment variable"
        )


class EndpointError(RuntimeError):
    """The endpoint as a whole is of no use (key refused, nobody there, unknown model): the run stops with one sentence
    rather than failing its rows one by one."""

    exit_code = 1


@dataclass
class Endpoint(EndpointSettings, PixelLimits):
    """An endpoint that can be asked: its settings, checked, and the limits of the pictures that it is sent, upright and
    opaque: as a Qwen3-VL in process sees them. Raises ValueError at construction for what can never work. Not to be
    changed then. The key itself is never in here."""

    @classmethod
    def of(cls, settings: EndpointSettings, pictures: PixelLimits) -> "Endpoint":
        """pictures: whose limits hold, so that an endpoint gets the pictures that models in process get."""
        values = {part.name: getattr(settings, part.name) for part in fields(EndpointSettings)}
        return cls(**values, min_pixels=pictures.min_pixels, max_pixels=pictures.max_pixels)

    def __post_init__(self) -> None:
        check_address(self.url, "an endpoint's url")
        if not self.model:
            raise ValueError(f"endpoint {self.url}: model is empty; give the name that the server knows")
        if self.api_key_env and not _VARIABLE_NAME.fullmatch(self.api_key_env):
            raise ValueError(
                f"endpoint {self.url}: api_key_env must be the name of an environment variable in capitals, such as "
                "OPENAI_API_KEY, and not the key itself"
            )
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:  # NaN is in no range
                raise ValueError(f"endpoint {self.url}: {name}={getattr(self, name)} must lie in {least:g} .. {most:g}")
        self.check_pixels(f"endpoint {self.url}: pictures")
        if "messages" in self.extra or "stream" in self.extra or "n" in self.extra:
            raise ValueError(f"endpoint {self.url}: extra must not hold messages, stream or n: the client sets them")
        try:
            json.dumps(dict(self.extra), allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(f"endpoint {self.url}: extra must be plain JSON") from None

    @cached_property
    def identity(self) -> str:
        """Which server this is: replies of one are never those of another, whatever their models are called."""
        if self.cache_as:
            return self.cache_as.rstrip("/")
        parts = urlsplit(self.url)
        standard = {"http": 80, "https": 443}[parts.scheme]
        name = parts.hostname or ""  # check_address has held it to have one
        host = f"[{name}]" if ":" in name else name
        port = f":{parts.port}" if parts.port not in (None, standard) else ""
        return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def secret(self) -> Secret:
        """The key from the environment. Raises ValueError when its variable is missing, empty or no key at all."""
        return Secret.from_environment(self.api_key_env, self.url) if self.api_key_env else Secret("")


def refuse_mixed(
    candidates: Mapping[str, Endpoint],
    judges: Mapping[str, Endpoint],
    asking: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Raises ValueError when one's replies would be another's: two addresses or two keys that share kept replies, two
    candidates or two judges that ask one server for the same.

    Each: who asks ("model base", "judge gpt") -> where. asking: who -> what else its requests depend on."""
    seen: dict[tuple[str, str], tuple[str, Endpoint]] = {}
    for name, endpoint in [*candidates.items(), *judges.items()]:
        first, other = seen.setdefault((endpoint.identity, endpoint.model), (name, endpoint))
        if first != name and other.api_key_env != endpoint.api_key_env:
            raise ValueError(
                f"{first} and {name} ask for {endpoint.model!r} of {endpoint.identity} with two keys "
                f"({other.api_key_env or 'none'}, {endpoint.api_key_env or 'none'}) and would share its replies: give "
                "each its own cache_as if a key decides what is served, or both the same key"
            )
        if replace(other, cache_as="").identity != replace(endpoint, cache_as="").identity:
            raise ValueError(
                f"{first} and {name} ask for {endpoint.model!r} at two addresses ({other.url}, {endpoint.url}) and "
                f"would share the replies kept for {endpoint.identity}: give each its own cache_as, or none"
            )
    for what, endpoints in (("texts", candidates), ("judgements", judges)):
        asked: dict[str, str] = {}
        for name, endpoint in endpoints.items():
            fields = {**asking.get(name, {}), **endpoint.extra}
            first = asked.setdefault(json.dumps([endpoint.identity, endpoint.model, fields], sort_keys=True), name)
            if first != name:
                raise ValueError(
                    f"{first} and {name} ask for the same: {endpoint.model!r} of {endpoint.identity}, so both would "
                    f"have one set of {what}; leave one out, or if other weights were served there in the meantime, "
                    "give each its own cache_as"
                )
