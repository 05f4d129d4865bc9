"""Rows that cost the same, on lengths as real sets have them: pictures of many sizes, short and long texts."""

import numpy as np
import pytest

from editcaption_mega.data.batching.balance import dealt, leveled
from editcaption_mega.data.batching.packing import Packer, RankShare, plan_sequences
from editcaption_mega.data.images.patches import ImageSettings, grid_tokens, image_grid

ROW, RANKS = 8192, 8


def realistic(samples, seed, max_pixels):
    """-> tokens of samples, and their work: linear in tokens and patches, and the squares of both."""
    random = np.random.default_rng(seed)
    settings = ImageSettings(16, 2, 2, min_pixels=65536, max_pixels=max_pixels)
    edges = random.choice([1024, 768, 512, 1536, 400], samples, p=[0.35, 0.25, 0.2, 0.1, 0.1])
    aspects = np.exp(random.choice([0, 0.29, -0.29, 0.41, -0.41, 0.58], samples, p=[0.4, 0.15, 0.15, 0.1, 0.1, 0.1]))
    texts = random.lognormal(np.log(60), 0.6, samples).astype(int) + 150
    tokens, work = [], []
    for edge, aspect, text in zip(edges, aspects, texts, strict=True):
        size = round(edge * aspect**0.5), round(edge / aspect**0.5)
        picture = grid_tokens(image_grid(*size, settings), 2)
        tokens.append(int(2 * picture + text))
        work.append(
            float(tokens[-1] * 14e9 + tokens[-1] ** 2 * 3e5 + 2 * (4 * picture * 8e8 + (4 * picture) ** 2 * 1e5))
        )
    return tokens, work


@pytest.mark.parametrize("max_pixels", [512**2, 768**2, 1024**2])
def test_padding_and_imbalance_on_a_realistic_mix(max_pixels):
    """The bars: two in a hundred tokens of padding at most, and 1.05 of the mean on the busiest of eight ranks."""
    paddings, imbalances = [], []
    packer = Packer(None, 1, 2, 48, ROW, share=RankShare(data_parallel_size=RANKS))
    for step in range(12):
        plan = packer.plan(*realistic(256, step, max_pixels))
        paddings.append(plan.padding)
        imbalances.append(plan.imbalance)
    assert np.mean(paddings) <= 0.02
    assert max(imbalances) <= 1.05


def test_leveling_helps_and_loses_nothing():
    for seed in range(6):
        tokens, _ = realistic(64, seed, 1024**2)
        count = len(plan_sequences(tokens, ROW, RANKS))
        rows = [list(range(first, 64, count)) for first in range(count)]
        level = leveled(tokens, rows)
        assert sorted(i for row in level for i in row) == list(range(64)) and len(level) == count and all(level)
        longest = [max(sum(tokens[i] for i in row) for row in way) for way in (rows, level)]
        assert longest[1] < longest[0]
        assert level == leveled(tokens, rows), "a pure function"


def test_a_sample_may_be_given_away():
    assert leveled([5, 5, 5, 1], [[0, 1, 2], [3]]) == [[1, 2], [0, 3]]


def test_rows_that_are_level_stay():
    rows = [[0, 1], [2, 3], [4]]
    assert leveled([5, 5, 4, 6, 10], rows) == rows


def test_rows_are_dealt_by_their_work():
    work = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0]
    rows, imbalance = dealt([[0], [1], [2], [3], [4], [5]], work, 2)
    assert rows == [[0], [2], [5], [4], [3], [1]]  # 9 and 8 at once, then 3 and 7, then 2 and 1
    assert [sum(work[row[0]] for row in rows[rank::2]) for rank in (0, 1)] == [14.0, 16.0]
    assert imbalance == 16 / 15
