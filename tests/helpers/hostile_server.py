"""An HTTP server on loopback that answers as no server should, and the table of its answers.

An answer writes raw bytes; nothing large is ever held here, so the memory of the process is that of the client."""

import asyncio
import base64
import gzip
import html
import io
import json
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from PIL import Image, PngImagePlugin

from tests.helpers.image_bytes import encoded, photo, png_header_only

KEY = "sk-planted/+&'-0123456789abcdefghijklmnop"  # what must go nowhere but here
PIECE = b" " * 65536
BOMB = 64 << 20  # bytes that a small answer unpacks to


@dataclass
class Asked:
    head: str  # the request's line and headers
    body: bytes
    elsewhere: str  # address of a host that must hear nothing


Reply = Callable[[asyncio.StreamWriter, Asked], Awaitable[None]]


@dataclass
class HostileServer:
    """Everybody gets `answer`; requests that came are in `heard`."""

    answer: Reply | None = None
    elsewhere: str = ""
    tls: ssl.SSLContext | None = None
    heard: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> "HostileServer":
        begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(begun)), daemon=True)
        self._thread.start()
        assert begun.wait(10)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self, begun: threading.Event) -> None:
        self._loop, self._stopped, self._tasks = asyncio.get_running_loop(), asyncio.Event(), set()
        self._loop.set_exception_handler(lambda *_: None)  # clients that hang up are what this is about
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        begun.set()
        await self._stopped.wait()
        server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.lower().split("\r\n")
                length = next((int(x.partition(":")[2]) for x in lines if x.startswith("content-length:")), 0)
                asked = Asked(head, await reader.readexactly(length), self.elsewhere)
                self.heard.append(asked)
                if self.answer is None:
                    break
                await self.answer(writer, asked)
                if writer.is_closing():
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


# ---- ways to answer --------------------------------------------------------------------------------------------------


def http(body: Any, code: int | str = 200, *headers: str, length: str | None = None) -> Reply:
    """A whole answer: `body` bytes, a text, or what becomes JSON."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        lines = [f"HTTP/1.1 {code} Hostile", f"Content-Length: {len(data) if length is None else length}", *headers]
        text = "\r\n".join(lines).replace("ELSEWHERE", asked.elsewhere)
        head = f"{text}\r\n\r\n".encode("latin-1", "replace")
        writer.write(head + data[: len(PIECE)])
        for at in range(len(PIECE), len(data), len(PIECE)):  # not all at once into a buffer of this process
            await writer.drain()
            writer.write(data[at : at + len(PIECE)])
        await writer.drain()

    return answer


def raw(*pieces: bytes, close: bool = True) -> Reply:
    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return answer


def endless(head: bytes, piece: bytes, pause: float = 0.0) -> Reply:
    """Never ends: as fast as it goes, or a piece every `pause` seconds."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


async def hang(writer: asyncio.StreamWriter, asked: Asked) -> None:
    await asyncio.sleep(3600)


async def reset(writer: asyncio.StreamWriter, asked: Asked) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def twice(pause: float = 0.0) -> Reply:
    """A second answer, which nobody has asked for, at once or some seconds behind the first."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        pieces = []
        for text in ("first", "SURPLUS"):
            data = json.dumps(good(text)).encode()
            pieces.append(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        writer.write(pieces[0] if pause else b"".join(pieces))
        if pause:
            await asyncio.sleep(pause)
            writer.write(pieces[1])
        await writer.drain()

    return answer


def echo(where: str, spelled: Callable[[str], str] = str, code: int = 400) -> Reply:
    """The request's headers, spelled in some way, in some place of the answer."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        words = spelled(next(x for x in asked.head.split("\r\n") if x.lower().startswith("authorization")))
        bodies = {
            "error": {"error": {"message": words}},
            "detail": {"detail": words},
            "code": {"error": {"code": words}},
            "text": good(words),
            "model": good("text") | {"model": words},
            "ending": changed(("choices", 0, "finish_reason"), words),
            "refusal": changed(("choices", 0, "message", "refusal"), words),
            "thought": changed(("choices", 0, "message", "reasoning_content"), words),
            "title": changed(("results", 0, "title"), words),
            "body": f"<html>{words}</html>",
        }
        if where == "header":
            line = words.encode("ascii", "replace").decode()
            await http({"error": {"message": "no"}}, code, f"Location: http://x/{line}", f"X-You: {line}")(
                writer, asked
            )
        else:
            await http(bodies[where], code)(writer, asked)

    return answer


