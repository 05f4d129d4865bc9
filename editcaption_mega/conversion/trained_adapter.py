"""Trained adapters, of a checkpoint or a PEFT folder, whole, and the weights that they are on with them in it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.data.text.side_files import ADAPTER_BASE, ADAPTER_CONFIG, is_peft_folder, named_base
from editcaption_mega.files import read_json_object
from editcaption_mega.model import ADAPTERS, Architecture
from editcaption_mega.settings import AdapterSettings, SettingsError

from .adapter_table import AdapterChoice, AdapterTarget
from .checkpoint_folders import checkpoints, find_checkpoint
from .jobs import Read
from .manifest import MANIFEST, read_manifest
from .peft_folder import WEIGHTS_FILE, base_weights_of, read_peft_folder, read_peft_settings
from .rules import Box, Rule
from .store import WEIGHTS, StoreReader
from .weights_digest import weights_digest


def has_adapters(path: Path) -> bool:
    """Whether it is a PEFT folder, or a checkpoint or run whose newest one has adapters and not weights."""
    if is_peft_folder(path):
        return True
    newest = [path] if (path / MANIFEST).is_file() else checkpoints(path)[-1:]
    return any(ADAPTERS in key for checkpoint in newest for key in read_manifest(checkpoint).tensors)


@dataclasses.dataclass(frozen=True, eq=False)  # two that were opened are two
class TrainedAdapter:
    """Adapters with their parameters whole."""

    path: Path  # the checkpoint or PEFT folder
    choice: AdapterChoice
    values: Mapping[str, Tensor]  # by name, in the canonical form
    base: str  # name or path of the model that they are on, as far as they say it
    base_weights: str = ""  # its digest (`WeightSource.digest`); "": not known

    @classmethod
    def open(cls, path: Path, architecture: Architecture | None = None) -> "TrainedAdapter":
        """architecture: of the base; None: the one beside a checkpoint. Raises ValueError."""
        if is_peft_folder(path):
            if architecture is None:
                raise SettingsError(f"{path} is a PEFT folder: name the model that its adapters are on with --base")
            settings, base = read_peft_settings(path, architecture)
            choice = AdapterChoice.of(architecture, settings)
            assert choice is not None
            return cls(path, choice, read_peft_folder(path, choice), base, base_weights_of(path))
        checkpoint = find_checkpoint(path)
        store = StoreReader(checkpoint)
        of_run = _of_run(store)
        if architecture is None:
            architecture = Architecture.from_folder(checkpoint / "hf")
        names = {field.name for field in dataclasses.fields(AdapterSettings)}
        settings = AdapterSettings(**{name: value for name, value in of_run.items() if name in names})
        choice = AdapterChoice.of(architecture, settings)
        assert choice is not None
        values = {rule.name: _whole(store, rule, checkpoint) for rule in choice.rules.values()}
        return cls(checkpoint, choice, values, of_run["base"], of_run["base_weights"])

    def check_base(self, base: Path) -> None:
        """Raises ValueError for a folder or checkpoint of other weights than those they were trained on."""
        check_base_weights(self.path, self.base, self.base_weights, base)

    def digest(self) -> str:
        """Of the file that changes with the adapters."""
        name = WEIGHTS_FILE if is_peft_folder(self.path) else MANIFEST
        return hashlib.sha256((self.path / name).read_bytes()).hexdigest()


def check_base_weights(adapter: Path, trained_on: str, weights: str, base: Path) -> None:
    """weights: the digest of those that the adapters were trained on; "": not known. Raises ValueError for another
    base."""
    if weights and (digest := weights_digest(base)) != weights:
        raise ValueError(
            f"{adapter} was trained on the weights of {trained_on} ({weights[:12]}), and {base} has others "
            f"({digest[:12]}): name the model that it was trained on"
        )


def adapter_base(path: str | Path) -> tuple[str, str]:
    """Of a run, checkpoint or PEFT folder with adapters: name and digest of the model that they are on, as far as they
    are said. Raises ValueError for one without adapters."""
    if is_peft_folder(path):
        name = read_json_object(Path(path) / ADAPTER_CONFIG).get(ADAPTER_BASE)
        return str(name or ""), base_weights_of(Path(path))
    of_run = _of_run(StoreReader(find_checkpoint(path)))
    return of_run["base"], of_run["base_weights"]


def base_folder(peft_folder: Path) -> Path:
    """The weights that a PEFT folder names. Raises SettingsError where they are not here."""
    try:
        return named_base(peft_folder)
    except ValueError as error:
        raise SettingsError(f"{error}, or name it with --base") from error


def check_adapters_of(checkpoint: Path, choice: AdapterChoice) -> None:
    """Raises ValueError for a checkpoint whose adapters are others than those of `choice`: of another rank or scale, or
    on other modules."""
    store = StoreReader(checkpoint)
    of_run, settings = _of_run(store), choice.settings
    names = ("rank", "alpha", "rslora", "dora", "experts")
    if different := [name for name in names if of_run[name] != getattr(settings, name)]:
        was = ", ".join(f"model.adapters.{name}={of_run[name]}" for name in different)
        now = ", ".join(f"{name}={getattr(settings, name)}" for name in different)
        raise ValueError(f"{checkpoint} was trained with {was}, and this job has {now}: set these alike")
    there = {key.removeprefix(WEIGHTS) for key in store.tensors if key.startswith(WEIGHTS)}
    if there != choice.rules.keys():
        lacking, more = choice.rules.keys() - there, there - choice.rules.keys()
        ends = f"lacks {min(lacking)}" if lacking else f"has {min(more)}, too"
        raise ValueError(
            f"{checkpoint} has adapters on other modules than model.adapters.modules matches: it {ends}; take the "
            f"modules that it was trained with ({', '.join(of_run['modules'])})"
        )


def _of_run(store: StoreReader) -> dict[str, Any]:
    """What a checkpoint says of its adapters (`training.adapter_state.adapter_metadata`)."""
    said: Any = store.metadata.get("adapters")
    if said is None:
        raise SettingsError(
            f"{store.folder} holds weights and no adapters: name a run with model.adapters.rank above 0, or convert it "
            "without --adapter and --base"
        )
    checked: dict[str, Any] = said
    return checked


def _whole(store: StoreReader, rule: Rule, checkpoint: Path) -> Tensor:
    key = WEIGHTS + rule.name
    if key not in store.tensors or store.shape(key) != rule.shape:
        raise ValueError(f"{checkpoint} lacks {rule.name} of shape {list(rule.shape)}: it is of another model")
    return store.read(key)


def merged(read: Read, adapter: TrainedAdapter) -> Read:
    """Reads weights with the adapters in them, added in fp32 and rounded once. read: of the weights alone."""
    by_rule: dict[str, list[AdapterTarget]] = {}
    for target in adapter.choice.targets:
        by_rule.setdefault(target.rule.name, []).append(target)

    def read_merged(rule: Rule, part: Box) -> Tensor:
        if rule.name not in by_rule:
            return read(rule, part)
        box = Box((*part.start[:-1], 0), (*part.shape[:-1], rule.shape[-1]))  # DoRA's magnitudes are of whole rows
        weights = read(rule, box)
        sums = weights.float().clone()
        for target in by_rule[rule.name]:
            whole = Box.whole(rule.shape) if target.of_experts else target.piece.box
            common = whole.intersect(box)
            if common is not None:
                region = common.within(box)
                own = Box(tuple(s - o for s, o in zip(common.start, whole.start, strict=True)), common.shape)
                sums[region] = adapted_rows(target, adapter, sums[region], own)
        return sums[part.within(box)].to(weights.dtype)

    return read_merged


def adapted_rows(target: AdapterTarget, adapter: TrainedAdapter, weights: Tensor, box: Box) -> Tensor:
    """Rows of a module's weight with its adapter in them. box: of the module's weight, with all columns."""
    settings = adapter.choice.settings
    a, b = (adapter.values[f"{target.prefix}lora_{which}"].float() for which in "AB")
    assert box.start[-1] == 0 and box.shape[-1] == a.size(-1), "rows are never divided"
    *rows, _ = (slice(s, s + n) for s, n in zip(box.start, box.shape, strict=True))
    if target.of_experts and settings.experts == "shared":
        added = (b[tuple(rows[1:])] @ a).expand(weights.shape)
    elif target.of_experts:
        of_experts = a[rows[0]]
        while of_experts.dim() < b.dim():
            of_experts = of_experts.unsqueeze(1)
        added = b[tuple(rows)] @ of_experts
    else:
        added = b[tuple(rows)] @ a
    total: Tensor = weights + settings.scale * added
    if not settings.dora:
        return total
    magnitude = adapter.values[f"{target.prefix}magnitude"].float()[tuple(rows)]
    directed: Tensor = total * (magnitude / torch.linalg.norm(total, dim=-1))[..., None]
    return directed
