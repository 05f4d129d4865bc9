"""One deadline, one limit, no redirect, no cookie; and the key only where it belongs."""

import asyncio
import contextlib
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from editcaption_mega.inference.endpoint.address import check_address
from editcaption_mega.inference.endpoint.client import Endpoint, Message, Request, complete
from editcaption_mega.inference.endpoint.secret import Secret
from editcaption_mega.inference.endpoint.transport import (
    MIB,
    NoAnswer,
    TooLarge,
    Transport,
    proxy_of,
    wait_for,
)
from tests.helpers.hostile_server import HEAD, HostileServer, bomb, chunked, endless, hang, http, packed, twice

KEY = Secret("sk-planted-0123456789")


def call(answer, *, timeout=5.0, largest=MIB, calls=1, secret=KEY, method="POST", body=b"{}"):
    async def ask():
        async with Transport(server.url, timeout=timeout, largest=largest) as transport:
            return [await transport.call(method, "/x", body, secret) for _ in range(calls)]

    with HostileServer(answer) as server:
        try:
            return wait_for(ask()), server
        finally:
            call.server = server


def test_what_is_sent():
    (answer,), server = call(http({"a": 1}))
    assert (answer.http, json.loads(answer.body)) == (200, {"a": 1})
    head = server.heard[0].head.lower()
    assert "authorization: bearer sk-planted-0123456789" in head and "cookie" not in head
    assert "accept-encoding: gzip, deflate\r\n" in head and server.heard[0].body == b"{}"
    _, server = call(http({}), method="GET", body=b"", secret=Secret(""))
    assert "authorization" not in server.heard[0].head.lower() and server.heard[0].head.startswith("GET /x ")


def test_a_cookie_is_not_given_back():
    _, server = call(http({}, 200, "Set-Cookie: a=b"), calls=3)
    assert len(server.heard) == 3 and "cookie" not in server.heard[2].head.lower()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_nothing_more(code):
    with HostileServer() as other:
        (answer,), server = call(http({"a": 1}, code, f"Location: {other.url}/stolen"))
        assert answer.http == code and len(server.heard) == 1 and other.connections == 0


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, "x-gzip"),
        (zlib.compress, "deflate"),
        (lambda data: zlib.compress(data, wbits=-15), "deflate"),
        (lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]), "gzip"),
        (bytes, "identity"),
    ],
)
def test_compressed_answers_are_read(pack, encoding):
    (answer,), _ = call(packed(pack, encoding, b'{"a": "' + b"x" * 5000 + b'"}'))
    assert json.loads(answer.body) == {"a": "x" * 5000}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (endless(HEAD, b" " * 65536), "an answer of more than 1 MiB"),
        (endless(chunked(), b"10000\r\n" + b" " * 65536 + b"\r\n"), "an answer of more than 1 MiB"),
        (http(bomb(31), 200, "Content-Encoding: gzip"), "an answer of more than 1 MiB"),
        (http(b" " * (MIB + 1)), "an answer of more than 1 MiB"),
    ],
)
def test_what_is_larger_is_not_read(answer, reason):
    with pytest.raises(TooLarge, match=reason) as caught:
        call(answer)
    assert not caught.value.may_pass


def test_the_largest_is_read():
    (answer,), _ = call(http(b" " * MIB))
    assert len(answer.body) == MIB


@pytest.mark.parametrize("answer", [hang, endless(HEAD, b" ", 0.05), endless(chunked(), b"1\r\n \r\n", 0.05)])
def test_a_drip_does_not_outlive_the_deadline(answer):
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match=r"no answer within 0\.3 s"):
        call(answer, timeout=0.3)
    assert time.monotonic() - begun < 5


def test_why_there_is_none_quotes_nothing():
    for answer, reason in (
        (packed(lambda data: gzip.compress(data)[:-9], "gzip"), "compression is cut off"),
        (packed(bytes, "gzip"), "compression is damaged"),
        (packed(bytes, "br"), "compression that was not asked for"),
        (http(b"", "two hundred"), "the connection broke"),
    ):
        with pytest.raises(NoAnswer, match=reason):
            call(answer)


def unreachable(url):
    async def ask():
        async with Transport(url, timeout=10, largest=9) as transport:
            await transport.call("GET", "/", b"", KEY)

    with pytest.raises(NoAnswer) as caught:
        wait_for(ask())
    assert caught.value.unreachable
    return str(caught.value)


