"""Sizes of a small model: what no Qwen3-VL can have is said by its name."""

import pytest

from editcaption_mega.settings import SettingsError, SmallModel, load_settings


def test_the_defaults_and_other_sizes():
    assert load_settings(None, None, SmallModel) == SmallModel()
    assert load_settings(None, ["experts=0", "num_layers=2"], SmallModel) == SmallModel(experts=0, num_layers=2)


@pytest.mark.parametrize(
    "size, words",
    [
        ("expert=0", "did you mean 'experts'"),
        ("experts=-1", "experts=-1: expected 0 or more"),
        ("hidden_size=0", "hidden_size=0: expected 1 or more"),
        ("num_kv_heads=3", "num_heads=8 must be a multiple of num_kv_heads=3"),
        ("vision_heads=5", "must be a multiple of vision_heads=5"),
        ("vision_heads=48", "vision_hidden_size / vision_heads is 2"),
        ("head_dim=7", "head_dim=7"),
        ("head_dim=4", "head_dim=4"),
        ("experts_per_token=5", "more than experts=4"),
        ("deepstack_layers=[2]", "deepstack_layers names layer 2"),
    ],
)
def test_impossible_sizes(size, words):
    with pytest.raises(SettingsError, match=words.replace("[", r"\[")):
        load_settings(None, [size], SmallModel)
