"""The released models' sizes: those of transformers and of the hub, weight for weight, in any layout."""

import ast
import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from editcaption_mega.conversion import local_param_shards, rules_for
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.released import RELEASED, architecture_to_plan, released_architecture
from editcaption_mega.settings import (
    DPOSettings,
    JobSettings,
    ModelSettings,
    ParallelSettings,
    SettingsError,
    check_paths,
)
from editcaption_mega.settings.load import load_settings
from editcaption_mega.training.setup import open_architecture
from tests.helpers import ROOT, released
from tests.helpers.fake_ranks import on_fake_ranks, smallest_world

# Numbers of values in the released weights.
PUBLISHED = {
    "Qwen3-VL-2B": 2_127_532_032,  # the hub's own count, safetensors.total of its API
    "Qwen3-VL-4B": 8_875_631_616 // 2,  # metadata.total_size of model.safetensors.index.json: bytes of bf16
    "Qwen3-VL-8B": 8_767_123_696,  # the hub's own count; half of total_size 17,534,247,392
    "Qwen3-VL-32B": 66_714_780_128 // 2,  # total_size
    "Qwen3-VL-30B-A3B": 31_070_754_032,  # paramCount of Fireworks AI's list of models, made from the weights
    "Qwen3-VL-235B-A22B": 235_670_022_896,  # the same list
}
CONFIGS = ROOT / "configs"
SHIPPED = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*_qwen3_vl_*.yaml")
    if path.name.startswith(("sft_", "dpo_"))
)


def shipped_settings(config: str) -> JobSettings:
    return load_settings(CONFIGS / config, kind=DPOSettings if "dpo_" in config else JobSettings)


def layout(tp=1, pp=1, vpp=None, ep=1, etp=None, **more) -> ParallelSettings:
    return ParallelSettings(tp, pp, vpp, ep, etp, **more)


BOTH_ENDS = dict(account_for_embedding_in_pipeline_split=True, account_for_loss_in_pipeline_split=True)
# (model, layout, copies of the smallest world)
LAYOUTS = {
    "tied over stages, copied": ("Qwen3-VL-2B", layout(tp=2, pp=2), 2),
    "tied, interleaved": ("Qwen3-VL-4B", layout(pp=2, vpp=3), 1),
    "uneven stages": ("Qwen3-VL-8B", layout(pp=3, layers_per_chunk=[5, 16, 15]), 1),
    "experts cut, copied": ("Qwen3-VL-30B-A3B", layout(tp=2, ep=2, etp=2), 2),
    "experts whole": ("Qwen3-VL-235B-A22B", layout(tp=4, ep=4, etp=1), 1),
}
LARGE_LAYOUTS = {
    "replicated": ("Qwen3-VL-2B", layout(), 3),
    "tied, as small as it gets": ("Qwen3-VL-4B", layout(tp=8, pp=4, vpp=3), 1),
    "tensors alone": ("Qwen3-VL-8B", layout(tp=8), 2),
    "chunks that do not divide": ("Qwen3-VL-8B", layout(tp=2, pp=5), 1),
    "four chunks": ("Qwen3-VL-32B", layout(tp=8, pp=4, vpp=4), 1),
    "more experts' ranks than tensors'": ("Qwen3-VL-30B-A3B", layout(tp=4, pp=2, vpp=2, ep=32, etp=1), 1),
    "few experts' ranks": ("Qwen3-VL-30B-A3B", layout(tp=4, pp=4, vpp=4, ep=2, etp=4), 2),
    "two chunks": ("Qwen3-VL-235B-A22B", layout(tp=4, pp=4, vpp=2, ep=8, etp=2, **BOTH_ENDS), 1),
}


@pytest.mark.parametrize("name", RELEASED)
def test_values_are_those_of_the_release(name):
    """Against the whole config.json, as the release lays it out."""
    assert released_architecture(name) == Architecture.from_config(released.config(name.removeprefix("Qwen3-VL-")))


@pytest.mark.parametrize("name", RELEASED)
def test_as_many_weights_as_published_and_as_transformers_has(name):
    from transformers import AutoConfig, AutoModelForImageTextToText

    architecture = released_architecture(name)
    assert sum(rule.size for rule in unique_rules(rules_for(architecture))) == PUBLISHED[name]
    config = AutoConfig.for_model(**architecture.hf_config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]  # each tied weight once


