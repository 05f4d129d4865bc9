"""A chat server that costs little, to measure clients: it waits, and says a digest of what it was asked.

Several share a port, so that they are not what is measured:   python -m tests.helpers.quick_server --port N
At its end (SIGTERM) it writes how often each thing was asked, as JSON."""

import argparse
import asyncio
import hashlib
import json
import signal
from collections import Counter

LENGTH = b"\r\ncontent-length: "
BODY = (
    '{"object":"chat.completion","model":"quick","choices":[{"index":0,"message":{"role":"assistant","content":'
    '"Edit pair %s."},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20}}'
)


class Connection(asyncio.Protocol):
    def __init__(self, latency: float, counts: Counter):
        self.latency, self.counts, self.buffer, self.needed = latency, counts, bytearray(), 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.later = asyncio.get_running_loop().call_later

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.needed:
            head = self.buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            lines = bytes(self.buffer[:head]).lower() + b"\r\n"
            begin = lines.index(LENGTH) + len(LENGTH)
            self.begin = head + 4
            self.needed = self.begin + int(lines[begin : lines.index(b"\r\n", begin)])
        if len(self.buffer) < self.needed:
            return
        asked = hashlib.blake2b(memoryview(self.buffer)[self.begin : self.needed], digest_size=8).hexdigest()
        self.counts[asked] += 1
        self.buffer, self.needed = bytearray(), 0
        body = BODY % asked
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        self.later(self.latency, self.transport.write, answer.encode())


async def serve(latency: float, port: int) -> Counter:
    loop, ended, counts = asyncio.get_running_loop(), asyncio.Event(), Counter()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(
        lambda: Connection(latency, counts), "127.0.0.1", port, reuse_port=True, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds per reply")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(serve(arguments.latency, arguments.port))), flush=True)


if __name__ == "__main__":
    main()
