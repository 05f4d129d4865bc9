"""HTTP, for every service that is asked: one deadline, bounded answers, no redirects, no cookies.

A request goes to the configured address or nowhere. A key is in its header alone, and only a call that is given one
sends it. Nothing else in the package opens connections to servers."""

import asyncio
import io
import os
import select
import threading
import weakref
import zlib
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from .outcome import Response
from .secret import Secret

_CONNECT_SECONDS = 30.0
MIB = 1 << 20
_LARGE_BODY = MIB // 16
_OF_THE_BODY = ("Content-Length", "Transfer-Encoding")
_BEFORE_AN_ANSWER = frozenset(range(100, 200)) - {101}  # codes


class NoAnswer(Exception):
    """No usable answer came; the text says why and quotes nothing that the server sent."""

    def __init__(self, reason: str, *, may_pass: bool = True, unreachable: bool = False):
        super().__init__(reason)
        self.may_pass = may_pass  # worth another attempt
        self.unreachable = unreachable  # nobody is there


class TooLarge(NoAnswer):
    """The answer is larger than this service's answers are allowed to be."""

    def __init__(self, largest: int):
        super().__init__(f"an answer of more than {largest / MIB:g} MiB", may_pass=False)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for this address (HTTP_PROXY and its kin), as other clients take it."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


