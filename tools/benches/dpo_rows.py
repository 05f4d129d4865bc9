"""One shared-prompt row against the same pair as two plain packed sequences, forward and backward, taking turns.

`tools/bench.py dpo-rows` is the command."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.data.batching.packing import Packer
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.patches import Grid, ImageSettings
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.settings import ModelSettings, ParallelSettings

from .measuring import peak, reset_peak
from .ways import Way, scratch_folder

CPU = torch.device("cpu")


def measure(prompt: int, response: int, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Forward and backward of one pair, its prompt once or twice -> one record per way."""
    with scratch_folder() as root:
        platform.initialize(platform.Layout(), seed=1)
        try:
            architecture = Architecture.from_folder(root / "model")
            (model,) = build_model(architecture, ModelSettings(folder=str(root / "model")), ParallelSettings(), "fp32")
            load_weights([model], architecture, root / "model")
            pair = _random_pair(architecture, prompt, response)
            batches = {
                Way("shared prompt"): _row([pair], architecture, root / "model"),
                Way("two plain sequences"): _row([replace(pair, shared_prompt=False)], architecture, root / "model"),
            }
            for turn in range(1 + repeats):  # the first turn warms up
                say(f"rows: turn {turn} of {repeats}")
                for way, batch in batches.items():
                    model.zero_grad()
                    before = reset_peak(CPU)
                    began = time.perf_counter()
                    loss = -model(batch).sum()
                    loss.backward()
                    if turn:
                        way.times.append(time.perf_counter() - began)
                    way.peak_bytes = max(way.peak_bytes, peak(CPU) - before)
                    way.tokens = batch.num_tokens
                    way.losses.append(loss.item())
            ours = next(iter(batches))
            return [way.record("rows", 1, ours) for way in batches]
        finally:
            platform.destroy()


@dataclass(frozen=True)
class ImageInMemory:
    """A picture of a sample that is in no shard."""

    grid: Grid
    patches: torch.Tensor

    def load(self) -> torch.Tensor:
        return self.patches


def _random_pair(architecture: Architecture, prompt: int, response: int) -> EncodedSample:
    """Two pictures fill nearly the whole prompt, as in training."""
    generator = torch.Generator().manual_seed(0)
    side = 2 * int((0.48 * prompt) ** 0.5)
    grids = ((1, side, side), (1, side, side))
    vision = architecture.vision
    values = 3 * vision.patch_size**2
    patches = [torch.randint(0, 256, (side * side, values), generator=generator, dtype=torch.uint8) for _ in grids]

    def tokens(count: int) -> list[int]:
        return torch.randint(10, 600, (count,), generator=generator).tolist()

    ids = tokens(4)
    for grid in grids:
        ids += [architecture.image_token_id] * (grid[1] * grid[2] // 4) + tokens(4)
    ids += tokens(prompt - len(ids))
    answers = (tuple(tokens(response)), tuple(tokens(response)))
    return EncodedSample("pair", tuple(ids), answers, tuple(map(ImageInMemory, grids, patches)))


def _row(pairs: list[EncodedSample], architecture: Architecture, folder: Path):
    images = ImageSettings.from_folder(folder, min_pixels=1024, max_pixels=1 << 24)
    length = sum(pair.num_tokens for pair in pairs)
    packer = Packer(images, architecture.image_token_id, 0, architecture.vision.num_grid_per_side, length)
    return packer.collate(pairs, length)
