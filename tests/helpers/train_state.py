"""A small real model with its optimizer, as a job has them before its first step, on the ranks that there are."""

from pathlib import Path

from editcaption_mega import platform
from editcaption_mega.conversion import ParamShard, load_weights, local_param_shards, rules_for
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.settings import ModelSettings, OptimizerSettings, ParallelSettings
from editcaption_mega.training.optimizer import TrainState, build_train_state, freeze_modules


def train_state(
    folder: Path, settings: OptimizerSettings, *, precision: str = "fp32", expert: int = 1, total_steps: int = 100
) -> tuple[TrainState, list[ParamShard]]:
    """The state and its parameters' shards. Joins the ranks: `platform.destroy()` when done."""
    platform.initialize(platform.Layout(expert=expert), seed=1)
    architecture = Architecture.from_folder(folder)
    parallel = ParallelSettings(expert_model_parallel_size=expert)
    chunks = build_model(architecture, ModelSettings(folder=str(folder)), parallel, precision)
    load_weights(chunks, architecture, folder)
    param_shards = local_param_shards(chunks, rules_for(architecture))
    freeze_modules(param_shards, settings)
    state = build_train_state(chunks, param_shards, settings, precision=precision, total_steps=total_steps)
    return state, param_shards
