"""What a job with adapters trains: these alone, on weights that stay as they are."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from megatron.core.utils import get_model_config

from editcaption_mega import platform
from editcaption_mega.conversion import (
    AdapterChoice,
    ParamShard,
    WeightSource,
    begin_adapters,
    find_checkpoint,
    load_adapters,
    local_param_shards,
)
from editcaption_mega.conversion.adapter_values import place_adapters
from editcaption_mega.conversion.peft_folder import check_peft_folder, read_peft_folder
from editcaption_mega.conversion.trained_adapter import adapter_base, check_adapters_of
from editcaption_mega.data.text.side_files import is_peft_folder
from editcaption_mega.model import Architecture
from editcaption_mega.settings import JobSettings, ModelSettings, SettingsError

BASE_WEIGHTS = "base_weights"  # part of the identity of a run of adapters: the digest of what they are on


def chosen_adapters(settings: JobSettings, architecture: Architecture) -> AdapterChoice | None:
    """The adapters that the settings ask for. Raises SettingsError."""
    frozen = tuple(module for module, factor in settings.optimizer.multipliers().items() if not factor)
    return AdapterChoice.of(architecture, settings.model.adapters, frozen=frozen, precision=settings.training.precision)


def base_identity(base: WeightSource) -> dict[str, str]:
    """What a resumed run of adapters must find as it was besides: the weights that they are on. Collective."""
    return {BASE_WEIGHTS: platform.from_rank_zero(base.digest)}


def adapter_metadata(model: ModelSettings, base: dict[str, str]) -> dict[str, Any]:
    """What a checkpoint of adapters says of them, for who exports it."""
    adapters = model.adapters
    return {
        "adapters": {
            "rank": adapters.rank, "alpha": adapters.alpha, "rslora": adapters.rslora, "dropout": adapters.dropout,
            "dora": adapters.dora, "modules": adapters.modules, "experts": adapters.experts,
            "base": model.checkpoint or model.folder, **base,
        }
    }  # fmt: skip


def check_start(choice: AdapterChoice, base: dict[str, str]) -> None:
    """Raises ValueError for a `model.adapters.start` without adapters, with those of other weights, or with others than
    the settings ask for. base: `base_identity`."""
    start = choice.settings.start
    if not start:
        return
    try:
        name, weights = adapter_base(start)
    except ValueError as error:
        raise SettingsError(f"model.adapters.start={start} cannot be started from: {error}") from error
    if weights and weights != base[BASE_WEIGHTS]:
        raise ValueError(
            f"the adapters of model.adapters.start={start} were trained on the weights of {name} ({weights[:12]}), and "
            f"this job's are others ({base[BASE_WEIGHTS][:12]}): name those as model.folder or model.checkpoint"
        )
    if is_peft_folder(start):
        check_peft_folder(Path(start), choice)
    else:
        check_adapters_of(find_checkpoint(start), choice)


def begin_step(chunks: Sequence[torch.nn.Module], step: int) -> None:
    """Before a step: what dropout draws depends on its number."""
    plan = get_model_config(chunks[0]).adapters
    if plan is not None:
        plan.switch.step = step


def adapters_off(chunks: Sequence[torch.nn.Module]) -> AbstractContextManager[None]:
    """A block in which the model is the base alone."""
    plan = get_model_config(chunks[0]).adapters
    off: AbstractContextManager[None] = nullcontext() if plan is None else plan.switch.off()
    return off


def freeze_weights(chunks: Sequence[torch.nn.Module], choice: AdapterChoice) -> list[ParamShard]:
    """Give no gradient to anything but the adapters -> their shards."""
    shards = local_param_shards(list(chunks), choice.rules)
    for chunk in chunks:
        chunk.requires_grad_(False)
    for shard in shards:
        shard.parameter.requires_grad_(True)
    return shards


def train_adapters_alone(
    chunks: list[torch.nn.Module], choice: AdapterChoice, *, seed: int, checkpoint: Path | None
) -> list[ParamShard]:
    """Freeze the weights, and begin the adapters: those of the run's checkpoint, of `model.adapters.start`, or new ones
    -> their shards. Collective; before data-parallel wrapping, after the weights have been read. Raises ValueError."""
    shards, start = freeze_weights(chunks, choice), choice.settings.start
    if checkpoint is not None:
        load_adapters(shards, choice, checkpoint)
    elif not start:
        begin_adapters(chunks, shards, seed)
    elif is_peft_folder(start):
        with platform.together():
            values = read_peft_folder(Path(start), choice)
        place_adapters(shards, values)
    else:
        load_adapters(shards, choice, platform.from_rank_zero(lambda: find_checkpoint(start)))
    return shards
