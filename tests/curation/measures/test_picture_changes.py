import math

import numpy as np
import pytest
import torch
from PIL import Image

from editcaption_mega.curation.measures.picture_changes import SIDE, changed_boxes, measure_pictures
from editcaption_mega.data.images.decode import ImageError, encode_png
from editcaption_mega.evaluation.execution.measures import ssim


def png(pixels) -> bytes:
    return encode_png(Image.fromarray(np.asarray(pixels, np.uint8)))


def noise(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_what_changed_and_where():
    source = np.full((200, 400, 3), 120, np.uint8)
    target = source.copy()
    target[20:60, 40:120] = 220
    target[150:190, 300:400] = 20
    columns = measure_pictures(png(source), png(target))
    assert columns["changed_share"] == pytest.approx((40 * 80 + 40 * 100) / (200 * 400), abs=1e-6)
    assert columns["same_size"] and not columns["identical"] and columns["aspect"] == 1
    assert len(columns["boxes"]) == 2
    (large, small) = columns["boxes"]
    cell = 13  # pixels: 400 / 32, rounded up
    for box, (left, top, right, bottom) in [(large, (300, 150, 400, 190)), (small, (40, 20, 120, 60))]:
        assert 0 <= left - box[0] * 400 < cell and 0 <= top - box[1] * 200 < cell
        assert 0 <= box[2] * 400 - right < cell and 0 <= box[3] * 200 - bottom < cell
    assert columns["largest_box"] == pytest.approx((large[2] - large[0]) * (large[3] - large[1]), abs=1e-3)
    assert columns["brightness"] == pytest.approx((3200 * 100 - 4000 * 100) / 80000 / 255, abs=1e-4)
    assert columns["mean_change"] == pytest.approx(7200 * 100 / 80000 / 255, abs=1e-4)


def test_equal_pictures_and_noise():
    same = measure_pictures(png(noise()), png(noise()))
    assert same["identical"] and same["ssim"] == 1 and same["changed_share"] == 0 and same["boxes"] == []
    faint = np.clip(noise().astype(int) + 5, 0, 255)
    near = measure_pictures(png(noise()), png(faint))
    assert not near["identical"] and near["changed_share"] == 0, "5 of 255 is what saving anew does"


def test_other_sizes_are_compared_and_said():
    wide = np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (40, 1, 3))
    narrow = wide[:, ::2]
    columns = measure_pictures(png(wide), png(narrow))
    assert not columns["same_size"] and columns["aspect"] == 0.5
    assert columns["changed_share"] < 0.01 and columns["ssim"] > 0.99
    large = measure_pictures(png(np.kron(wide, np.ones((20, 20, 1), np.uint8))), png(wide))
    assert large["aspect"] == 1 and large["ssim"] > 0.99 and SIDE < 1600


def test_a_broken_picture_is_named():
    with pytest.raises(ImageError, match="the target: not an image"):
        measure_pictures(png(noise()), b"nothing")


def test_regions_that_touch_at_a_corner_are_one_and_few_pixels_none():
    changed = np.zeros((320, 320), bool)
    changed[0:10, 0:10] = changed[10:20, 10:20] = True
    changed[200, 200] = True
    assert changed_boxes(changed) == [[0, 0, 0.0625, 0.0625]]
    checkers = np.zeros((320, 320), bool)
    for i in range(0, 320, 40):
        for j in range(0, 320, 40):
            checkers[i : i + 10, j : j + 10] = True
    assert len(changed_boxes(checkers)) == 8, "the most that are told"
    assert changed_boxes(np.ones((7, 500), bool)) == [[0, 0, 1, 1]]


def slow_ssim(a, b) -> float:
    """Wang et al. (2004), eq. 13, window by window."""
    luma = [picture.astype(np.float64) @ (0.299, 0.587, 0.114) / 255 for picture in (a, b)]
    weights = np.array([math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)])
    window = np.outer(weights, weights)
    window /= window.sum()
    values = []
    for y in range(luma[0].shape[0] - 10):
        for x in range(luma[0].shape[1] - 10):
            p, q = (picture[y : y + 11, x : x + 11] for picture in luma)
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + 0.01**2) * (2 * cov + 0.03**2)
                / ((mean_p**2 + mean_q**2 + 0.01**2) * (var_p + var_q + 0.03**2))
            )  # fmt: skip
    return float(np.mean(values))


@pytest.mark.parametrize("seed", [0, 1])
def test_ssim_is_the_paper_s(seed):
    a = noise(30, 26, seed)
    b = np.clip(a * 0.8 + noise(30, 26, seed + 10) * 0.2, 0, 255).astype(np.uint8)
    tensors = [torch.from_numpy(picture.transpose(2, 0, 1) / np.float32(255)) for picture in (a, b)]
    assert ssim(*tensors) == pytest.approx(slow_ssim(a, b), abs=1e-6)
    assert measure_pictures(png(a), png(b))["ssim"] == pytest.approx(slow_ssim(a, b), abs=1e-5)
