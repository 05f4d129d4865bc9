"""The records of what a model writes while it trains: samples.jsonl, its pictures, the loggers and the log."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.shards.reader import SIDES, ShardReader
from editcaption_mega.files import write_atomically
from editcaption_mega.words import one_line

from ..line_file import LineFile, drop_after
from ..loggers import Loggers
from ..resume import SAMPLE_PICTURES, SAMPLES

_SIDE, _GAP = 256, 4  # pixels: the longer side of each of the two pictures at most, and between them
_FRAME = (221, 228, 236)  # between and around them, so that white pictures have an edge


@dataclass(frozen=True)
class SampledPair:
    """A pair for which texts are written. reference: what the data has as its answer."""

    id: str
    reference: str
    number: int  # in the shards


@dataclass(frozen=True)
class SampledText:
    """tokens: without the one that ends an answer; finished: that one came in time."""

    text: str
    tokens: int
    finished: bool


class SampleLog:
    """Where the texts of a run's evaluations go; used on rank 0 only.

    Resuming at step n drops what a killed run wrote after step n. Raises OSError, and ShardError and ImageError for
    pictures that cannot be read. say: takes lines for the log."""

    def __init__(
        self,
        output: Path,
        shards: ShardReader,
        pairs: list[SampledPair],
        *,
        first_step: int,
        loggers: Loggers,
        say: Callable[[str], None],
    ):
        drop_after(output / SAMPLES, first_step)
        self.pairs, self._loggers, self._say = pairs, loggers, say
        (output / SAMPLE_PICTURES).mkdir(parents=True, exist_ok=True)
        self._pictures = [side_by_side(shards, pair.number) for pair in pairs]
        self._files = [f"{SAMPLE_PICTURES}/{hashlib.sha256(pair.id.encode()).hexdigest()[:16]}.webp" for pair in pairs]
        for picture, name in zip(self._pictures, self._files, strict=True):
            write_atomically(output / name, _webp(picture))
        self._lines = LineFile(output / SAMPLES)
        self._shown = False

    def write(self, step: int, texts: list[SampledText], passes: int, seconds: float) -> None:
        """What the weights after `step` write for the pairs."""
        took = f"{passes} pass{'es' if passes > 1 else ''}, {seconds:.1f} s"
        self._say(f"samples after step {step} ({took}):")
        for number, (pair, made) in enumerate(zip(self.pairs, texts, strict=True), start=1):
            line = {
                "step": step, "id": pair.id, "text": made.text, "finished": made.finished, "tokens": made.tokens,
                "reference": pair.reference, "picture": self._files[number - 1],
            }  # fmt: skip
            self._lines.write(json.dumps(line, ensure_ascii=False))
            cut = "" if made.finished else f" [cut after {made.tokens} tokens]"
            self._say(f"  {one_line(pair.id, 40)}: {one_line(made.text) or '(nothing)'}{cut}")
            name = f"samples/pair_{number}"
            words = f"{made.text}{cut}\n\nreference: {pair.reference}\nid: {pair.id}"
            self._loggers.text(step, name, words)
            if not self._shown:  # it stays the same
                self._loggers.image(step, name, np.asarray(self._pictures[number - 1]))
        self._shown = True

    def close(self) -> None:
        """Raises OSError when something could not be written to the end."""
        self._lines.close()


def side_by_side(shards: ShardReader, number: int) -> Image.Image:
    """Source and target of a pair, small, in a frame, as one picture."""
    name = shards.meta(number).id
    pictures = [decode_image(shards.picture(number, side), where=f"{name} ({side})") for side in SIDES]
    for picture in pictures:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    left, right = pictures
    size = (left.width + right.width + 3 * _GAP, max(left.height, right.height) + 2 * _GAP)
    both = Image.new("RGB", size, _FRAME)
    both.paste(left, (_GAP, _GAP))
    both.paste(right, (left.width + 2 * _GAP, _GAP))
    return both


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=85, method=4)
    return buffer.getvalue()
