"""adapter_config.json of a PEFT folder, read strictly: whatever changes an adapter's result and is not computed here is
refused.

Fields of peft 0.21's `LoraConfig`. One of a later version that is not known here must be empty: whether it changes a
result cannot be said."""

import math
from pathlib import Path
from typing import Any

from editcaption_mega.data.text.side_files import ADAPTER_CONFIG
from editcaption_mega.files import read_json_object

# What changes a result, or which tensors there are, and has no place here: it must be this, or not be there.
_PLAIN: dict[str, Any] = {
    "bias": "none", "fan_in_fan_out": False, "lora_bias": False, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layer_replication": None, "use_qalora": False, "trainable_token_indices": None,
    "alora_invocation_tokens": None, "use_bdlora": None, "arrow_config": None, "kasa_config": None,
    "monteclora_config": None,
}  # fmt: skip
_USED = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_parameters",
    "base_model_name_or_path", "init_lora_weights",
)  # fmt: skip
# Which modules have adapters the tensors say; the rest is of how they were begun and trained.
_WITHOUT_EFFECT = (
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
)  # fmt: skip
# Ways to begin that leave the base's weights as they are. The others (pissa, olora, corda, loftq, lora_ga, ..) change
# them, and peft changes them again when it loads the folder.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


def read_peft_config(folder: Path) -> dict[str, Any]:
    """The object in adapter_config.json, with a rank, a scale and switches of their types. Raises ValueError."""
    path = folder / ADAPTER_CONFIG
    config = read_json_object(path)
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{path} is not of LoRA (peft_type {config.get('peft_type')!r:.40}): other adapters cannot be used here"
        )
    _check_numbers(path, config)
    for name, plain in _PLAIN.items():
        if (config.get(name) or None) != (plain or None):
            raise ValueError(f"{path} has {name}={config[name]!r:.100}, which cannot be used here: expected {plain!r}")
    begun = config.get("init_lora_weights", True)
    if not any(begun is way or (isinstance(way, str) and begun == way) for way in _BEGINNINGS):
        raise ValueError(
            f"{path} has init_lora_weights={begun!r:.40}, which changes the weights that the adapters are on: convert "
            "them to plain LoRA (path_initial_model_for_weight_conversion of peft's save_pretrained)"
        )
    known = (*_PLAIN, *_USED, *_WITHOUT_EFFECT)
    for name, value in config.items():
        if name not in known and value not in (None, False, {}, []):
            raise ValueError(
                f"{path} has {name}={value!r:.100}, which is not known here and may change the adapters' result: take "
                "it out if it does not"
            )
    return config


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    dropout: Any = config.get("lora_dropout") or 0
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{path} has r={rank!r:.40}: expected the rank, a whole number from 1 on")
    if not _is_number(alpha) or not 0 < alpha < math.inf:
        raise ValueError(f"{path} has lora_alpha={alpha!r:.40}: expected a number above 0")
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise ValueError(f"{path} has lora_dropout={dropout!r:.40}: expected a number from 0 to below 1")
    for name in ("use_rslora", "use_dora"):
        if not isinstance(config.get(name), bool | None):
            raise ValueError(f"{path} has {name}={config[name]!r:.40}: expected true or false")
    parameters = config.get("target_parameters")
    if not isinstance(parameters, list | None) or not all(isinstance(name, str) for name in parameters or []):
        raise ValueError(f"{path} has target_parameters={parameters!r:.60}: expected a list of names")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
