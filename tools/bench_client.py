"""Rates of the endpoint client against the scripted server of the tests: the ideal one, and with one call in five
faulty. The server is a process of its own; the numbers are those of this machine."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from editcaption_mega.inference.endpoint.client import Endpoint, Message, Request, Usage, complete  # noqa: E402
from tests.helpers.scripted_server import QUICK, SLOW, server_process  # noqa: E402

MIB = 1 << 20


def requests(count: int):
    for i in range(count):
        yield Request(f"row {i}", (Message("user", (f"prompt {i}",)),), max_tokens=64, parse=well_formed)


def well_formed(text: str) -> None:
    if not text.startswith("reply to"):
        raise ValueError(f"unexpected answer {text[:20]!r}")


def measure(url: str, count: int, concurrency: int) -> dict[str, float]:
    """One run with an empty cache. Seconds until 90 % of the replies have come leave out the wait for the last
    repetitions, which a run of any length has once."""
    process, usage = psutil.Process(), Usage()
    with tempfile.TemporaryDirectory() as folder:
        begin, processor = time.perf_counter(), process.cpu_times()
        memory = []
        for number, reply in enumerate(
            complete(Endpoint(url, "m", max_concurrency=concurrency), requests(count), Path(folder)), 1
        ):
            usage.add(reply)
            if number == count * 9 // 10:
                most = time.perf_counter() - begin
            if number % (count // 10) == 0:
                memory.append(process.memory_info().rss / MIB)
        seconds = time.perf_counter() - begin
        used = process.cpu_times()
    cpu = used.user + used.system - processor.user - processor.system
    ends = dict(usage.by_status)
    if ends != {"ok": count}:
        print(f"  ends: {ends}")
    return {
        "rate": count / seconds,
        "steady": count * 9 // 10 / most,
        "cpu_ms": cpu / count * 1000,
        "attempts": usage.attempts,
        "rss_first": memory[0],
        "rss_last": memory[-1],
    }


def show(label: str, found: dict[str, float], ideal: float) -> None:
    print(
        f"{label}: {found['rate']:.0f} replies/s whole, {found['steady']:.0f} until 90 % "
        f"({found['rate'] / ideal:.1%} and {found['steady'] / ideal:.1%} of {ideal:.0f}), {found['attempts']:.0f} "
        f"attempts, {found['cpu_ms']:.3f} ms CPU per reply, RSS {found['rss_first']:.0f} -> {found['rss_last']:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds per reply")
    parser.add_argument("--faults", action="store_true", help="also with one call in five faulty")
    arguments = parser.parse_args()
    count, concurrency = arguments.requests, arguments.concurrency
    ideal = concurrency / arguments.latency
    latency = ("--latency", str(arguments.latency))
    with server_process(*latency) as server:
        clean = measure(server.url, count, concurrency)
    show("no faults", clean, ideal)
    if arguments.faults:
        mixes = {
            "1 in 5 faulty, 429/5xx/drops at once, unusable bodies after the latency": ("--fault-latency", "0"),
            "1 in 5 faulty, all after the latency (at most 80 % is possible)": (),
            "1 in 5 faulty, unusable bodies only": ("--kinds", *SLOW),
            "1 in 5 faulty, 429/5xx/drops only, at once": ("--kinds", *QUICK, "--fault-latency", "0"),
        }
        for label, more in mixes.items():
            with server_process(*latency, "--faulty", "0.2", "--seed", "1", *more) as server:
                found = measure(server.url, count, concurrency)
            show(label, found, ideal)
            print(
                f"  of the run without faults: {found['rate'] / clean['rate']:.1%} whole, "
                f"{found['steady'] / clean['steady']:.1%} until 90 %; attempts/s "
                f"{found['attempts'] / count * found['rate'] / clean['rate']:.1%}"
            )


if __name__ == "__main__":
    main()
