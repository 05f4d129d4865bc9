"""The names that loggers show."""

import math

from editcaption_mega.training.loggers import grouped


def test_numbers_have_groups_and_what_is_no_number_is_left_out():
    numbers = {
        "step": 7, "loss": 0.5, "grad_norm": math.nan, "learning_rate": None, "skipped": "why", "tokens": 10,
        "tokens_per_second": 20.0, "mfu": 0.4, "data_seconds": 0.1, "peak_memory_gib": 2.0, "expert_load_mean": 1.5,
        "experts_without_tokens": 0, "held_out/loss": 0.75, "reward_margin": 0.25, "orientation/reward_margin": 0.5,
    }  # fmt: skip
    assert grouped(numbers) == {
        "train/loss": 0.5, "train/tokens": 10, "speed/tokens_per_second": 20.0, "speed/mfu": 0.4,
        "speed/data_seconds": 0.1, "memory/peak_memory_gib": 2.0, "experts/expert_load_mean": 1.5,
        "experts/experts_without_tokens": 0, "held_out/loss": 0.75, "train/reward_margin": 0.25,
        "orientation/reward_margin": 0.5,
    }  # fmt: skip
