"""Pictures travel as 8-bit pixels, once; the tower computes of them what it would of the processor's floats."""

import torch

from editcaption_mega import platform
from editcaption_mega.data.images.patches import ImageSettings, normalized, processor_patches
from editcaption_mega.model import Architecture
from tests.helpers import tiny


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