def late(make: Callable[[], Reply]) -> Reply:
    """An answer that takes a while to make, made when it is needed."""
    made: list[Reply] = []

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        if not made:
            made.append(make())
        await made[0](writer, asked)

    return answer


def chunked(*pieces: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(pieces)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
SMALL = encoded(photo(16, 16))


def good(text: str = "fine", picture: bytes = SMALL) -> dict[str, Any]:
    """A body that all three services take for a result."""
    return {
        "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "input_tokens": 3, "output_tokens": 2},
        "data": [{"b64_json": base64.b64encode(picture).decode()}],
        "results": [],
        "count": 0,
    }


def changed(path: tuple, value: Any) -> dict[str, Any]:
    """`good` with another value at one place."""
    body = good()
    body["results"] = [{"id": 1, "title": "other", "label_config": "<View/>", "maximum_annotations": 1}]
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


def with_picture(data: bytes) -> Reply:
    return http(good(picture=data))


def packed(pack: Callable[[bytes], bytes], encoding: str, data: bytes | None = None) -> Reply:
    return http(pack(json.dumps(good()).encode() if data is None else data), 200, f"Content-Encoding: {encoding}")


def bomb(wbits: int) -> bytes:
    """BOMB bytes of blanks inside a JSON text, compressed."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, wbits)
    pieces = [deflate.compress(b'{"a": "')]
    pieces += [deflate.compress(PIECE) for _ in range(BOMB // len(PIECE))]
    return b"".join([*pieces, deflate.flush()])


def png_with_text(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Authorization", text)
    return encoded(photo(16, 16), pnginfo=info)


def gif_of_many_frames() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("P", (64, 64), n % 256) for n in range(300)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def nested(depth: int, opening: str, closing: str) -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


CODES = (
    *(
        201,
        202,
        203,
        204,
        205,
        206,
        207,
        226,
        300,
        304,
        305,
        306,
        400,
        401,
        402,
        403,
        404,
        405,
        406,
        407,
        408,
        409,
        410,
    ),
    *(
        411,
        412,
        413,
        414,
        415,
        416,
        417,
        418,
        421,
        422,
        423,
        424,
        425,
        426,
        428,
        429,
        431,
        444,
        451,
        495,
        498,
        499,
        500,
    ),
    *(501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522, 524, 529, 530, 598, 599, 600, 700, 999),
)
MOVED = (301, 302, 303, 307, 308)
WRONG = (None, True, -1, 3.5, 10**400, "", "\ud800", [], [[]], {}, {"a": []})
PLACES = (
    ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "content"),
    ("choices", 0, "finish_reason"), ("model",), ("usage",), ("usage", "prompt_tokens"), ("usage", "output_tokens"),
    ("data",), ("data", 0), ("data", 0, "b64_json"), ("results",), ("results", 0), ("results", 0, "title"),
)  # fmt: skip
SPELLED = {
    "plain": str, "upper": str.upper, "reversed": lambda t: t[::-1], "url": partial(quote, safe=""),
    "json": lambda t: json.dumps(t), "html": html.escape, "base64": base64_of, "hex": lambda t: t.encode().hex(),
    "base64, shifted": lambda t: base64_of("x" + t), "half": lambda t: t[: len(t) * 2 // 3],
    "escapes": lambda t: "".join(f"\\u{ord(c):04x}" for c in t),
    "entities": lambda t: "".join(f"&#{ord(c)};" for c in t),
}  # fmt: skip
FIELDS = ("error", "detail", "code", "text", "model", "ending", "refusal", "thought", "title", "body", "header")
CONTROL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b31m\u202egnp\u2066\x00\x08\r\n\u2028end"
RETRY = (
    "0", "-1", "nan", "inf", "1e9", "999999999", "9" * 400, "soon", "", "1, 2", "0x10", "\u0661", "86400",
    "Fri, 31 Dec 2999 23:59:59 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 99 Foo 2999 99:99:99 XYZ",
    "Fri, 31 Dec 99999999999 23:59:59 GMT", "Fri, 31 Dec 2999 23:59:59 +9999",
)  # fmt: skip


def answers() -> dict[str, Reply]:
    """name -> answer."""
    table: dict[str, Reply] = {"fine": http(good())}
    for code in CODES:
        table[f"HTTP {code}"] = http({"error": {"message": f"hostile {code}", "code": code}}, code)
    for code in MOVED:
        table[f"moved {code} elsewhere"] = http(good(), code, "Location: ELSEWHERE/v1/chat/completions")
        table[f"moved {code} with user"] = http(b"", code, "Location: http://u:p@127.0.0.2:1/x", "Set-Cookie: a=b")
    table |= {
        "moved, relative": http(b"", 302, "Location: /v1/other"),
        "moved, no scheme": http(b"", 307, "Location: //127.0.0.2:1/x"),
        "moved to a file": http(b"", 302, "Location: file:///etc/passwd"),
        "moved in a body": http('<meta http-equiv="refresh" content="0">', 200, "Refresh: 0; url=ELSEWHERE"),
        "moved by a fine answer": http(good(), 200, "Location: ELSEWHERE", "Content-Location: ELSEWHERE"),
        "another service": http(good(), 200, 'Alt-Svc: h2="127.0.0.2:1"', "Link: <ELSEWHERE>; rel=preload"),
        "asks for a password": http({"detail": "who?"}, 401, 'WWW-Authenticate: Basic realm="x"'),
        "cookies": http(good(), 200, *[f"Set-Cookie: c{n}={'x' * 4000}" for n in range(5)]),
        "switches protocols": raw(b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" + PIECE),
        # bodies that do not end, or end too early
        "hangs": hang,
        "reset": reset,
        "closed at once": raw(),
        "endless body": endless(HEAD, PIECE),
        "endless chunks": endless(chunked(), b"10000\r\n" + PIECE + b"\r\n"),
        "endless small chunks": endless(chunked(), b"1\r\n \r\n" * 5000),
        "endless chunk extension": endless(chunked(), b"1;" + PIECE),
        "endless trailers": endless(chunked(b"1\r\n1\r\n0\r\n"), b"X-A: b\r\n" * 1000),
        "endless headers": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
        "endless header": endless(b"HTTP/1.1 200 OK\r\nX-A: ", PIECE),
        "endless status line": endless(b"HTTP/1.1 200 ", PIECE),
        "endless 100": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        "endless 103": endless(b"", b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\n" * 100),
        "endless NULs": endless(b"", b"\0" * 65536),
        "endless error body": endless(HEAD.replace(b"200 OK", b"500 Oh"), PIECE),
        "slow body": endless(HEAD, b" ", 0.05),
        "slow chunks": endless(chunked(), b"1\r\n \r\n", 0.05),
        "slow headers": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.05),
        "slow status line": endless(b"", b"H", 0.05),
        "half a body": raw(
            b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + json.dumps(good()).encode()[:80]
        ),
        "half a chunk": raw(chunked(b"400\r\nabc")),
        "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
        # lengths and forms that lie
        **{f"length {length[:12]!r}": http(good(), length=length) for length in
           ("-1", "0", "1", "1e3", "0x10", "9" * 30, "", "1, 2", "+5", "\u0661")},
        "two lengths": http(good(), 200, "Content-Length: 3"),
        "length and chunks": http(good(), 200, "Transfer-Encoding: chunked"),
        "chunk size ffff..": raw(chunked(b"ffffffffffffffff\r\n", PIECE)),
        "chunk size -1": raw(chunked(b"-1\r\n", PIECE)),
        "chunk size xyz": raw(chunked(b"xyz\r\n", PIECE)),
        "two answers": twice(),
        "HTTP/0.9": raw(b"fine\n"),
        "HTTP/9.9": raw(b"HTTP/9.9 200 OK\r\n\r\n{}"),
        "HTTP/2": raw(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\0" * 18),
        "TLS": raw(b"\x15\x03\x03\x00\x02\x02\x28"),
        "SSH": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        "code 0": http(good(), 0),
        "code -200": http(good(), "-200"),
        "code two hundred": http(good(), "two hundred"),
        "code 99999": http(good(), "99999"),
        "header without a name": http(good(), 200, ": nothing"),
        "header of control characters": http(good(), 200, f"X-A: {CONTROL}".replace("\r\n", "")),
        # compression
        "gzip": packed(gzip.compress, "gzip"),
        "gzip in capitals": packed(gzip.compress, "GZIP"),
        "deflate": packed(zlib.compress, "deflate"),
        "gzip bomb": late(lambda: http(bomb(31), 200, "Content-Encoding: gzip")),
        "deflate bomb": late(lambda: http(bomb(15), 200, "Content-Encoding: deflate")),
        "gzip twice": packed(lambda data: gzip.compress(gzip.compress(data)), "gzip, gzip"),
        "gzip, cut off": packed(lambda data: gzip.compress(data)[:-12], "gzip"),
        "gzip, garbage": packed(lambda data: b"\x1f\x8b" + data, "gzip"),
        "gzip, not packed": packed(bytes, "gzip"),
        "gzip, many members": packed(lambda data: gzip.compress(b"") * 5_000 + gzip.compress(data), "gzip"),
        "endless empty members": endless(HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 1000),
        "brotli": packed(bytes, "br"),
        "zstd": packed(bytes, "zstd"),
        "no such compression": packed(bytes, "lzma; q=1"),
        # JSON
        **{f"body {body[:12]!r}": http(body) for body in
           (b"", b"null", b"true", b"1", b'"text"', b"[]", b"[1, 2]", b"{}", b"[[{}]]", b"NaN", b"<html>", b"\xff\xfe{",
            b"{'a': 1}", b'{"choices": NaN}', b'{"data": [Infinity]}', b"9" * 5000, b"\0" * 100, b'{"a": 1} trailing')},
        "body with a BOM": http(b"\xef\xbb\xbf" + json.dumps(good()).encode()),
        "body in UTF-16": http(json.dumps(good()).encode("utf-16")),
        "body in UTF-32": http(json.dumps(good()).encode("utf-32")),
        "body in latin-1": http('{"error": "caf\u00e9"}'.encode("latin-1")),
        "deep lists": late(lambda: http(nested(200_000, "[", "]"))),
        "deep objects": late(lambda: http(nested(100_000, '{"error":', "}"))),
        "deep enough": http(nested(900, '{"error":', "}"), 500),
        "deep choices": http(b'{"choices": ' + nested(900, "[", "]") + b"}"),
        "deep ending": http(b'{"choices": [{"message": {}, "finish_reason": ' + nested(900, "[", "]") + b"}]}"),
        "deep data": http(b'{"data": ' + nested(900, "[", "]") + b', "results": ' + nested(900, "[", "]") + b"}"),
        "a million lists": late(lambda: http(b'{"error": [' + b"[]," * 1_000_000 + b"[]]}")),
        "a million keys": late(lambda: http(b"{" + b",".join(b'"%d":0' % n for n in range(700_000)) + b"}")),
        "a long error": late(lambda: http({"error": {"message": "x" * 4_000_000, "code": "y" * 1_000_000}}, 400)),
        "a long text": late(lambda: http(good("word " * 800_000))),
        "a number of 5,000 digits": http(b'{"choices": [], "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}"),
        # control characters
        **{f"control characters, {name}": http(body, code) for name, body, code in (
            ("error", {"error": {"message": CONTROL, "code": CONTROL}}, 400),
            ("detail", {"detail": CONTROL}, 500),
            ("validation", {"detail": "x", "validation_errors": {CONTROL: [CONTROL]}}, 400),
            ("model", good() | {"model": CONTROL}, 200), ("text", good(CONTROL), 200),
            ("ending", changed(("choices", 0, "finish_reason"), CONTROL), 200),
            ("refusal", changed(("choices", 0, "message", "refusal"), CONTROL), 200),
            ("title", changed(("results", 0, "title"), CONTROL), 200),
        )},
    }  # fmt: skip
    for place in PLACES:
        for value in WRONG:
            name = str(value)[:12].encode("ascii", "replace").decode()
            table[f"{'.'.join(map(str, place))} = {name!r}"] = http(changed(place, value))
    for how, spelled in SPELLED.items():
        table[f"the key, {how}, in an error"] = echo("error", spelled)
    for where in FIELDS:
        table[f"the key in {where}"] = echo(
            where, code=200 if where not in ("error", "detail", "body", "header") else 500
        )
    table["the key in an address"] = echo("header", lambda t: quote(t, safe=""), 302)
    for value in RETRY:
        table[f"Retry-After {value[:16]!r}"] = http({"error": "slow down"}, 429, f"Retry-After: {value}")
    for value in ("nan", "inf", "-5", "1e300", "x", "9999999999"):
        table[f"retry-after-ms {value}"] = http({"error": "slow down"}, 503, f"retry-after-ms: {value}")
    picture = encoded(photo(64, 64))
    clear = photo(64, 64).convert("RGBA")
    clear.putalpha(0)
    pictures = {
        "cut off": picture[: len(picture) // 2], "magic only": picture[:8], "text": b"<html>", "nothing": b"",
        "60000 x 60000": png_header_only(60_000, 60_000), "13000 x 13000": png_header_only(13_000, 13_000),
        "0 x 0": png_header_only(0, 0), "transparent": encoded(clear),
        "1 x 1": encoded(photo(1, 1)), "1 x 60000": encoded(Image.new("L", (1, 60_000))),
        "GIF": encoded(photo().convert("P"), "GIF"),
        "BMP": encoded(photo(), "BMP"), "TIFF": encoded(photo(), "TIFF"),
        "CMYK": encoded(photo().convert("CMYK"), "JPEG"), "16 bits": encoded(Image.new("I;16", (64, 64), 40_000)),
        "PDF": b"%PDF-1.7\n", "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.2:1/"/></svg>',
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the key inside": png_with_text(KEY),
        "one bit": encoded(Image.new("1", (64, 64))),
    }  # fmt: skip
    table |= {f"picture: {name}": with_picture(data) for name, data in pictures.items()}
    large = {
        "text bomb": lambda: (
            picture[:33] + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * (64 << 20))) + picture[33:]
        ),
        "5000 x 5000": lambda: encoded(Image.new("L", (5000, 5000))), "300 frames": gif_of_many_frames,
        "2048 x 2048": lambda: encoded(Image.new("RGB", (2048, 2048), "red")),
        "2048 x 2048, clear": lambda: encoded(Image.new("RGBA", (2048, 2048), (9, 9, 9, 9))),
        "2048 x 2048, 16 bits": lambda: encoded(Image.new("I;16", (2048, 2048), 40_000)),
        "2048 x 2048, CMYK": lambda: encoded(Image.new("CMYK", (2048, 2048)), "JPEG", progressive=True),
    }  # fmt: skip
    table |= {f"picture: {name}": late(lambda make=make: with_picture(make())) for name, make in large.items()}
    table |= {
        "picture: an address": http(good() | {"data": [{"url": "http://127.0.0.2:1/x.png"}]}),
        "picture: not base64": http(good() | {"data": [{"b64_json": "###"}]}),
        "picture: base64 of half letters": http(good() | {"data": [{"b64_json": "QUJD\ud800"}]}),
        "picture: a data URL": http(good() | {"data": [{"b64_json": "data:image/png;base64,QUJD"}]}),
        "picture: 30 MB of base64": endless_base64(30 << 20),
    }
    return table


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def endless_base64(size: int) -> Reply:
    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(HEAD + b'{"data": [{"b64_json": "')
        for _ in range(size // 65536):
            writer.write(b"QUJD" * 16384)
            await writer.drain()
        writer.write(b'"}]}')
        writer.close()

    return answer
