"""Pictures small enough for one file: WebP of a bounded side and a bounded number of bytes."""

import base64
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

from PIL import Image

from editcaption_mega.data.images.decode import decode_image, image_size
from editcaption_mega.data.images.formats import media_type
from editcaption_mega.evaluation.benchmarks import Benchmark, BenchmarkPair

THUMBNAIL_SIDE = 384  # pixels of the longer side
MOST_BYTES, LEAST_BYTES = 24_000, 4_000  # of one picture
_QUALITIES = (84, 70, 60, 50, 40)
_SMALLEST_SIDE = 128


def byte_budget(pictures: int, file_bytes: int) -> int:
    """Bytes that each of so many pictures may have for all of them, as base64, to fit into `file_bytes`; never below
    LEAST_BYTES, where a picture tells little: a file of very many pairs grows instead."""
    return max(LEAST_BYTES, min(MOST_BYTES, int(file_bytes * 3 / 4 / max(1, pictures))))


def shrunk(data: bytes, budget: int, *, side: int = THUMBNAIL_SIDE, where: str = "image") -> tuple[str, bytes]:
    """(MIME type, bytes) of a picture: its own bytes where they are few and small enough, else a WebP that is.

    Quality falls first, then the side; at _SMALLEST_SIDE the last one is taken whatever its size. Raises ImageError."""
    if len(data) <= budget and max(image_size(data, where=where)) <= side:
        return media_type(data), data
    picture = decode_image(data, where=where)
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            encoded = _webp(picture, quality)
            if len(encoded) <= budget:
                return "image/webp", encoded
        if side <= _SMALLEST_SIDE:
            return "image/webp", encoded
        side = max(_SMALLEST_SIDE, side * 3 // 4)


def pairs_as_text(benchmark: Benchmark, budget: int) -> Iterator[str]:
    """Per pair, in order, source and target as "MIME,base64 MIME,base64". A few pairs are in memory at a time."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:  # Pillow's encoders release the interpreter's lock
        for positions in batched(range(len(benchmark)), 8 * workers):
            items = [benchmark.item(i) for i in positions]
            jobs = [(data, f"{item.pair.id}, {side}") for item in items for side, data in _sides(item)]
            texts = list(pool.map(lambda job: _text(*shrunk(job[0], budget, where=job[1])), jobs))
            yield from (f"{source} {target}" for source, target in batched(texts, 2))


def _sides(item: BenchmarkPair) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return ("source", item.source), ("target", item.target)


def _text(mime: str, data: bytes) -> str:
    return f"{mime},{base64.b64encode(data).decode()}"


def _webp(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=quality, method=2)
    return buffer.getvalue()