def params_of_rank(architecture: Architecture, parallel: ParallelSettings) -> list:
    """[(rule's name, box, the data-parallel group that writes it)], of chunks built for real but without values."""
    from megatron.core import parallel_state

    chunks = build_model(architecture, ModelSettings(folder="none"), parallel, "bf16")
    assert all(parameter.is_meta for chunk in chunks for parameter in chunk.parameters())
    groups = parallel_state.get_data_parallel_group(), parallel_state.get_expert_data_parallel_group()
    ranks_of = [tuple(dist.get_process_group_ranks(group)) for group in groups]
    return [
        (shard.rule.name, shard.box, ranks_of[shard.is_expert] if shard.writer else None)
        for shard in local_param_shards(chunks, rules_for(architecture))
    ]


def check_union(name: str, parallel: ParallelSettings, copies: int) -> None:
    """Over all ranks the boxes cover every weight once, and each has one data-parallel group that writes it."""
    architecture, world_size = released_architecture(name), copies * smallest_world(parallel)
    writers: dict = {}
    for shards in on_fake_ranks(params_of_rank, parallel, world_size, architecture, parallel):
        for rule, box, group in shards:
            writers.setdefault(rule, {}).setdefault(box, set()).update([group] if group else [])
    assert sum(box.size for boxes in writers.values() for box in boxes) == PUBLISHED[name]
    for rule in unique_rules(rules_for(architecture)):
        boxes = list(writers[rule.name])
        assert sum(box.size for box in boxes) == rule.size, rule.name
        assert not any(a.intersect(b) for i, a in enumerate(boxes) for b in boxes[:i]), rule.name
        assert all(len(groups) == 1 for groups in writers[rule.name].values()), rule.name


@cache
def check_shipped(name: str, parallel: str) -> None:
    """Once for all configurations of one layout."""
    check_union(name, ParallelSettings(**json.loads(parallel)), 1)


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_ranks_of_a_layout_hold_every_weight_once(case):
    check_union(*LAYOUTS[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE_LAYOUTS)
def test_the_ranks_of_a_large_layout_hold_every_weight_once(case):
    check_union(*LARGE_LAYOUTS[case])


@pytest.mark.slow
@pytest.mark.parametrize("config", SHIPPED)
def test_the_ranks_of_a_shipped_configuration_hold_every_weight_once(config):
    settings = shipped_settings(config)
    name = Path(settings.model.folder).name.removesuffix("-Instruct")
    check_shipped(name, json.dumps(dataclasses.asdict(settings.parallel)))


@pytest.mark.parametrize("config", SHIPPED)
def test_shipped_configurations_name_released_models(config):
    settings = shipped_settings(config)
    assert not Path(settings.model.folder).exists()
    assert architecture_to_plan(settings.model.folder).vocab_size == 151936


@pytest.mark.parametrize("name", ["Qwen3-VL-8B", "models/Qwen3-VL-8B-Instruct", "Qwen/qwen3-vl-8b-thinking/"])
def test_names_of_a_model(name):
    assert architecture_to_plan(name) == released_architecture("Qwen3-VL-8B")


@pytest.mark.parametrize("name", ["models/Qwen3-VL-7B-Instruct", "Qwen3-VL-8B-Instruct-FP8", "Qwen3-VL", "a/8B"])
def test_other_names_get_the_list(name):
    with pytest.raises(
        ValueError, match=f"model.folder={name}: no such folder, and '.*' is no released model"
    ) as error:
        architecture_to_plan(name)
    assert all(released in str(error.value) for released in RELEASED) and "\n" not in str(error.value)


def test_a_folder_that_is_there_is_read(tmp_path):
    folder = tmp_path / "Qwen3-VL-2B-Instruct"
    folder.mkdir()
    with pytest.raises(ValueError, match="lacks config.json"):
        architecture_to_plan(folder)
    released.put(folder / "config.json", released.config("4B"))
    assert architecture_to_plan(folder) == released_architecture("Qwen3-VL-4B")


def test_training_needs_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = JobSettings(model=ModelSettings(folder="models/Qwen3-VL-2B-Instruct"))
    with pytest.raises(SettingsError, match="no such folder"):
        check_paths(settings)
    with pytest.raises(ValueError, match="found no folder"):
        open_architecture(settings)


def test_planning_alone_asks_for_them():
    asking = set()
    for path in (ROOT / "editcaption_mega").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("released"):
                asking.add(path.relative_to(ROOT / "editcaption_mega").parts[0])
    assert asking == {"commands"}, "the command of the planner"
