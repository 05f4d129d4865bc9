import numpy as np
import pytest

from editcaption_mega.evaluation.statistics import bootstrap_interval, wilson_interval


def test_wilson():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))  # Wilson 1927
    assert wilson_interval(0, 20)[0] == pytest.approx(0, abs=1e-12) and wilson_interval(20, 20)[1] == 1.0


def test_bootstrap_repeats_and_holds_the_mean():
    values = np.random.default_rng(1).normal(4, 1, 300)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values) and low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.1)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
