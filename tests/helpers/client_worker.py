"""A process that asks an endpoint: prints the id of each reply as it comes, and at the end writes all as one file.

usage: python -m tests.helpers.client_worker URL CACHE OUTPUT PREFIX COUNT CONCURRENCY"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from editcaption_mega.inference.endpoint.client import Endpoint, Message, Request, complete


def main(url: str, cache: str, output: str, prefix: str, count: str, concurrency: str) -> None:
    requests = (
        Request(f"{prefix}{i}", (Message("user", (f"prompt {prefix}{i}",)),), max_tokens=8) for i in range(int(count))
    )
    replies = {}
    for reply in complete(Endpoint(url, "m", max_concurrency=int(concurrency)), requests, Path(cache)):
        replies[reply.id] = asdict(reply)
        sys.stdout.write(reply.id + "\n")
        sys.stdout.flush()
    Path(output).write_text(json.dumps(replies))


if __name__ == "__main__":
    main(*sys.argv[1:])
