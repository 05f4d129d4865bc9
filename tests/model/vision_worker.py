"""Runs on some ranks: the vision tower over pictures that the ranks share, and over all of them alone.

Usage: -m tests.model.vision_worker OUTPUT_FOLDER; test_vision.py starts it."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from editcaption_mega import platform
from editcaption_mega.model import Architecture
from editcaption_mega.model.vision import VisionTower, gather_images
from tests.helpers import tiny

ROWS = {"even": 1, "whole": 3, "nothing": 0}  # samples; of two ranks, how they divide the pictures


def outcome(tower: VisionTower, samples: int, ranks: int, rank: int) -> list[torch.Tensor]:
    """Features of the row's pictures, and gradients by all weights, which the ranks add up."""
    chosen = tiny.samples(samples) if samples else tiny.samples(1, text_only=(0,))
    images = tiny.row(chosen, 200, ranks=ranks, rank=rank).images
    if samples:
        assert images.whole_pictures == (samples == ROWS["whole"] or ranks == 1)
        assert ranks == 1 or samples != ROWS["whole"] or len(images.places) > 1, "pictures that change places"
    features = gather_images(tower(images), images, dist.group.WORLD)
    upstream = torch.randn(features.shape, generator=torch.Generator().manual_seed(5))
    gradients = torch.autograd.grad(features, list(tower.parameters()), upstream)
    if ranks > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)
    return [features.detach() if samples else torch.zeros(0), *gradients]


def main(folder: str) -> None:
    platform.initialize(platform.Layout(int(os.environ["WORLD_SIZE"])), seed=1)
    vision = Architecture.from_config(tiny.hf_model(experts=False, layers=4).config.to_dict()).vision
    torch.manual_seed(0)
    tower = VisionTower(vision, group=dist.group.WORLD, fused_weight_gradients=False)
    lines = []
    for name, samples in ROWS.items():
        shared = outcome(tower, samples, dist.get_world_size(), dist.get_rank())
        alone = outcome(tower, samples, 1, 0)
        assert len(shared) == len(alone) and all(gradient.any() for gradient in alone[1:]) == bool(samples)
        difference = max(
            (ours - theirs).abs().max() / max(1.0, theirs.abs().max())
            for ours, theirs in zip(shared, alone, strict=True)
            if theirs.numel()
        )
        lines.append(f"{name} {float(difference)!r}")
    Path(folder, f"{dist.get_rank()}.txt").write_text("\n".join(lines))
    platform.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
