"""Rates of the endpoint client against a scripted server: the ideal one, and with one call in five faulty.

The server is a process of its own. `tools/bench.py client` is the command."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from editcaption_mega.inference.endpoint.client import Endpoint, Message, Request, Usage, complete

from .processes import status_bytes

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("429", "500", "503", "drop")  # the scripted server's faults that a gateway answers at once
SLOW = ("cut", "not json", "empty", "no choices", "malformed")  # those that take as long as a reply
MIXES = {
    "1 in 5 faulty, 429/5xx/drops at once, unusable bodies after the latency": ("--fault-latency", "0"),
    "1 in 5 faulty, all after the latency (at most 80 % is possible)": (),
    "1 in 5 faulty, unusable bodies only": ("--kinds", *SLOW),
    "1 in 5 faulty, 429/5xx/drops only, at once": ("--kinds", *QUICK, "--fault-latency", "0"),
}


@contextmanager
def scripted_server(*arguments: str) -> Iterator[str]:
    """The server of the tests, in the checkout that this file is in -> its address."""
    command = [sys.executable, "-m", "tests.helpers.scripted_server", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise ValueError(f"no server: `python -m tests.helpers.scripted_server` did not start in {ROOT}")
        yield url
    finally:
        process.kill()
        process.wait()


def requests(count: int) -> Iterator[Request]:
    for i in range(count):
        yield Request(f"row {i}", (Message("user", (f"prompt {i}",)),), max_tokens=64, parse=well_formed)


def well_formed(text: str) -> None:
    if not text.startswith("reply to"):
        raise ValueError(f"unexpected answer {text[:20]!r}")


def measure(url: str, count: int, concurrency: int) -> dict:
    """One run with an empty cache. Seconds until 90 % of the replies have come leave out the wait for the last
    repetitions, which a run of any length has once."""
    usage = Usage()
    with tempfile.TemporaryDirectory() as folder:
        begin, processor = time.perf_counter(), time.process_time()
        memory = []
        endpoint = Endpoint(url, "m", max_concurrency=concurrency)
        for number, reply in enumerate(complete(endpoint, requests(count), Path(folder)), 1):
            usage.add(reply)
            if number == count * 9 // 10:
                most = time.perf_counter() - begin
            if number % (count // 10) == 0:
                memory.append(status_bytes("VmRSS"))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - processor
    return {
        "replies_per_second": count / seconds,
        "replies_per_second_until_90_percent": count * 9 // 10 / most,
        "cpu_ms_per_reply": cpu / count * 1000,
        "attempts": usage.attempts,
        "ends": dict(usage.by_status),
        "first_rss_bytes": memory[0],
        "last_rss_bytes": memory[-1],
    }


def measure_all(count: int, concurrency: int, latency: float, *, faults: bool) -> list[dict]:
    """The run without faults, then (with faults) each mix -> one record per run; `ideal` is concurrency / latency."""
    records = []
    for name, arguments in {"no faults": None, **(MIXES if faults else {})}.items():
        faulty = () if arguments is None else ("--faulty", "0.2", "--seed", "1", *arguments)
        with scripted_server("--latency", str(latency), *faulty) as url:
            record = measure(url, count, concurrency)
        records.append({"name": name, **record, "ideal": concurrency / latency})
    return records


def markdown(records: list[dict], machine: dict) -> str:
    """The records as one table under one line about the machine."""
    lines = [
        f"{machine['device']}; {machine['case']}; the ideal is {records[0]['ideal']:.0f} replies/s",
        "",
        "| run | replies/s | of ideal | until 90 % | of ideal | attempts | CPU ms / reply | RSS MiB | ends |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for r in records:
        rate, until = r["replies_per_second"], r["replies_per_second_until_90_percent"]
        ends = ", ".join(f"{count} {status}" for status, count in r["ends"].items())
        lines.append(
            f"| {r['name']} | {rate:.0f} | {rate / r['ideal']:.1%} | {until:.0f} | {until / r['ideal']:.1%} | "
            f"{r['attempts']} | {r['cpu_ms_per_reply']:.3f} | "
            f"{r['first_rss_bytes'] / 2**20:.0f} -> {r['last_rss_bytes'] / 2**20:.0f} | {ends} |"
        )
    return "\n".join(lines) + "\n"
