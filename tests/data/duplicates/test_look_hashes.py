"""Hashes know left from right, and which of their bits to distrust."""

import numpy as np
import pytest

from editcaption_mega.data.duplicates.look_hashes import BITS, crop_matrix, look_hashes, of_mirrored


@pytest.fixture(scope="module")
def light():
    return np.random.default_rng(0).integers(0, 256, (50, 16, 16), np.uint8)


def test_bits_are_signs_of_a_cosine_transform(light):
    hashes = look_hashes(light)
    places = np.arange(16)
    waves = 2 * np.cos(np.pi * places[:, None] * (2 * places + 1) / 32)  # [frequency, place], DCT-II by its definition
    spectrum = waves @ light[7] @ waves.T
    low = [(u, v) for u in range(16) for v in range(16) if u or v]
    low = sorted(low, key=lambda place: (sum(place), place[0]))[:BITS]
    signs = [spectrum[place] > 0 for place in low]
    assert [bool(int(hashes.bits[7]) >> k & 1) for k in range(BITS)] == signs
    weakest = np.argsort([abs(spectrum[place]) for place in low])
    assert hashes.order[7].tolist() == weakest.tolist()


def test_a_mirrored_picture_has_the_mirrored_hash(light):
    again = look_hashes(light[:, :, ::-1])
    assert (of_mirrored(look_hashes(light)).bits == again.bits).all()


def test_a_crop_keeps_what_lies_in_it():
    ramp = np.arange(16, dtype=np.float32)
    for start in (0.0, 0.5, 1.0):
        matrix = crop_matrix(start)
        assert matrix.sum(1) == pytest.approx(np.ones(16)) and (matrix >= 0).all()
        left = 0.05 * start * 16
        inner = left + 0.95 * (ramp + 0.5) - 0.5
        assert (matrix @ ramp)[2:-2] == pytest.approx(inner[2:-2], abs=0.6)
