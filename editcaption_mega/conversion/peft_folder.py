"""Adapters in PEFT's form: adapter_config.json and adapter_model.safetensors, which `peft` and vLLM load.

Linear layers are PEFT's `target_modules`; experts and routers, which are parameters in transformers, its
`target_parameters`. A parameter with experts has A as [experts r, in] and B as [out, r experts]. Of two on one module
PEFT wraps the first around the module and the second around that, and names of the first say `base_layer`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editcaption_mega.data.text.side_files import ADAPTER_BASE, ADAPTER_CONFIG
from editcaption_mega.files import write_atomically
from editcaption_mega.model import Architecture
from editcaption_mega.settings import AdapterSettings
from editcaption_mega.words import one_line

from .adapter_table import AdapterChoice, AdapterTarget, adapter_table
from .peft_config import read_peft_config
from .rules import Rule, Shape
from .tensor_file import write_tensors

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_BASE_WEIGHTS = "editcaption_base_weights"  # in the header of the tensors
_PARTS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def write_peft_folder(
    output: Path, choice: AdapterChoice, values: dict[str, Tensor], base: str, base_weights: str = ""
) -> None:
    """values: whole parameters by name, in the canonical form. base: name or path of the base model; base_weights: the
    digest of its weights. Raises OSError."""
    output.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: _to_peft(target, rule, values[rule.name], choice.settings).contiguous()
        for name, (target, rule) in _rules(choice).items()
    }
    about = {_BASE_WEIGHTS: base_weights} if base_weights else {}
    write_tensors(output / WEIGHTS_FILE, tensors, {"format": "pt"} | about)
    write_atomically(output / ADAPTER_CONFIG, json.dumps(_config(choice, base), indent=2) + "\n")


def base_weights_of(folder: Path) -> str:
    """The digest of the weights that the adapters of a folder were trained on; "" where it does not say that."""
    with _tensors(folder) as file:
        return str((file.metadata() or {}).get(_BASE_WEIGHTS, ""))


def read_peft_settings(folder: Path, architecture: Architecture) -> tuple[AdapterSettings, str]:
    """Under which settings the adapters of a folder are read, and its name of the base model. Raises ValueError.

    Experts count as having an adapter each; those that share one have equal ones."""
    config, names = read_peft_config(folder), set(_shapes(folder))
    parameters = config.get("target_parameters") or []
    modules = []
    for target in adapter_table(architecture):
        module = target.name.rpartition(".")[0]
        if target.of_experts:
            there = any(target.name.endswith(parameter) for parameter in parameters)
            there = there and any(name.startswith(f"{_PREFIX}{module}.") for name in names)
        else:
            there = any(f"{_PREFIX}{target.name}.{part}" in names for part in _PARTS.values())
        if there:
            modules.append(target.name)
    if not modules:
        raise ValueError(f"{folder} has no adapter on a module of this model: it is of another model")
    settings = AdapterSettings(
        rank=config["r"], alpha=float(config["lora_alpha"]), rslora=bool(config.get("use_rslora")),
        dropout=float(config.get("lora_dropout") or 0), dora=bool(config.get("use_dora")), modules=modules,
    )  # fmt: skip
    choice = AdapterChoice.of(architecture, settings)
    assert choice is not None
    expected, whole = set(_rules(choice)), f"it is of another model, or not what {WEIGHTS_FILE} was when it was saved"
    if lacking := expected - names:
        raise ValueError(f"{folder} lacks {min(lacking)}, a part of an adapter that it has: {whole}")
    if foreign := names - expected:
        raise ValueError(
            f"{folder} has {len(foreign)} tensors that are no adapters of this model, first {min(foreign)}: {whole}"
        )
    return settings, str(config.get(ADAPTER_BASE) or "")


def check_peft_folder(folder: Path, choice: AdapterChoice) -> None:
    """Raises ValueError for adapters other than those of `choice`: another rank or scale, other modules or shapes."""
    config, shapes, settings = read_peft_config(folder), _shapes(folder), choice.settings
    there = [config["r"], float(config["lora_alpha"]), bool(config.get("use_rslora")), bool(config.get("use_dora"))]
    asked = [settings.rank, settings.alpha, settings.rslora, settings.dora]
    if there != asked:
        raise ValueError(
            f"{folder / ADAPTER_CONFIG} has r, lora_alpha, use_rslora, use_dora = {there}, and model.adapters.rank, "
            f"alpha, rslora, dora are {asked}: set these alike"
        )
    rules = _rules(choice)
    for name, (target, rule) in rules.items():
        if name not in shapes:
            raise ValueError(
                f"{folder} has no adapter on {target.name} (it lacks {name}): let model.adapters.modules match "
                "what it has"
            )
        expected = list(_to_peft(target, rule, torch.empty(rule.shape, device="meta"), settings).shape)
        if shapes[name] != expected:
            raise ValueError(
                f"{folder}: the adapter on {target.name} has a tensor of shape {shapes[name]}, and this model asks "
                f"for {expected}: it is of another model, or of experts that are stored in another form"
            )
    if foreign := shapes.keys() - rules.keys():
        raise ValueError(
            f"{folder} has {len(foreign)} tensors that model.adapters.modules does not match, first {min(foreign)}: "
            "let it match them"
        )


def read_peft_folder(folder: Path, choice: AdapterChoice) -> dict[str, Tensor]:
    """Whole parameters by name, in the canonical form. Raises ValueError for adapters other than those of `choice`,
    and for values that are no numbers."""
    check_peft_folder(folder, choice)
    values = {}
    with _tensors(folder) as file:
        for name, (target, rule) in _rules(choice).items():
            tensor = file.get_tensor(name)
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                of = f"of {tensor.dtype}" if not tensor.is_floating_point() else "with NaN or infinity in it"
                raise ValueError(
                    f"{folder / WEIGHTS_FILE} has {name} {of}, expected finite numbers (fp32, bf16, fp16): its "
                    "training went wrong, or the file is damaged"
                )
            values[rule.name] = _from_peft(target, rule, tensor, choice.settings, folder)
    return values


def _rules(choice: AdapterChoice) -> dict[str, tuple[AdapterTarget, Rule]]:
    """What each tensor of a folder is of."""
    return {
        _tensor_name(target, rule, choice): (target, rule)
        for target in choice.targets
        for rule in target.rules(choice.settings)
    }


def _config(choice: AdapterChoice, base: str) -> dict[str, Any]:
    """What adapter_config.json says."""
    settings = choice.settings
    of_parameters = [target for target in choice.targets if target.of_experts or target.of_router]
    alpha = settings.alpha
    return {
        "peft_type": "LORA",
        "task_type": None,
        ADAPTER_BASE: base,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": [target.name for target in choice.targets if target not in of_parameters],
        "target_parameters": [f"{t.name}.weight" if t.of_router else t.name for t in of_parameters] or None,
    }


@contextmanager
def _tensors(folder: Path) -> Iterator[Any]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = (folder / _PICKLED).is_file()
        mend = f"{_PICKLED} can run code and is not read: save it as safetensors" if pickled else "copy it there"
        raise ValueError(f"{folder} has no {WEIGHTS_FILE} beside {ADAPTER_CONFIG}: {mend}")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cannot be read: {one_line(str(error))}") from None


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Of every tensor by name; none is read."""
    with _tensors(folder) as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no dict)


