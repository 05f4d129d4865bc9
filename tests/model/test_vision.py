"""Pictures travel as 8-bit pixels, once; the tower computes of them what it would of the processor's floats, and ranks
that share them what one alone does."""

import sys

import torch

from editcaption_mega import platform
from editcaption_mega.data.images.patches import ImageSettings, normalized, processor_patches
from editcaption_mega.model import Architecture
from tests.helpers import tiny, warm
from tests.model.vision_worker import ROWS


def test_one_product_of_8_bit_pixels_equals_that_of_both_frames():
    platform.prepare()
    from editcaption_mega.model.vision import PatchEmbedding

    vision = Architecture.from_config(tiny.hf_model(experts=False, layers=4).config.to_dict()).vision
    mean, std = (0.48, 0.45, 0.41), (0.26, 0.27, 0.28)
    settings = ImageSettings(vision.patch_size, 2, vision.temporal_patch_size, 1, 10**6, mean, std)
    torch.manual_seed(0)
    embed = PatchEmbedding(vision)
    pixels = torch.randint(0, 256, (24, settings.patch_bytes), dtype=torch.uint8)
    upstream = torch.randn(24, vision.hidden_size)

    def gradient(out):
        return torch.autograd.grad((out * upstream).sum(), embed.weight)[0]

    ours = embed(normalized(pixels, settings.normalization))
    theirs = torch.nn.functional.linear(processor_patches(pixels, settings), embed.weight, embed.bias)
    assert (ours - theirs).abs().max() <= 1e-6
    frames = embed.weight.view(len(embed.weight), 3, vision.temporal_patch_size, -1)
    assert (frames[:, :, 0] - frames[:, :, 1]).abs().max() > 0.1, "kernels that differ"
    assert (gradient(ours) - gradient(theirs)).abs().max() <= 2e-5


def test_ranks_that_share_pictures_get_the_features_and_gradients_of_one_alone(tmp_path):
    """Two ranks, with even parts of the patches, with whole pictures that are not in the row's order, and with none."""
    warm.run_ranks([sys.executable, "-m", "tests.model.vision_worker", tmp_path], 2, timeout=300)
    for rank in range(2):
        lines = (tmp_path / f"{rank}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == list(ROWS)
        assert max(float(line.split()[1]) for line in lines) <= 2e-6, lines
