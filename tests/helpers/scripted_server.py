"""An OpenAI-compatible chat server on loopback that does what a script says: replies, and every kind of fault.

In a thread, for tests that give it a function:   with ScriptedServer(reply=lambda body: "text") as server: server.url
In a process of its own, for rates and kills:     with server_process("--latency", "0.05") as server: server.counts()

A bare asyncio.Protocol, since it shares two cores with the client that it measures."""

import argparse
import asyncio
import contextlib
import hashlib
import importlib
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.helpers import ROOT

# Faults that a script names. Of the first group a gateway answers at once (`fault_latency`); the others take as long as
# a reply. "429 1.5" is a 429 that asks to come back in 1.5 s; "429 date 2" asks so by an HTTP date.
QUICK = ("429", "500", "503", "drop")
SLOW = ("cut", "not json", "empty", "no choices", "malformed")
# Also: "hang" (never answers), "fenced", "refusal", "filter", "filter 400", "length", "echo 500" (an error of that code
# that quotes the request's headers), "echo text" (a completion that does), and any other HTTP code, as in "404".

Script = Callable[[int, int], str | None]


def always(fault: str | None) -> Script:
    return lambda call, of_prompt: fault


def each_prompt(*faults: str | None) -> Script:
    """The first calls of each prompt end so; the later ones well."""
    return lambda call, of_prompt: faults[of_prompt] if of_prompt < len(faults) else None


def burst(fault: str, first: int, calls: int) -> Script:
    """The server's calls number first .. first + calls - 1 end so, whatever they ask."""
    return lambda call, of_prompt: fault if first <= call < first + calls else None


def at_random(share: float, seed: int, kinds: Sequence[str] = QUICK + SLOW) -> Script:
    generator = random.Random(seed)
    return lambda call, of_prompt: generator.choice(kinds) if generator.random() < share else None


def prompt(body: dict[str, Any]) -> str:
    """The texts of the last message: what calls are counted by."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def pictures(body: dict[str, Any]) -> str:
    """The digest of the last message's pictures: what calls about pairs are counted by."""
    urls = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    return hashlib.sha256("".join(urls).encode()).hexdigest()[:16]


def say_pictures(body: dict[str, Any]) -> str:
    """A text that says which pair, and which sample of it, it was asked about."""
    return f"Edit pair {pictures(body)} {body.get('seed')}."


def echo(body: dict[str, Any]) -> str:
    return f"reply to {prompt(body)}"


