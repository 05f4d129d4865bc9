"""What limits of pictures cost, by counting the tokens of pictures one by one."""

from statistics import fmean

import numpy as np
import pytest

from editcaption_mega.data.batching import picture_cost
from editcaption_mega.data.batching.picture_cost import picture_lines
from editcaption_mega.data.images.patches import ImageSettings, grid_tokens, image_grid

SIZES = [(512, 512), (512, 512), (1024, 1024), (1536, 1024), (40, 40), (1000, 700), (640, 480), (512, 512)]


def settings(max_pixels):
    return ImageSettings(16, 2, 2, min_pixels=4096, max_pixels=max_pixels)


def tokens(max_pixels):
    return [grid_tokens(image_grid(width, height, settings(max_pixels)), 2) for width, height in SIZES]


def pixels(times=1):
    return np.array(SIZES * times, np.int32).reshape(-1, 2, 2)


def test_the_numbers_are_those_of_all_pictures():
    limit = 640 * 1024
    text = "\n".join(picture_lines(pixels(), settings(limit)))
    assert (
        "resized to data.min_pixels=4,096 to data.max_pixels=655,360, a token for 32 x 32, so at most 640 tokens"
        in text
    )
    assert f"here {fmean(tokens(limit)):,.0f} on average, {max(tokens(limit)):,} at most" in text
    assert "37.5% are reduced and 12.5% are enlarged" in text, "the three from 1000 x 700 on, and that of 40 x 40"
    for other in (limit // 2, limit * 2):
        change = fmean(tokens(other)) / fmean(tokens(limit)) - 1
        assert f"{other:,} would take {fmean(tokens(other)):,.0f} ({change:+.0%})" in text


def test_of_a_large_set_some_pairs_are_looked_at(monkeypatch):
    monkeypatch.setattr(picture_cost, "MOST_PAIRS", 3)
    assert "(of 1 pair in 3)" in "\n".join(picture_lines(pixels(2), settings(1 << 20)))
    whole = picture_lines(pixels(), settings(1 << 20))
    monkeypatch.undo()
    assert picture_lines(pixels(50), settings(1 << 20)) == [*picture_lines(pixels(), settings(1 << 20))] != whole
    assert picture_lines(np.zeros((0, 2, 2), np.int32), settings(1 << 20)) == []


@pytest.mark.parametrize("limit", [4096, 5000])
def test_a_lower_limit_is_not_below_the_least(limit):
    assert "data.max_pixels=4,096 would take" in "\n".join(picture_lines(pixels(), settings(limit)))