def _tensor_name(target: AdapterTarget, rule: Rule, choice: AdapterChoice) -> str:
    part = _PARTS[rule.name.rpartition(".")[2]]
    if not target.of_experts:
        return f"{_PREFIX}{target.name}.{part}"
    module = target.name.rpartition(".")[0]
    on_module = [other for other in choice.targets if other.of_experts and other.name.rpartition(".")[0] == module]
    inner = ".base_layer" if len(on_module) > 1 and target == on_module[0] else ""
    return f"{_PREFIX}{module}{inner}.{part}"


def _of_each(target: AdapterTarget, rule: Rule, settings: AdapterSettings) -> Shape:
    """The shape of a parameter where each expert has its own."""
    return (target.rule.shape[0], *rule.shape) if target.of_experts and settings.experts == "shared" else rule.shape


def _to_peft(target: AdapterTarget, rule: Rule, values: Tensor, settings: AdapterSettings) -> Tensor:
    """A whole parameter in PEFT's form; experts that share one have copies."""
    if target.of_experts:
        values = values.expand(_of_each(target, rule, settings))
        if rule.name.endswith("lora_A"):
            return values.flatten(0, 1)
        return values.flatten(1, -2).permute(1, 2, 0).flatten(1)
    if rule.name.endswith("magnitude"):
        return values.flatten()
    return values if rule.name.endswith("lora_A") else values.flatten(0, -2)


def _from_peft(target: AdapterTarget, rule: Rule, values: Tensor, settings: AdapterSettings, folder: Path) -> Tensor:
    """The inverse. Raises ValueError for experts that are to share one and have others."""
    if not target.of_experts:
        return values.reshape(rule.shape)
    each, experts = _of_each(target, rule, settings), target.rule.shape[0]
    if not rule.name.endswith("lora_A"):
        values = values.unflatten(1, (settings.rank, experts)).permute(2, 0, 1)
    values = values.reshape(each).contiguous()
    if settings.experts == "each":
        return values
    if not all(torch.equal(values[0], other) for other in values[1:]):
        raise ValueError(
            f"{folder}: the experts of {target.name} have different adapters, and model.adapters.experts=shared asks "
            "for one: set it to each"
        )
    return values[0].clone()
