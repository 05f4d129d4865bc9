"""What a resumed run must find as it was, part by part, and what else changed since its checkpoint.

Every setting has its place here: it is the same (`FIXED`, the frozen modules, and what the fingerprints of files
cover), or it may change and a line says so. May change: rates and the schedule (learning rates, their multipliers,
warm-up, decay, clipping, steps), and what changes how a step is computed but not of what (layout, backend, packing and
row length, recomputation, threads, intervals). Refused: what changes tokens, order or loss; the precision, because a
bf16 run's fp32 weights are not those that an fp32 run reads; a module that was trained and is to be frozen. A frozen
one may be thawed: a checkpoint has no moments of it, so they begin at zero.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.model import Architecture
from editcaption_mega.settings import AdapterSettings, JobSettings, SettingsError

FIXED = (
    *(f"model.adapters.{field.name}" for field in dataclasses.fields(AdapterSettings) if field.name != "start"),
    "data.held_out_seed",
    "data.held_out_share",
    "data.max_samples",
    "data.shuffle",
    "data.shuffle_block",
    "data.weights",
    "model.router_aux_loss",
    "preference.beta",
    "preference.detail_weight",
    "preference.hardness_margin",
    "preference.label_smoothing",
    "preference.loss",
    "preference.margin",
    "preference.nll_weight",
    "preference.orientation_weight",
    "preference.severity_margin",
    "preference.viewpoint_weight",
    "training.global_batch_size",
    "training.precision",
    "training.seed",
)

_FROZEN, _TRAINED = "frozen", "trained"  # what the identity says of a module

# With a load-balancing loss, which is taken row by row, these are part of the loss.
FIXED_WITH_ROUTER_LOSS = ("data.packing", "data.sequence_length")

# What a version that did not have these settings yet did: its checkpoints say nothing of them.
BEFORE: dict[str, Any] = {
    "data.held_out_seed": 0, "data.held_out_share": 0.0,
    "data.id_prefixes": [], "data.max_samples": 0, "data.shuffle_block": 0, "data.weights": [],
    **{f"model.adapters.{name}": value for name, value in dataclasses.asdict(AdapterSettings()).items()},
    "optimizer.decay_form": "linear", "optimizer.decay_ratio": None, "optimizer.decay_steps": None,
    "optimizer.schedule": "cosine", "optimizer.warmup_ratio": 0.0,
}  # fmt: skip

# The settings behind a part that is a fingerprint of files.
_FILES = {
    "architecture": "config.json of model.folder",
    "base_weights": "the weights of model.folder or model.checkpoint",
    "shards": "data.shards, data.id_prefixes, data.held_out_share and data.max_samples",
    "prompt": "data.prompt",
    "tokenizer": "model.folder",
    "chat_template": "model.folder",
    "pictures": "data.min_pixels, data.max_pixels and the image processor of model.folder",
    "reference_weights": "reference.checkpoint",
}


def flat(settings: Any) -> dict[str, Any]:
    """Settings by their dotted names."""
    values = settings if isinstance(settings, dict) else dataclasses.asdict(settings)
    names: dict[str, Any] = {}
    for section, part in values.items():
        for name, value in part.items() if isinstance(part, dict) else ():
            inside = {f"{section}.{name}.{inner}": each for inner, each in value.items()} if _is_section(value) else {}
            names |= inside or {f"{section}.{name}": value}
    return names


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def identity(settings: JobSettings, dataset: PairDataset, architecture: Architecture, objective: str) -> dict[str, Any]:
    """The parts that must be the same, by name; an objective adds its own later (`reference_weights`)."""
    values = flat(settings)
    fixed = FIXED + (FIXED_WITH_ROUTER_LOSS if settings.model.router_aux_loss else ())
    frozen = {
        f"optimizer.{module}": _TRAINED if factor else _FROZEN
        for module, factor in settings.optimizer.multipliers().items()
    }
    shape = [getattr(architecture, field.name) for field in dataclasses.fields(architecture) if field.compare]
    files = {"architecture": hashlib.sha256(repr(shape).encode()).hexdigest(), **dataset.fingerprints}
    return {"objective": objective, **files, **{name: values[name] for name in fixed if name in values}, **frozen}


def recorded_identity(state: dict[str, Any]) -> dict[str, Any]:
    """The parts that a checkpoint's state.json holds; few in one of an earlier version."""
    implied = {name: value for name, value in BEFORE.items() if name in FIXED}
    if "identity" in state:
        recorded: dict[str, Any] = implied | state["identity"]
        return recorded
    old = implied | {f"training.{name}": state[name] for name in ("seed", "global_batch_size") if name in state}
    old |= {name: state[name] for name in ("objective", "reference_weights") if name in state}
    preference = {f"preference.{name}": value for name, value in state.get("preference", {}).items()}
    return old | {name: value for name, value in preference.items() if name in FIXED}


def thawed(state: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    """Modules that the job trains and the checkpoint's job did not, which has no moments of them."""
    recorded = recorded_identity(state)
    return [
        name.removeprefix("optimizer.")
        for name, value in parts.items()
        if name.startswith("optimizer.") and value == _TRAINED and recorded.get(name) == _FROZEN
    ]


def check_identity(checkpoint: Path, state: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    """Raises SettingsError that names every part in which the checkpoint's job was another one -> the parts that the
    checkpoint, of an earlier version, says nothing of."""
    recorded = recorded_identity(state)
    different = [name for name, value in parts.items() if name in recorded and recorded[name] != value]
    different = [name for name in different if name.removeprefix("optimizer.") not in thawed(state, parts)]
    if different:
        was = ", ".join(f"{name}={_short(recorded[name])}" for name in different)
        now = ", ".join(f"{name}={_short(parts[name])}" for name in different)
        behind = [f"{name} comes from {_FILES[name]}" for name in different if name in _FILES]
        anew = "model.adapters.start to start anew from its adapters"
        if not recorded.get("model.adapters.rank"):
            anew = "model.checkpoint to start anew from its weights"
        raise SettingsError(
            f"{checkpoint} was trained with {was}, this job has {now}: an exact resume needs the same"
            + (f" ({'; '.join(behind)})" if behind else "")
            + f"; use another output folder, and {anew}"
        )
    return [name for name in parts if name not in recorded]


def changes(output: Path, state: dict[str, Any], settings: JobSettings) -> list[str]:
    """One line for each setting that is not what it was when the checkpoint was written."""
    step, now = state["step"], flat(settings)
    was = state.get("settings") or _settings_of(output / "config.yaml")
    if was is None:
        return [f"the checkpoint of step {step} does not say its settings, so what changed since is not known"]
    was = BEFORE | was
    return [
        f"{name}: {was[name]} -> {value} from step {step}"
        for name, value in now.items()
        if name in was and was[name] != value
    ]


def _settings_of(path: Path) -> dict[str, Any] | None:
    try:
        return flat(OmegaConf.to_container(OmegaConf.load(path)))
    except (OSError, OmegaConfBaseException, ValueError, AttributeError):
        return None


def _short(value: Any) -> str:
    """A fingerprint's first digits; anything else as it is."""
    text = str(value)
    return text[:12] if len(text) >= 32 and set(text) <= set("0123456789abcdef") else text
