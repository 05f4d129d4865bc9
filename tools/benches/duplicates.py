"""The search for duplicates on a set in which copies are planted, and how its time grows with the set.

Pairs are those of the synthetic world, whose scenes are like one another, and of real pairs (--shards), whole and in 16
parts each. A tenth of the set are copies of others: a quarter each re-encoded, resized, mirrored and cropped.
"""

import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from editcaption_mega.data.duplicates.duplicate_search import KINDS, SearchedSet, find_duplicates
from editcaption_mega.data.duplicates.picture_marks import BYTES, PictureMark, SetMarks
from editcaption_mega.data.images.decode import decode_image, encode_png
from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.data.synthetic import WorldSettings, render_pair

Pair = tuple[Image.Image, Image.Image]
PLANTED = {"re-encoded": KINDS[2], "resized": KINDS[2], "mirrored": KINDS[3], "cropped": KINDS[4]}
PAIRS = 2000
_PARTS, _PART_SIDE = 4, 256


def measure(shards: Path | None, listed: int, say: Callable[[str], None]) -> list[dict]:
    """A record for each kind of copy and for false alarms in PAIRS pairs; then for sets of `listed` generated marks
    and a quarter of them, each in a process of its own."""
    say(f"{PAIRS:,} pairs, a tenth of them copies")
    originals = real_pairs(shards) if shards else []
    originals = originals[: PAIRS * 9 // 20]
    originals += rendered(PAIRS * 9 // 10 - len(originals))
    records = planted_records(originals, PAIRS // 10)
    for count in (listed // 4, listed):
        say(f"{count:,} generated pairs")
        child = [sys.executable, "-c", f"from benches.duplicates import generated; generated({count})"]
        done = subprocess.run(child, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True)
        records.append(json.loads(done.stdout.splitlines()[-1]))
    return records


def planted_records(originals: list[Pair], copies: int, seed: int = 3) -> list[dict]:
    """What is found of `copies` copies of some of the originals, and what is said of the originals themselves."""
    rng, kinds = random.Random(seed), list(PLANTED)
    planted = [(kinds[i % 4], at) for i, at in enumerate(rng.sample(range(len(originals)), copies))]
    marks = marked([*originals, *(copied(kind, originals[at], rng) for kind, at in planted)])
    began = time.monotonic()
    found = find_duplicates([SearchedSet("planted", None, marks)])
    seconds = time.monotonic() - began
    by_place = {d.place: d for d in found.pairs}
    records = []
    for kind, word in PLANTED.items():
        copies_of_kind = [(len(originals) + i, at) for i, (k, at) in enumerate(planted) if k == kind]
        right = [d for place, at in copies_of_kind if (d := by_place.get(place)) and d.other_place == at]
        told = sum(d.kind == word and not d.swapped for d in right)
        records.append({"name": kind, "of": len(copies_of_kind), "found": len(right), "named": told})
    alarms = sum(place < len(originals) for place in by_place)
    records.append({"name": "false alarms", "of": len(originals), "found": alarms, "seconds": round(seconds, 2)})
    return records


def copied(kind: str, pair: Pair, rng: random.Random) -> Pair:
    """A copy of both pictures, changed in the same way, and saved as a JPEG or WebP."""
    quality, scale = rng.choice([60, 70, 80, 90]), rng.choice([0.5, 0.67, 0.75, 1.5, 2.0])
    form, x, y = rng.choice(["JPEG", "WEBP"]), rng.random(), rng.random()
    how = rng.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])

    def changed(image: Image.Image) -> Image.Image:
        width, height = image.size
        if kind == "re-encoded":
            return _saved(image, form, quality)
        if kind == "resized":
            image = image.resize((round(width * scale), round(height * scale)), how)
        elif kind == "mirrored":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        else:
            lost = 0.05 * width, 0.05 * height
            left, top = x * lost[0], y * lost[1]
            image = image.crop((round(left), round(top), round(left + width - lost[0]), round(top + height - lost[1])))
        return _saved(image, "JPEG", 90)

    return changed(pair[0]), changed(pair[1])


def rendered(count: int) -> list[Pair]:
    pairs = (render_pair(WorldSettings(), 5, index) for index in range(count))
    return [(pair.source, pair.target) for pair in pairs]


def real_pairs(folder: Path) -> list[Pair]:
    """Those of shards, whole, and then each in 16 parts."""
    shards = open_shards(folder)
    whole = [
        (decode_image(s.source_bytes), decode_image(s.target_bytes)) for s in (shards[i] for i in range(len(shards)))
    ]
    places = [(x, y) for x in range(_PARTS) for y in range(_PARTS)]
    return whole + [(_part(a, *at), _part(b, *at)) for a, b in whole for at in places]


def marked(pairs: list[Pair]) -> SetMarks:
    count = len(pairs)
    marks = SetMarks(
        np.empty((count, 2), np.int64), np.empty((count, 2), np.int64), np.empty((count, 2, BYTES), np.uint8)
    )
    for at, pair in enumerate(pairs):
        for side, image in enumerate(pair):
            mark = PictureMark.of(encode_png(image), "a picture")
            marks.file[at, side], marks.pixels[at, side] = mark.file, mark.pixels
            marks.thumbnails[at, side] = np.frombuffer(mark.thumbnail, np.uint8)
    return marks


def generated(count: int) -> None:
    """In a process of its own: thumbnails of 4 x 4 blobs and noise, targets with another rectangle, and one in a
    hundred a copy with noise of 1.5; prints a record."""
    import resource

    rng = np.random.default_rng(0)
    hashes = rng.integers(-(2**62), 2**62, (2, count, 2))
    marks = SetMarks(hashes[0], hashes[1], np.empty((count, 2, BYTES), np.uint8))
    for start in range(0, count, 1 << 15):
        n = min(1 << 15, count - start)
        light = np.kron(rng.normal(128, 60, (n, 4, 4)), np.ones((1, 4, 4))) + rng.normal(0, 12, (n, 16, 16))
        edited, corner = light.copy(), rng.integers(0, 11, n)
        for k in range(n):
            edited[k, corner[k] : corner[k] + 5, corner[k] : corner[k] + 4] = rng.integers(0, 255)
        color = rng.integers(90, 160, (n, 1, 2)).repeat(64, 1).reshape(n, -1)
        for side, values in enumerate((light, edited)):
            parts = [values.clip(0, 255).reshape(n, -1), color]
            marks.thumbnails[start : start + n, side] = np.concatenate(parts, 1).astype(np.uint8)
    copies = rng.choice(count // 2, count // 100, replace=False)
    places = count // 2 + np.arange(len(copies)) * (count // 2 // len(copies))
    noise = np.rint(rng.normal(0, 1.5, (len(copies), 2, BYTES)))
    marks.thumbnails[places] = (marks.thumbnails[copies] + noise).clip(0, 255).astype(np.uint8)
    began, cpu = time.monotonic(), time.process_time()
    found = {d.place for d in find_duplicates([SearchedSet("generated", None, marks)]).pairs}
    record = {"name": f"{count:,} generated pairs", "of": len(places), "found": len(found & set(places.tolist()))}
    record |= {"seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    record |= {"false": len(found - set(places.tolist()))}
    record["gigabytes"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(record))


def markdown(records: list[dict]) -> str:
    lines = ["| | of | found | named rightly | seconds (processor) | memory |", "|---|---|---|---|---|---|"]
    for row in records:
        seconds = f"{row['seconds']}" if "seconds" in row else ""
        seconds += f" ({row['cpu_seconds']})" if "cpu_seconds" in row else ""
        memory = f"{row['gigabytes']} GB" if "gigabytes" in row else ""
        lines.append(
            f"| {row['name']} | {row['of']:,} | {row['found']:,} | {row.get('named', '')} | {seconds} | {memory} |"
        )
    return "\n".join([*lines, ""])


def _saved(image: Image.Image, form: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _part(image: Image.Image, x: int, y: int) -> Image.Image:
    width, height = image.width / _PARTS, image.height / _PARTS
    box = (width * x, height * y, width * (x + 1), height * (y + 1))
    return image.resize((_PART_SIDE, _PART_SIDE), Image.Resampling.LANCZOS, box=box)
