"""The mirror test: flip both pictures, and left and right must change places in what is said of them.

Paper, section 4.2: orientation is what models get wrong most, and this finds it without knowing the truth."""

from pathlib import Path

from PIL import Image

from editcaption_mega.curation.lint.left_and_right import unswapped_sides
from editcaption_mega.curation.lint.linter import readable
from editcaption_mega.data.images.decode import decode_image, encode_png
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.shards.writer import ShardWriter
from editcaption_mega.progress import Progress, no_progress

# What is said of the pair, and would be wrong of the mirrored one.
_SAID = {
    "instruction": None,
    "chosen": None,
    "rejected": None,
    "failure_modes": None,
    "severity": None,
    "changes": None,
}


def mirrored_picture(data: bytes, where: str = "image") -> bytes:
    """The picture flipped left to right, as PNG. Raises ImageError."""
    return encode_png(decode_image(data, where=where).transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def mirror_problems(instruction: str, mirrored: str) -> list[str]:
    """What an instruction and the one written for the mirrored pair contradict each other in, a sentence each."""
    return unswapped_sides(readable(instruction), readable(mirrored))


def mirror_shards(shards: ShardReader, output: Path, progress: Progress = no_progress) -> int:
    """Shards of the same ids with all pictures flipped and nothing said of them, for a model to caption -> how many."""
    with ShardWriter(output) as writer:
        for i in progress(range(len(shards)), len(shards), "mirrored"):
            sample = shards[i]
            provenance = {**sample.pair.provenance, "mirrored": True}
            pair = sample.pair.model_copy(update={**_SAID, "provenance": provenance})
            flipped = [mirrored_picture(data, pair.id) for data in (sample.source_bytes, sample.target_bytes)]
            writer.add(pair, flipped[0], "png", flipped[1], "png")
    return len(shards)
