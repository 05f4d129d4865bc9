"""Replies of an endpoint, or of a server of the job's own that may die on the way."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol, cast

from editcaption_mega.inference.endpoint.address import Endpoint, EndpointError
from editcaption_mega.inference.endpoint.client import complete
from editcaption_mega.inference.endpoint.messages import Reply, Request


class Served(Protocol):
    """A server of the job's own: an `OwnServer`, or another process's."""

    @property
    def alive(self) -> bool: ...
    def url(self) -> str: ...
    def is_healthy(self) -> bool: ...


class _Died(Exception):
    """The server is gone, so its requests are of no use until it is back."""


def replies[Value](
    endpoint: Endpoint | Callable[[str], Endpoint],
    server: Served | None,
    unanswered: Callable[[], Iterator[Request[Value]]],
    cache: Path,
) -> Iterator[Reply[Value]]:
    """As `complete`. With a server of our own, `endpoint` makes an endpoint of its address, and what was in flight when
    it died is asked again of the next one, without counting as an attempt.

    unanswered: the requests of which no reply was yielded yet, each with an id of its own; called again after each
    restart. Raises what `complete` does, and ServerError when the server died too often."""
    if server is None:
        assert isinstance(endpoint, Endpoint)
        yield from complete(endpoint, unanswered(), cache, ids_differ=True)
        return
    assert not isinstance(endpoint, Endpoint)
    while True:
        at = endpoint(server.url())
        try:
            asked = complete(at, _Watched(unanswered(), server), cache, ids_differ=True)
            with closing(cast(Generator[Reply[Value]], asked)) as stream:
                for reply in stream:
                    if reply.status == "failed" and not server.is_healthy():
                        raise _Died
                    yield reply
            return
        except _Died:
            pass
        except EndpointError:
            if server.is_healthy():
                raise


class _Watched[Value]:
    """Requests while the server lives. The client asks for one whenever there is room, also where an attempt has just
    failed, so that it learns of a death at once."""

    def __init__(self, requests: Iterator[Request[Value]], server: Served):
        self._requests, self._server = requests, server

    def __iter__(self) -> "_Watched[Value]":
        return self

    def __next__(self) -> Request[Value]:
        if not self._server.alive:
            raise _Died
        return next(self._requests)
