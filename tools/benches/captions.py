"""Captions by one process and by several, against a local server that answers after a given time: rate, processor,
memory, and whether each pair was asked once.

The server shares the machine with the client, so it is a compiled program, and what a core of the client can ask for is
said beside the rate. What the server can do is measured with a client that does nothing.
`tools/bench.py captions` is the command."""

import asyncio
import atexit
import functools
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.curation.captions.caption import caption
from editcaption_mega.data import open_shards
from editcaption_mega.settings import CaptionSettings, EndpointSettings, GenerationSettings, SettingsError

from .processes import status_bytes

ROOT = Path(__file__).resolve().parents[2]
_PROBES = 10_000


class Server:
    """tests/helpers/quick_server.cpp, compiled; `asked`, how often each thing was asked, when it has ended."""

    def __init__(self, latency: float):
        self._latency, self.asked = latency, Counter[str]()

    def __enter__(self) -> "Server":
        command = [compiled_server(), str(self._latency)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self.asked.update(json.loads(self._process.communicate()[0]))

    @property
    def processor(self) -> float:
        """Seconds that it has used."""
        nanoseconds, *_ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        return int(nanoseconds) / 1e9


@functools.cache
def compiled_server() -> str:
    """The program, made once a process."""
    named = os.environ.get("CXX", "c++")
    compiler = shutil.which(named)
    if compiler is None:
        raise SettingsError(f"no C++ compiler {named}: install one, or name it by CXX (the server is compiled)")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    program = Path(folder) / "quick_server"
    source = ROOT / "tests" / "helpers" / "quick_server.cpp"
    subprocess.run([compiler, "-O2", "-std=c++17", source, "-o", program], check=True)
    return str(program)


def measure(count: int, concurrency: int, latency: float, side: int, workers: list[int], say: Any) -> list[dict]:
    """One record per number of workers, and one of the server under a client that does nothing. Raises SettingsError
    where there is no C++ compiler."""
    compiled_server()
    with tempfile.TemporaryDirectory() as folder:
        say(f"{count:,} pairs of {side} px")
        pool = Path(folder) / "pool"
        subprocess.run([sys.executable, "-m", "tests.helpers.pool", pool, str(count), str(side)], cwd=ROOT, check=True)
        records = [_server_alone(concurrency, latency, 2 * pool_bytes(pool))]
        for number in workers:
            say(f"workers={number}")
            records.append(_captions(pool, Path(folder) / f"{number}.jsonl", concurrency, latency, number))
    return records


def pool_bytes(pool: Path) -> int:
    with open_shards(pool) as reader:
        return len(reader.picture(0, "source"))


def _captions(pool: Path, output: Path, concurrency: int, latency: float, workers: int) -> dict:
    marks: dict[int, tuple[float, int]] = {}  # at how many tenths: when, and how much memory

    def marking(items: Any, total: int | None = None, label: Any = "") -> Iterator[Any]:
        for number, item in enumerate(items, start=1):
            yield item
            if number % (count // 10) == 0:
                marks[number // (count // 10)] = time.perf_counter(), _memory()

    with Server(latency) as server, open_shards(pool) as reader:
        count = len(reader)
        url = f"http://127.0.0.1:{server.port}/v1"
        settings = CaptionSettings(
            shards=[str(pool)], output=str(output), workers=workers,
            endpoint=EndpointSettings(url=url, model="m", max_concurrency=concurrency),
            generation=GenerationSettings(min_pixels=1024),
        )  # fmt: skip
        begin, used, served = time.perf_counter(), _client_processor(), server.processor
        whole, meter = caption(settings, reader, progress=marking)
        seconds, used = time.perf_counter() - begin, _client_processor() - used
        served = server.processor - served
    (early, first), (late, last) = marks[2], marks[9]
    return {
        "workers": workers,
        "captions_per_second": count / seconds,
        "captions_per_second_from_20_to_90_percent": 0.7 * count / (late - early),
        "client_ms": 1000 * used / count,
        "server_ms": 1000 * served / count,
        "first_rss_bytes": first,
        "last_rss_bytes": last,
        "lost": count - meter.usage.by_status["ok"] if whole else count,
        "asked_again": sum(server.asked.values()) - count,
        "ideal": concurrency / latency,
    }


def _server_alone(concurrency: int, latency: float, pictures: int) -> dict:
    with Server(latency) as server:
        request = b'{"x":"' + b"A" * (pictures * 4 // 3) + b'"}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(request)
        begin, used, served = time.perf_counter(), time.process_time(), server.processor
        asyncio.run(_ask(server.port, head + request, concurrency))
        seconds, used = time.perf_counter() - begin, time.process_time() - used
        served = server.processor - served
    return {
        "workers": 0,
        "captions_per_second": _PROBES / seconds,
        "client_ms": 1000 * used / _PROBES,
        "server_ms": 1000 * served / _PROBES,
        "ideal": concurrency / latency,
    }


async def _ask(port: int, request: bytes, concurrency: int) -> None:
    """As little as can be done to have it answered `_PROBES` times."""
    numbers = iter(range(_PROBES))

    async def one_after_the_other() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in numbers:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()

    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))


def _client_processor() -> float:
    """Seconds of this process and of workers that have ended; the server has not."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _memory() -> int:
    """Bytes of this process and its workers."""
    pids = ["self", *(process.pid for process in multiprocessing.active_children())]
    return sum(status_bytes("VmRSS", pid) for pid in pids)


def markdown(records: list[dict], machine: dict) -> str:
    alone, *runs = records
    lines = [
        f"{machine['device']}; {machine['case']}; the ideal is {alone['ideal']:,.0f} captions/s",
        "",
        f"The server alone, under a client that does nothing ({alone['client_ms']:.3f} ms of processor a call): "
        f"{alone['captions_per_second']:,.0f} calls/s, {alone['server_ms']:.3f} ms each.",
        "",
        "| workers | captions/s | of the ideal | from 20 to 90 % | client ms / caption | captions/s per core | "
        "server ms / call | RSS MiB | lost | asked again |",
        "|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for r in runs:
        rate = r["captions_per_second"]
        lines.append(
            f"| {r['workers']} | {rate:,.0f} | {rate / r['ideal']:.0%} | "
            f"{r['captions_per_second_from_20_to_90_percent']:,.0f} | {r['client_ms']:.3f} | "
            f"{1000 / r['client_ms']:,.0f} | {r['server_ms']:.3f} | "
            f"{r['first_rss_bytes'] / 2**20:.0f} -> {r['last_rss_bytes'] / 2**20:.0f} | {r['lost']} | "
            f"{r['asked_again']} |"
        )
    return "\n".join(lines) + "\n"