def test_why_nobody_is_there(tmp_path):
    assert unreachable("http://127.0.0.1:9") == "no connection (Connection refused)"
    assert unreachable("http://no-such-host.invalid") == "no connection (no such host)"
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # speaks no TLS
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        found = unreachable(f"https://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert found == "no connection (it does not speak TLS: is it http:// in the place of https://?)"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_signed_gets_no_key(tmp_path):
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=localhost"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with HostileServer(http({}), tls=context) as server:
        url = server.url.replace("http:", "https:")
        assert unreachable(url) == "no connection (the certificate of the server cannot be trusted)"
        assert not server.heard


def test_an_answer_that_nobody_asked_for_is_nobodys():
    """A server that answers twice: the second one must not be taken for the answer to the next question."""
    with HostileServer(twice()) as server:
        asked = [Request(str(n), (Message("user", (str(n),)),), max_tokens=8) for n in range(20)]
        found = list(complete(Endpoint(f"{server.url}/v1", "m", max_concurrency=1, max_attempts=9), asked, None))
    assert {reply.text for reply in found} <= {"first", ""} and any(reply.text for reply in found)

    async def ask():
        async with Transport(server.url, timeout=5, largest=MIB) as transport:
            for _ in range(3):
                found.append((await transport.call("POST", "/", b"{}", KEY)).body.decode())
                await asyncio.sleep(0.2)

    found = []
    with HostileServer(twice(pause=0.05)) as server:
        wait_for(ask())
    assert len(found) == 3 and not any("SURPLUS" in body for body in found)


def test_a_server_that_speaks_first_is_no_web_server():
    """One connection per attempt, not as many as fit into the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(server.accept()[0])
                    accepted[-1].sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=greet, daemon=True).start()

        async def ask():
            async with Transport(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=2, largest=MIB) as transport:
                await transport.call("POST", "/", b"{}", KEY)

        with pytest.raises(NoAnswer, match="the connection broke|no answer within"):
            wait_for(ask())
        assert len(accepted) <= 3
        for connection in accepted:
            connection.close()


def test_addresses():
    check_address("https://h:1/v1", "the url")
    for bad in ("h:8000", "ftp://h", "http://", "http://h:99999", "http://a b/v1", "http://h/\nv1", "http://[::1", ""):
        with pytest.raises(ValueError, match="the url must look like http://host:8000/v1"):
            check_address(bad, "the url")
    for bad in ("http://u:hunter22@h/", "http://u@h", "http://h/?key=hunter22", "http://h/#hunter22"):
        with pytest.raises(ValueError, match="give the plain address") as caught:
            check_address(bad, "the url")
        assert "hunter22" not in str(caught.value)


def test_the_proxy_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "inside")
    assert proxy_of("http://h/v1") == "http://127.0.0.1:1" and proxy_of("http://inside/v1") is None


def test_posts_go_through_the_proxy_of_the_environment(monkeypatch):
    async def ask():
        async with Transport("http://far.example:81/v1", timeout=5, largest=MIB) as transport:
            return await transport.call("POST", "/x", b"{}", KEY)

    with HostileServer(http({"by": "proxy"})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert json.loads(wait_for(ask()).body) == {"by": "proxy"}
        assert proxy.heard[0].head.startswith("POST http://far.example:81/v1/x ")


def test_what_comes_before_an_answer_is_none():
    async def early(writer, asked):
        for code in ("100 Continue", "103 Early Hints"):
            writer.write(f"HTTP/1.1 {code}\r\n\r\n".encode())
            await writer.drain()
        await http({"a": 1})(writer, asked)

    answers, server = call(early, calls=2)
    assert [(answer.http, json.loads(answer.body)) for answer in answers] == [(200, {"a": 1})] * 2
    assert server.connections == 1


def test_large_bodies_arrive_whole():
    body = bytes(range(256)) * 40_000
    answers, server = call(http({}), calls=2, body=body)
    assert len(answers) == 2 and [asked.body for asked in server.heard] == [body] * 2


def test_a_connection_whose_answer_was_not_read_is_not_used_again():
    async def ask():
        async with Transport(server.url, timeout=5, largest=MIB) as transport:
            for _ in range(3):
                with pytest.raises(NoAnswer, match="not asked for"):
                    await transport.call("POST", "/x", b"{}", KEY)

    with HostileServer(http({}, 200, "Content-Encoding: br")) as server:
        wait_for(ask())
        assert server.connections == 3


def test_one_may_wait_where_a_loop_runs():
    async def inside():
        return wait_for(asyncio.sleep(0, "done"))

    assert asyncio.run(inside()) == "done"
    with pytest.raises(KeyError):
        wait_for(_raise(KeyError("x")))


async def _raise(error):
    raise error