class Transport:
    """An asynchronous context manager over the connections to one address.

    timeout: seconds for a whole call, from the connection to the last byte of the answer. connections: at most.
    largest: bytes of an answer, before and after decompression."""

    def __init__(self, url: str, *, timeout: float, largest: int, connections: int = 1):
        self._url, self._timeout, self._largest, self._connections = url.rstrip("/"), timeout, largest, connections

    async def __aenter__(self) -> "Transport":
        self._proxy = proxy_of(self._url)
        self._to: tuple[str, str, Secret] | None = None  # where `_direct` posts, and what its headers are made of
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers={"Accept-Encoding": "gzip, deflate"},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
            auto_decompress=False,  # it knows no limit; `_Body` does
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: bytes, secret: Secret, content_type: str = "application/json"
    ) -> Response:
        """What {url}{path} answers, whatever its code. Raises NoAnswer, and nothing else whatever the server does."""
        try:
            async with asyncio.timeout(self._timeout):
                if method == "POST" and self._proxy is None:
                    return await self._post(path, body, secret, content_type)
                headers = {"Content-Type": content_type, **secret.headers()}
                async with self._session.request(
                    method, self._url + path, data=_payload(body), headers=headers, allow_redirects=False
                ) as response:
                    answer = self._body(response.headers)
                    while piece := await response.content.readany():
                        answer.add(piece)
                    return Response(response.status, response.headers, answer.whole())
        except aiohttp.ConnectionTimeoutError:
            raise NoAnswer(f"no connection within {_CONNECT_SECONDS:g} s") from None
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise NoAnswer(f"no connection ({_why(error)})", unreachable=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Of these errors only the kind is told: their text may quote headers.
            raise NoAnswer(f"the connection broke ({type(error).__name__})") from None

    async def _post(self, path: str, body: bytes, secret: Secret, content_type: str) -> Response:
        """What is asked a million times, one after the other with the same headers."""
        to = (path, content_type, secret)
        if to != self._to:
            headers = {"Content-Type": content_type, **secret.headers()}
            self._to, self._direct = to, _DirectPost(self._session, self._url + path, headers)
        http, received, answer = await self._direct.send(body, self._body)
        return Response(http, received, answer.whole())

    def _body(self, headers: Mapping[str, str]) -> "_Body":
        return _Body(headers.get("Content-Encoding", ""), self._largest)


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """aiohttp sends plain bytes faster, and warns of long ones, which would block its loop."""
    return io.BytesIO(body) if len(body) > _LARGE_BODY else body or None


def _why(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the certificate of the server cannot be trusted"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it does not speak TLS: is it http:// in the place of https://?"
    number = error.os_error.errno or 0
    return os.strerror(number) if number > 0 else "no such host" if number < 0 else type(error).__name__


class _Connector(aiohttp.TCPConnector):
    """Never uses a connection again on which something came after the last answer: a second answer, which nobody asked
    for, would be taken for that to the next question."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(*arguments, **options)
            protocol = connection.protocol
            if protocol is None:  # lost meanwhile
                return connection
            if protocol not in self._used:
                self._used.add(protocol)
                return connection
            if not (protocol.should_close or _has_more(connection.transport)):
                return connection
            connection.close()


def _has_more(transport: asyncio.Transport | None) -> bool:
    """Whether bytes wait that the loop has not read yet."""
    if transport is None:  # lost meanwhile
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _DirectPost:
    """POSTs to one address over the session's connections, without what it does for each of them (redirects, cookies,
    forms, traces): half of the processor's time of a call, for nothing that is used here.

    Resolving, connecting, TLS, the pool and the parser are aiohttp's; it does not document `connect` of its connector,
    nor what its protocol is told of an answer. headers: beside those that it sends itself."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]):
        assert session.connector is not None
        self._connector = session.connector
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        self._request = aiohttp.ClientRequest(
            "POST", URL(url), headers={**session.headers, **headers}, session=session,
            loop=asyncio.get_running_loop(),
        )  # fmt: skip
        sent = [f"{name}: {value}\r\n" for name, value in self._request.headers.items() if name not in _OF_THE_BODY]
        self._head = f"POST {self._request.url.raw_path_qs} HTTP/1.1\r\n{''.join(sent)}Content-Length: ".encode()

    async def send(
        self, content: bytes, body_for: "Callable[[Mapping[str, str]], _Body]"
    ) -> tuple[int, Mapping[str, str], "_Body"]:
        """What is answered: its code, its headers, and its bytes in what `body_for` makes of these.

        Raises aiohttp.ClientError, OSError, NoAnswer; the connection is not used again then."""
        try:
            connection = await self._connector.connect(self._request, traces=[], timeout=self._timeout)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        try:
            protocol = connection.protocol
            if protocol is None or protocol.transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            head = b"%b%d\r\n\r\n" % (self._head, len(content))
            if len(content) > _LARGE_BODY:
                protocol.transport.writelines((head, content))
            else:  # joining them costs less than sending two
                protocol.transport.write(head + content)
            message, stream = await protocol.read()
            while message.code in _BEFORE_AN_ANSWER:
                message, stream = await protocol.read()
            answer = body_for(message.headers)
            while piece := await stream.readany():
                answer.add(piece)
        except HttpProcessingError:
            connection.close()
            raise aiohttp.ClientResponseError(self._request.request_info, ()) from None
        except BaseException:
            connection.close()
            raise
        connection.release()  # which closes one that can't be used again
        return message.code, message.headers, answer


class _Body:
    """An answer's bytes as they come, decompressed, up to a limit."""

    def __init__(self, encoding: str, largest: int):
        self._largest, self._received, self._data = largest, 0, bytearray()
        self._encoding = encoding.strip().lower()
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise NoAnswer("an answer in a compression that was not asked for", may_pass=False)
        self._packed = self._encoding not in ("", "identity")
        self._inflater: zlib._Decompress | None = None

    def add(self, piece: bytes) -> None:
        self._received += len(piece)
        if self._received > self._largest:
            raise TooLarge(self._largest)
        if not self._packed:
            self._data += piece
            return
        try:
            while piece:
                if self._inflater is None or self._inflater.eof:  # a gzip file may have several members
                    headed = self._encoding != "deflate" or piece[0] & 0x0F == zlib.DEFLATED
                    self._inflater = zlib.decompressobj(wbits=47 if headed else -15)  # 47: gzip or zlib
                room = self._largest - len(self._data)
                self._data += self._inflater.decompress(piece, room + 1)
                if len(self._data) > self._largest:
                    raise TooLarge(self._largest)
                piece = self._inflater.unused_data
        except zlib.error:
            raise NoAnswer("an answer whose compression is damaged") from None

    def whole(self) -> bytearray:
        if self._inflater is not None and not self._inflater.eof:
            raise NoAnswer("an answer whose compression is cut off")
        return self._data


def wait_for[Result](work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine, for callers that are none; raises what it raises. It runs in a thread of its own,
    since the caller's may have a loop that runs (a notebook's)."""
    ended: Future[Result] = Future()

    def run() -> None:
        try:
            ended.set_result(asyncio.run(work))
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, name="call", daemon=True).start()
    return ended.result()
