"""Learning rates per module, freezing, the schedule, and the table that says so."""

import pytest

from editcaption_mega import platform
from editcaption_mega.conversion import rules_for
from editcaption_mega.model import Architecture
from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.training.optimizer import trainable_table
from tests.helpers import tiny
from tests.helpers.train_state import train_state

SETTINGS = OptimizerSettings(
    learning_rate=1e-3, min_learning_rate=1e-4, warmup_steps=2, weight_decay=0.1, vision=0.0, router=0.5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("moe")
    tiny.hf_model(experts=True, layers=2).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def built(folder):
    yield train_state(folder, SETTINGS, total_steps=6)
    platform.destroy()


def test_modules_with_multiplier_zero_are_frozen(built):
    modules = {shard.rule.module for shard in built[1]}
    assert modules == {"language", "vision", "merger", "router"}
    for shard in built[1]:
        assert shard.parameter.requires_grad == (shard.rule.module != "vision"), shard.name


def test_every_trained_value_is_in_one_group_with_its_rate_and_decay(built):
    """By sizes: the optimizer's own tensors are flat copies. Norms and biases have no weight decay."""
    state, param_shards = built
    expected: dict[tuple[float, bool], int] = {}
    for shard in param_shards:
        if shard.rule.module != "vision":
            key = (5e-4 if shard.rule.module == "router" else 1e-3, shard.parameter.dim() > 1)
            expected[key] = expected.get(key, 0) + shard.parameter.numel()
    found: dict[tuple[float, bool], int] = {}
    for group in state.optimizer.param_groups:
        size = sum(parameter.numel() for parameter in group["params"])
        key = (group.get("max_lr") or 1e-3, group["weight_decay"] > 0)
        found[key] = found.get(key, 0) + size
    assert {key: size for key, size in found.items() if size} == expected and len(expected) == 3


def test_the_rate_rises_from_the_first_step_and_falls_to_its_least(built):
    state = built[0]
    rates = []
    for _ in range(7):
        rates.append(max(group["lr"] for group in state.optimizer.param_groups))
        state.scheduler.step(increment=1)
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] == pytest.approx(1e-4)


def test_the_table_counts_every_parameter_once(folder):
    rules = rules_for(Architecture.from_folder(folder))
    lines = trainable_table(rules, SETTINGS)
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    counts = {name: int(cells[name][0].replace(",", "")) for name in ("language", "vision", "merger", "router")}
    model = tiny.hf_model(experts=True, layers=2)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["vision"] + counts["merger"] == sum(p.numel() for p in model.model.visual.parameters())
    assert [cells[name][1] for name in ("language", "vision", "router")] == ["0.001", "frozen", "0.0005"]
    trained = sum(counts.values()) - counts["vision"]
    assert cells["trained"] == [f"{trained:,}", "of", f"{sum(counts.values()):,}"]