@dataclass
class ScriptedServer:
    reply: Callable[[dict[str, Any]], str] = echo  # request body -> text of the completion
    script: Script = always(None)
    latency: float = 0.0  # seconds
    fault_latency: float | None = None  # of the faults in QUICK; None: `latency`
    asked: Callable[[dict[str, Any]], str] = prompt  # what a call is counted by
    model: str = "scripted-1"  # the version that it says it serves
    port: int = 0
    counts: Counter = field(default_factory=Counter)  # calls per `asked`
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of every call, where keep_bodies
    keep_bodies: bool = True
    calls: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    times: dict[str, list[float]] = field(default_factory=dict)  # arrival of each call, by prompt, where keep_bodies
    # In the place of `reply`: the whole (message, ending), as they are.
    answer: Callable[[dict[str, Any]], tuple[dict[str, Any], Any]] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "ScriptedServer":
        begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(begun.set)), daemon=True)
        self._thread.start()
        assert begun.wait(10)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def serve(self, begun: Callable[[], None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        connections: set[_Connection] = set()
        server = await self._loop.create_server(
            lambda: _Connection(self, connections), "127.0.0.1", self.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        begun()
        await self._stopped.wait()
        server.close()
        for connection in list(connections):
            connection.transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, server: ScriptedServer, connections: set):
        self.server, self.connections, self.buffer = server, connections, b""

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.connections.add(self)

    def connection_lost(self, _) -> None:
        self.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1")
        headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in head.split("\r\n")[1:])}
        whole = end + 4 + int(headers.get("content-length", 0))
        if len(self.buffer) < whole:
            return
        raw, self.buffer = self.buffer[end + 4 : whole], self.buffer[whole:]
        if head.startswith("GET"):
            self.send(json.dumps(self.server.counts))
        elif not head.startswith("POST /v1/chat/completions "):
            self.send(json.dumps({"detail": "Not Found"}), "404 Not Found")
        else:
            self.call(json.loads(raw), headers)

    def call(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        server, asked = self.server, self.server.asked(body)
        fault = server.script(server.calls, server.counts[asked])
        if server.keep_bodies:
            server.bodies.append(body)
            server.times.setdefault(asked, []).append(time.monotonic())
        server.calls += 1
        server.counts[asked] += 1
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        quick = fault is not None and (fault.split()[0] in QUICK or fault[0].isdigit())
        latency = server.fault_latency if quick and server.fault_latency is not None else server.latency
        server._loop.call_later(latency, self.answer, body, headers, fault)

    def answer(self, body: dict[str, Any], headers: dict[str, str], fault: str | None) -> None:
        if fault == "hang":
            return
        self.server.in_flight -= 1
        if fault == "drop":
            self.transport.abort()
        elif fault == "filter 400":
            self.fail(400, "The response was filtered due to the content management policy.", "content_filter")
        elif fault is not None and fault.startswith("echo ") and fault != "echo text":
            self.fail(int(fault.split()[1]), f"cannot serve {headers}")
        elif fault is not None and fault[0].isdigit():
            code, *wait = fault.split()
            self.fail(int(code), f"scripted {code}", extra=_retry_after(wait))
        else:
            self.complete(body, headers, fault)

    def complete(self, body: dict[str, Any], headers: dict[str, str], fault: str | None) -> None:
        text, ending, message = self.server.reply(body), "stop", {"role": "assistant"}
        if fault == "fenced":
            text = f"Here it is:\n```json\n{text}\n```"
        elif fault == "malformed":
            text = "{" + text[: len(text) // 2]
        elif fault == "empty":
            text = ""
        elif fault == "length":
            text, ending = text[: len(text) // 2], "length"
        elif fault == "filter":
            text, ending = "", "content_filter"
        elif fault == "echo text":
            text = f"You sent {headers}"
        elif fault == "refusal":
            text, message["refusal"] = None, "I can't help with that."
        message["content"] = text
        if self.server.answer is not None:
            message, ending = self.server.answer(body)
        choices = [] if fault == "no choices" else [{"index": 0, "message": message, "finish_reason": ending}]
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        whole = json.dumps(
            {"object": "chat.completion", "model": self.server.model, "choices": choices, "usage": usage}
        )
        if fault == "not json":
            whole = "<html>Bad gateway</html>"
        self.send(whole, cut=fault == "cut")

    def fail(self, code: int, message: str, kind: str | None = None, extra: str = "") -> None:
        self.send(json.dumps({"error": {"message": message, "type": kind, "code": kind}}), f"{code} Scripted", extra)

    def send(self, text: str, status: str = "200 OK", extra: str = "", cut: bool = False) -> None:
        raw = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{extra}\r\n"
        if self.transport.is_closing():
            return
        self.transport.write(head.encode("latin-1") + (raw[: len(raw) // 2] if cut else raw))
        if cut:
            self.transport.close()


def _retry_after(wait: list[str]) -> str:
    if not wait:
        return ""
    if wait[0] != "date":
        return f"Retry-After: {wait[0]}\r\n"
    at = time.gmtime(time.time() + float(wait[1]))
    return time.strftime("Retry-After: %a, %d %b %Y %H:%M:%S GMT\r\n", at)


@dataclass
class ServerProcess:
    url: str

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(self.url + "/counts") as answer:
            return json.load(answer)


@contextlib.contextmanager
def server_process(*arguments: str) -> Iterator[ServerProcess]:
    """The server as a process with these command-line arguments (see `main`)."""
    command = [sys.executable, "-m", "tests.helpers.scripted_server", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield ServerProcess(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()


def _named(name: str) -> Callable[[dict[str, Any]], str]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per reply")
    parser.add_argument("--fault-latency", type=float, help="seconds per quick fault (default: that of a reply)")
    parser.add_argument("--faulty", type=float, default=0.0, help="share of the calls that end in a fault")
    parser.add_argument("--kinds", nargs="+", default=QUICK + SLOW, help="the faults that are drawn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="scripted-1")
    parser.add_argument(
        "--reply", default="tests.helpers.scripted_server:echo", help="MODULE:FUNCTION from a body to a text"
    )
    parser.add_argument(
        "--asked", default="tests.helpers.scripted_server:prompt", help="MODULE:FUNCTION: what calls are counted by"
    )
    arguments = parser.parse_args()
    server = ScriptedServer(
        reply=_named(arguments.reply),
        asked=_named(arguments.asked),
        script=at_random(arguments.faulty, arguments.seed, arguments.kinds) if arguments.faulty else always(None),
        latency=arguments.latency,
        fault_latency=arguments.fault_latency,
        model=arguments.model,
        port=arguments.port,
        keep_bodies=False,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(lambda: print(server.url, flush=True)))


if __name__ == "__main__":
    main()
